//! OpenTelemetry's `TraceService`: clients of a build send the spans of their side here.
//!
//! They go into the records of the builds they belong to, and to the collector that the operator named; those that belong to no
//! build of the client go nowhere. They are taken all the same: a client has no other place for them, and would complain.

use std::sync::Arc;

use cofferdam_wire::opentelemetry::proto::collector::trace::v1 as wire;
use cofferdam_wire::opentelemetry::proto::collector::trace::v1::TraceService as Traces;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};

use crate::builder::Builder;
use crate::serving::Scope;

/// The service over a builder.
pub(crate) struct TraceService {
    builder: Arc<Builder>,
    scope: Scope,
}

impl TraceService {
    /// The service of `builder` for connections of `scope`.
    pub(crate) const fn new(builder: Arc<Builder>, scope: Scope) -> Self {
        Self { builder, scope }
    }
}

impl Traces for TraceService {
    async fn export(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ExportTraceServiceRequest>,
    ) -> ServiceResult<wire::ExportTraceServiceResponse> {
        let request = request.to_owned_message();
        let context = &self.builder.context;
        let own = context.history.spans.add(self.scope.owner(), request.resource_spans);
        context.collector.send(own);
        Response::ok(wire::ExportTraceServiceResponse::default())
    }
}
