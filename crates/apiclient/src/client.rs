//! The client itself: one connection, one token, the generated clients of the services.

use std::fmt;
use std::time::Duration;

use cofferdam_wire::cofferdam::server::v1::{
    BuildServiceClient as ServerBuilds, ProjectServiceClient as Settings,
};
use cofferdam_wire::depot::build::v1::{BuildServiceClient as Steps, RegistryServiceClient};
use cofferdam_wire::depot::cli::v1::BuildServiceClient as Runs;
use cofferdam_wire::depot::cli::v1beta1::LoginServiceClient;
use cofferdam_wire::depot::core::v1::{
    BuildServiceClient as Builds, OrganizationServiceClient, ProjectServiceClient,
    UsageServiceClient,
};
use connectrpc::ConnectError;
use connectrpc::client::{CallOptions, ClientConfig};
use http::HeaderValue;
use http::header::{AUTHORIZATION, USER_AGENT};

use crate::error::ApiError;
use crate::transport::{Transport, transport};
use crate::url::ServerUrl;

/// Most that an ordinary call may take: lists are answered in milliseconds, and nothing here waits for work to be done.
const CALL: Duration = Duration::from_secs(30);

/// Largest answer: 10,000 lines of a log, each as long as a terminal's longest.
const MAX_ANSWER: usize = 64 << 20;

/// A client of one server; cheap to clone, one connection for everything.
#[derive(Clone)]
pub struct ApiClient {
    server: ServerUrl,
    transport: Transport,
    config: ClientConfig,
}

impl ApiClient {
    /// A client that shows `token` with every call. To be made within a tokio runtime; connects at the first call.
    ///
    /// # Errors
    /// A token that cannot be sent, or a machine without certificate authorities for an `https://` server.
    pub fn new(server: &ServerUrl, token: Option<&str>) -> Result<Self, ApiError> {
        let client = Self {
            server: server.clone(),
            transport: transport(server)?,
            config: config(server, token)?,
        };
        Ok(client)
    }

    /// The same connection with another token.
    ///
    /// # Errors
    /// A token that cannot be sent.
    pub fn with_token(&self, token: &str) -> Result<Self, ApiError> {
        let config = config(&self.server, Some(token))?;
        Ok(Self { server: self.server.clone(), transport: self.transport.clone(), config })
    }

    /// Whom this client talks to.
    #[must_use]
    pub const fn server(&self) -> &ServerUrl {
        &self.server
    }

    pub(crate) fn failed(&self, error: ConnectError) -> ApiError {
        ApiError::from_call(self.server.as_str(), error)
    }

    /// Settings of a call that is answered at once.
    pub(crate) fn quick() -> CallOptions {
        CallOptions::default().with_timeout(CALL)
    }

    /// Settings of a call that may wait for a person.
    pub(crate) fn patient() -> CallOptions {
        CallOptions::default()
    }

    pub(crate) fn project_service(&self) -> ProjectServiceClient<Transport> {
        ProjectServiceClient::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn build_service(&self) -> Builds<Transport> {
        Builds::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn step_service(&self) -> Steps<Transport> {
        Steps::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn run_service(&self) -> Runs<Transport> {
        Runs::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn server_service(&self) -> ServerBuilds<Transport> {
        ServerBuilds::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn settings_service(&self) -> Settings<Transport> {
        Settings::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn image_service(&self) -> RegistryServiceClient<Transport> {
        RegistryServiceClient::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn usage_service(&self) -> UsageServiceClient<Transport> {
        UsageServiceClient::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn organization_service(&self) -> OrganizationServiceClient<Transport> {
        OrganizationServiceClient::new(self.transport.clone(), self.config.clone())
    }

    pub(crate) fn login_service(&self) -> LoginServiceClient<Transport> {
        LoginServiceClient::new(self.transport.clone(), self.config.clone())
    }
}

fn config(server: &ServerUrl, token: Option<&str>) -> Result<ClientConfig, ApiError> {
    let agent = concat!("cofferdam/", env!("CARGO_PKG_VERSION"));
    let mut config = ClientConfig::new(server.uri())
        .with_default_max_message_size(MAX_ANSWER)
        .with_default_element_memory_limit(2 * MAX_ANSWER)
        .with_default_header(USER_AGENT, HeaderValue::from_static(agent));
    if let Some(token) = token {
        let mut value =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ApiError::Token)?;
        value.set_sensitive(true);
        config = config.with_default_header(AUTHORIZATION, value);
    }
    Ok(config)
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiClient").field("server", &self.server).finish_non_exhaustive()
    }
}
