//! `depot.cli.v1.PushService`: the `depot push` of a saved image.
//!
//! The client copies blobs through a service of Depot's whose address it does not let anybody change, so a push cannot come to
//! its end against another server. It is refused at its start, with what works instead, rather than half way.

use std::sync::Arc;

use cofferdam_access::{Action, Resource};
use cofferdam_wire::depot::cli::v1 as wire;
use cofferdam_wire::depot::cli::v1::PushService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

use super::Api;

/// The service.
pub(super) struct PushApi(pub(super) Arc<Api>);

impl PushService for PushApi {
    async fn start_push(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::StartPushRequest>,
    ) -> ServiceResult<wire::StartPushResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::PullToken, Resource::Build(&id)).await?;
        Err::<Response<wire::StartPushResponse>, _>(ConnectError::unimplemented(
            "depot push copies through a host that the client fixes: build with --push, or copy the saved image with \
             `skopeo copy` and the token of `depot pull-token`",
        ))
    }

    async fn finish_push(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::FinishPushRequest>,
    ) -> ServiceResult<wire::FinishPushResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::PullToken, Resource::Build(&id)).await?;
        Response::ok(wire::FinishPushResponse::default())
    }
}
