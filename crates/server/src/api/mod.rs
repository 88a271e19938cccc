//! The API's services. Each handler does the same four things: authorize, check the arguments, act, answer.
//!
//! Every handler asks [`Api::authorize`] first and believes nothing in a request that names a project, build or token before
//! it has been granted. What is foreign and what does not exist give the same answer.

mod build;
mod buildkit;
mod builds;
mod cli_build;
mod cli_push;
mod convert;
mod error;
mod login;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod matrix;
mod organization;
mod project;
mod projects_beta;
mod pull;
mod registry;
mod server;
mod settings;
mod tokens;
mod trust;
mod usage;

use std::sync::Arc;

use cofferdam_access::{Access, Action, Grant, Resource};
use cofferdam_records::Records;
use cofferdam_registry::Registry;
use connectrpc::{ConnectError, ConnectRpcService, Limits, RequestContext, Router};

pub(crate) use error::{denied, failed};
pub(crate) use login::Logins;

use crate::builds::Builds;
use crate::origin::Origin;

/// Largest request: a client's report of Dockerfiles and statuses stays far below.
const MAX_MESSAGE: usize = 8 << 20;

/// What all services share.
pub(crate) struct Api {
    /// The records.
    pub(crate) records: Records,
    /// Who may do what.
    pub(crate) access: Arc<Access>,
    /// The life of builds, and of what they run on.
    pub(crate) builds: Arc<Builds>,
    /// The registry's images.
    pub(crate) images: Registry,
    /// Logins that wait for their approval.
    pub(crate) logins: Arc<Logins>,
}

impl Api {
    /// The one way to find out whether a call may go on.
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied` or `not_found`, as the authorization function has it.
    pub(crate) async fn authorize(
        &self,
        context: &RequestContext,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<Grant, ConnectError> {
        let bearer = bearer(context);
        self.access.authorize(bearer, action, resource).await.map_err(denied)
    }
}

/// The token of a call; an empty one is none.
pub(crate) fn bearer(context: &RequestContext) -> Option<&str> {
    crate::origin::bearer(context.headers())
}

/// Where the caller finds this server.
pub(crate) fn origin(context: &RequestContext) -> Origin {
    context.extensions().get::<Origin>().cloned().unwrap_or_default()
}

/// All services behind one dispatcher.
pub(crate) fn service(api: &Arc<Api>) -> ConnectRpcService<Router> {
    let router = Router::new()
        .add_service(Arc::new(project::ProjectApi(Arc::clone(api))))
        .add_service(Arc::new(builds::BuildsApi(Arc::clone(api))))
        .add_service(Arc::new(organization::OrganizationApi(Arc::clone(api))))
        .add_service(Arc::new(usage::UsageApi(Arc::clone(api))))
        .add_service(Arc::new(build::BuildApi(Arc::clone(api))))
        .add_service(Arc::new(registry::RegistryApi(Arc::clone(api))))
        .add_service(Arc::new(buildkit::BuildKitApi(Arc::clone(api))))
        .add_service(Arc::new(cli_build::CliBuildApi(Arc::clone(api))))
        .add_service(Arc::new(cli_push::PushApi(Arc::clone(api))))
        .add_service(Arc::new(login::LoginApi(Arc::clone(api))))
        .add_service(Arc::new(projects_beta::ProjectsApi(Arc::clone(api))))
        .add_service(Arc::new(server::ServerApi(Arc::clone(api))))
        .add_service(Arc::new(settings::SettingsApi(Arc::clone(api))));
    let limits = Limits::default()
        .with_max_request_body_size(MAX_MESSAGE)
        .with_max_message_size(MAX_MESSAGE);
    ConnectRpcService::new(router).with_limits(limits).with_interceptor(crate::metrics::Calls)
}
