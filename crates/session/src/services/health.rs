//! `grpc.health.v1.Health`: the daemon's question whether the tunnel is alive.

use cofferdam_wire::grpc::health::v1::health_check_response::ServingStatus;
use cofferdam_wire::grpc::health::v1::{Health, HealthCheckRequest, HealthCheckResponse};
use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};

pub(super) struct HealthService;

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
        Err(ConnectError::unimplemented("health is checked, not watched"))
    }
}
