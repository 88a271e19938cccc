//! `grpc.health.v1.Health`: a builder that answers is healthy.

use cofferdam_wire::grpc::health::v1::{
    Health, HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;

/// The health service.
pub(crate) struct HealthService;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::SERVING.into(), ..HealthCheckResponse::default() }
}

impl Health for HealthService {
    async fn check(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, HealthCheckRequest>,
    ) -> ServiceResult<HealthCheckResponse> {
        Response::ok(serving())
    }

    async fn watch(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, HealthCheckRequest>,
    ) -> ServiceResult<ServiceStream<HealthCheckResponse>> {
        // The state never changes while the process lives, so the stream stays open.
        let first = futures::stream::once(async { Ok(serving()) });
        Response::stream_ok(first.chain(futures::stream::pending()))
    }
}
