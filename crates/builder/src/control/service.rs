//! The service itself: each call checked, handed on, and its failure given a code.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_digest::Digest;
use cofferdam_graph::without_credentials;
use cofferdam_session::headers as session_headers;
use cofferdam_wire::moby::buildkit::v1 as wire;
use cofferdam_wire::moby::buildkit::v1::Control;
use connectrpc::{
    InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use http::{HeaderMap, HeaderValue};
use tracing::Instrument;

use super::{history, solve, status, usage};
use crate::builder::Builder;
use crate::failure::Failure;
use crate::history::TraceContext;
use crate::serving::Scope;

/// How long `Status` waits for its build: clients open both at the same time.
const STATUS_WAIT: Duration = Duration::from_secs(6);

/// The control API over a builder.
pub(crate) struct ControlService {
    builder: Arc<Builder>,
    scope: Scope,
}

impl ControlService {
    /// The API of `builder` for connections of `scope`.
    pub(crate) const fn new(builder: Arc<Builder>, scope: Scope) -> Self {
        Self { builder, scope }
    }
}

/// Headers of a session whose id is the one it has in this builder.
fn renamed(headers: &HeaderMap, scope: &Scope) -> Result<HeaderMap, Failure> {
    let mut headers = headers.clone();
    if let Some(id) = headers.get(session_headers::SESSION_ID).and_then(|id| id.to_str().ok()) {
        let name = HeaderValue::try_from(scope.name(id)).map_err(Failure::of)?;
        headers.insert(session_headers::SESSION_ID, name);
    }
    Ok(headers)
}

impl Control for ControlService {
    async fn disk_usage(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::DiskUsageRequest>,
    ) -> ServiceResult<wire::DiskUsageResponse> {
        let request = request.to_owned_message();
        Response::ok(usage::disk_usage(&self.builder.context, request).await?)
    }

    async fn prune(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::PruneRequest>,
    ) -> ServiceResult<ServiceStream<wire::UsageRecord>> {
        let gone = usage::prune(&self.builder.context, request.to_owned_message()).await?;
        Response::stream_ok(futures::stream::iter(gone.into_iter().map(Ok)))
    }

    async fn solve(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::SolveRequest>,
    ) -> ServiceResult<wire::SolveResponse> {
        let request = request.to_owned_message();
        let id = request.Ref.clone();
        let trace = TraceContext::of(context.headers(), self.scope.owner());
        let build = if self.scope.is_alone() { id.as_str() } else { self.scope.owner() };
        // Of the highest level, so that every message has it.
        let span = tracing::error_span!("solve", build);
        let solved = solve::solve(&self.builder, &self.scope, request, trace);
        match solved.instrument(span.clone()).await {
            Ok(response) => Response::ok(response),
            Err(failure) => {
                let reason = without_credentials(failure.message());
                span.in_scope(|| tracing::info!(solve = id, failure = %reason, "build failed"));
                Err(failure.into())
            }
        }
    }

    async fn status(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::StatusRequest>,
    ) -> ServiceResult<ServiceStream<wire::StatusResponse>> {
        let reference = request.to_owned_message().Ref;
        if let Some(past) = history::past_status(&self.builder, &self.scope, &reference).await? {
            return Ok(history::timed(Response::stream(past)));
        }
        let job = self.builder.job(&self.scope.name(&reference), STATUS_WAIT).await;
        let job = job.map_err(|failure| self.scope.explain(failure))?;
        let events = job.events();
        let builder = Arc::clone(&self.builder);
        let saved = move |vertex: &Digest| builder.saved(&job, vertex);
        Ok(history::timed(Response::stream(status::responses(events, saved))))
    }

    async fn session(
        &self,
        context: RequestContext,
        requests: InboundStream<wire::BytesMessage>,
    ) -> ServiceResult<ServiceStream<wire::BytesMessage>> {
        let stream = self
            .builder
            .context
            .sessions
            .open(&renamed(context.headers(), &self.scope)?, requests)
            .await
            .map_err(Failure::of)?;
        Response::stream_ok(stream)
    }

    async fn list_workers(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ListWorkersRequest>,
    ) -> ServiceResult<wire::ListWorkersResponse> {
        let filters = request.to_owned_message().filter;
        let worker = &self.builder.worker;
        let mut record = if worker.matches(&filters) { vec![worker.record()] } else { Vec::new() };
        for record in &mut record {
            record.CDIDevices = self.builder.context.devices.to_wire();
        }
        Response::ok(wire::ListWorkersResponse { record, ..Default::default() })
    }

    async fn info(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::InfoRequest>,
    ) -> ServiceResult<wire::InfoResponse> {
        Response::ok(wire::InfoResponse {
            buildkitVersion: buffa::MessageField::some(crate::worker::version()),
            ..Default::default()
        })
    }

    async fn listen_build_history(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::BuildHistoryRequest>,
    ) -> ServiceResult<ServiceStream<wire::BuildHistoryEvent>> {
        let request = request.to_owned_message();
        let events = history::listen(&self.builder, &self.scope, &request).await?;
        Ok(history::timed(Response::stream(events)))
    }

    async fn update_build_history(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::UpdateBuildHistoryRequest>,
    ) -> ServiceResult<wire::UpdateBuildHistoryResponse> {
        history::update(&self.builder, &self.scope, &request.to_owned_message()).await?;
        Response::ok(wire::UpdateBuildHistoryResponse::default())
    }
}
