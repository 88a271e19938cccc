//! `cofferdam.builder.v1.BuilderService`: what the server asks. Served on the server's own connections and on no build's.

use std::sync::Arc;

use cofferdam_wire::cofferdam::builder::v1 as wire;
use cofferdam_wire::cofferdam::builder::v1::BuilderService;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};

use super::watch;
use crate::blocking::blocking;
use crate::builder::Builder;
use crate::failure::Failure;

/// The service over a builder.
pub(crate) struct ServerService {
    builder: Arc<Builder>,
}

impl ServerService {
    /// The service of `builder`.
    pub(crate) const fn new(builder: Arc<Builder>) -> Self {
        Self { builder }
    }
}

impl BuilderService for ServerService {
    async fn watch_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::WatchBuildRequest>,
    ) -> ServiceResult<ServiceStream<wire::WatchBuildResponse>> {
        let build = self.builder.served.open(&request.to_owned_message().build_id)?;
        Response::stream_ok(watch::events(&self.builder, &build))
    }

    async fn cancel_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::CancelBuildRequest>,
    ) -> ServiceResult<wire::CancelBuildResponse> {
        let request = request.to_owned_message();
        let reason = if request.reason.is_empty() { "context canceled" } else { &request.reason };
        self.builder.served.open(&request.build_id)?.cancel(reason);
        Response::ok(wire::CancelBuildResponse::default())
    }

    async fn close_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::CloseBuildRequest>,
    ) -> ServiceResult<wire::CloseBuildResponse> {
        self.builder.served.close(&request.to_owned_message().build_id);
        Response::ok(wire::CloseBuildResponse::default())
    }

    async fn get_usage(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::GetUsageRequest>,
    ) -> ServiceResult<wire::GetUsageResponse> {
        let store = Arc::clone(&self.builder.context.store);
        let disk = blocking(move || store.disk()).await?.map_err(Failure::store)?;
        let cache_bytes = disk.total();
        Response::ok(wire::GetUsageResponse { cache_bytes, ..Default::default() })
    }

    async fn collect(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::CollectRequest>,
    ) -> ServiceResult<wire::CollectResponse> {
        let request = request.to_owned_message();
        let garbage = &self.builder.context.garbage;
        let collected = garbage.collect(request.max_bytes, request.keep_seconds).await?;
        Response::ok(wire::CollectResponse {
            cache_bytes: collected.left,
            freed_bytes: collected.freed,
            ..Default::default()
        })
    }
}
