//! `moby.buildkit.v1.frontend.LLBBridge` on the daemon's own address.
//!
//! Each call names its build in a header and is answered by that build's bridge; a build's
//! references mean nothing to another. Containers and their processes are in
//! modules of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::moby::buildkit::v1::frontend::LlbBridge;
use connectrpc::{
    InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};

use super::bridge::{Bridge, Verdict, to_wire};
use super::{capabilities, files, image_frontend};
use crate::builder::Builder;
use crate::cache::import::ImportRequest;
use crate::failure::Failure;
use crate::serving::Scope;
use crate::snapshot::Snapshot;

/// Header that names the build.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// How long a call waits for its build: clients open both at the same time.
const LOOKUP_WAIT: Duration = Duration::from_secs(3);

/// The gateway over a builder's builds.
pub(crate) struct GatewayService(Reach);

/// What a connection reaches.
enum Reach {
    /// The builds of a scope, by the name that each call gives.
    Builds { builder: Arc<Builder>, scope: Scope },
    /// One request of one build: a frontend's connection, whatever its calls say.
    One(Arc<Bridge>),
}

impl GatewayService {
    /// A gateway for `builder` on connections of `scope`.
    pub(crate) const fn new(builder: Arc<Builder>, scope: Scope) -> Self {
        Self(Reach::Builds { builder, scope })
    }

    /// The gateway for the frontend that answers the request of `bridge`.
    pub(crate) const fn of_frontend(bridge: Arc<Bridge>) -> Self {
        Self(Reach::One(bridge))
    }

    async fn bridge(&self, context: &RequestContext, call: &str) -> Result<Arc<Bridge>, Failure> {
        let (builder, scope) = match &self.0 {
            Reach::Builds { builder, scope } => (builder, scope),
            Reach::One(bridge) => return Ok(Arc::clone(bridge)),
        };
        let id = context.header(BUILD_ID).and_then(|value| value.to_str().ok());
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            return Err(Failure::unknown(format!(
                "forwarding {call}: no buildid found in context"
            )));
        };
        self.explained(builder.bridge(&scope.name(id), LOOKUP_WAIT).await)
    }

    /// An answer, or the failure as this connection's client is to read it.
    fn explained<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        match &self.0 {
            Reach::Builds { scope, .. } => result.map_err(|failure| scope.explain(failure)),
            Reach::One(_) => result,
        }
    }

    async fn snapshot(bridge: &Bridge, id: &str) -> Result<Snapshot, Failure> {
        match bridge.find(id)? {
            Some(reference) => bridge.evaluate(&reference).await,
            None => Err(Failure::not_found(format!("empty ref: {id}"))),
        }
    }

    async fn solve_request(
        bridge: &Arc<Bridge>,
        request: wire::SolveRequest,
    ) -> Result<wire::SolveResponse, Failure> {
        let imports = request
            .CacheImports
            .into_iter()
            .map(|entry| ImportRequest {
                kind: entry.Type,
                attrs: entry.Attrs.into_iter().collect(),
            })
            .collect();
        bridge.import(imports).await;
        let bridge = &bridge.governed_by(request.SourcePolicies).await?;
        let answer = match (request.Definition.into_option(), request.Frontend.as_str()) {
            (Some(definition), "") => {
                let reference = match definition.def.is_empty() {
                    true => None,
                    false => Some(bridge.reference(definition).await?),
                };
                super::bridge::Answer {
                    refs: super::bridge::AnswerRefs::Single(reference),
                    ..super::bridge::Answer::default()
                }
            }
            (Some(_), _) => {
                return Err(Failure::invalid(
                    "cannot solve with both Definition and Frontend specified",
                ));
            }
            (None, "") => super::bridge::Answer::default(),
            (None, frontend) => {
                let attrs = request.FrontendOpt.into_iter().collect();
                let inputs = request.FrontendInputs.into_iter().collect();
                bridge.frontend(frontend, attrs, inputs).await?
            }
        };
        if request.Evaluate {
            bridge.output(&answer).await?;
        }
        Ok(wire::SolveResponse {
            result: buffa::MessageField::some(to_wire(&answer)),
            ..wire::SolveResponse::default()
        })
    }
}

/// The part of a file that is asked for.
fn range(request: &wire::ReadFileRequest) -> (u64, usize) {
    let Some(range) = request.Range.as_option() else { return (0, files::MAX_READ) };
    let length = usize::try_from(range.Length).ok().filter(|length| *length > 0);
    (u64::try_from(range.Offset).unwrap_or(0), length.unwrap_or(files::MAX_READ))
}

impl LlbBridge for GatewayService {
    async fn resolve_image_config(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ResolveImageConfigRequest>,
    ) -> ServiceResult<wire::ResolveImageConfigResponse> {
        let bridge = self.bridge(&context, "ResolveImageConfig").await?;
        let request = request.to_owned_message();
        Response::ok(self.explained(bridge.resolve_config(request).await)?)
    }

    async fn resolve_source_meta(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ResolveSourceMetaRequest>,
    ) -> ServiceResult<wire::ResolveSourceMetaResponse> {
        let bridge = self.bridge(&context, "ResolveSourceMeta").await?;
        let request = request.to_owned_message();
        let asked = request.Source.clone();
        let answer = self.explained(bridge.resolve_source(request).await)?;
        if matches!(self.0, Reach::One(_)) {
            image_frontend::check_told(asked.as_option(), answer.Source.as_option())?;
        }
        Response::ok(answer)
    }

    async fn solve(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::SolveRequest>,
    ) -> ServiceResult<wire::SolveResponse> {
        let bridge = self.bridge(&context, "Solve").await?;
        let request = request.to_owned_message();
        Response::ok(self.explained(Self::solve_request(&bridge, request).await)?)
    }

    async fn read_file(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReadFileRequest>,
    ) -> ServiceResult<wire::ReadFileResponse> {
        let bridge = self.bridge(&context, "ReadFile").await?;
        let request = request.to_owned_message();
        let snapshot = self.explained(Self::snapshot(&bridge, &request.Ref).await)?;
        let (offset, length) = range(&request);
        let bytes = files::read_range(&snapshot, &request.FilePath, offset, length).await?;
        Response::ok(wire::ReadFileResponse { Data: bytes.to_vec(), ..Default::default() })
    }

    async fn read_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReadDirRequest>,
    ) -> ServiceResult<wire::ReadDirResponse> {
        let bridge = self.bridge(&context, "ReadDir").await?;
        let request = request.to_owned_message();
        let snapshot = self.explained(Self::snapshot(&bridge, &request.Ref).await)?;
        let ids = bridge.context.store_ids();
        let entries =
            files::list(&snapshot, &request.DirPath, &request.IncludePattern, ids).await?;
        Response::ok(wire::ReadDirResponse { entries, ..Default::default() })
    }

    async fn stat_file(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::StatFileRequest>,
    ) -> ServiceResult<wire::StatFileResponse> {
        let bridge = self.bridge(&context, "StatFile").await?;
        let request = request.to_owned_message();
        let snapshot = self.explained(Self::snapshot(&bridge, &request.Ref).await)?;
        let stat = files::stat(&snapshot, &request.Path, bridge.context.store_ids()).await?;
        Response::ok(wire::StatFileResponse {
            stat: buffa::MessageField::some(stat),
            ..Default::default()
        })
    }

    async fn evaluate(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::EvaluateRequest>,
    ) -> ServiceResult<wire::EvaluateResponse> {
        let bridge = self.bridge(&context, "Evaluate").await?;
        let id = request.to_owned_message().Ref;
        if let Some(reference) = bridge.find(&id)? {
            self.explained(bridge.evaluate(&reference).await)?;
        }
        Response::ok(wire::EvaluateResponse::default())
    }

    async fn ping(
        &self,
        context: RequestContext,
        _request: ServiceRequest<'_, wire::PingRequest>,
    ) -> ServiceResult<wire::PongResponse> {
        let bridge = self.bridge(&context, "Ping").await?;
        Response::ok(wire::PongResponse {
            FrontendAPICaps: capabilities::gateway(),
            LLBCaps: capabilities::llb(),
            Workers: vec![bridge.context.worker()],
            ..Default::default()
        })
    }

    async fn r#return(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReturnRequest>,
    ) -> ServiceResult<wire::ReturnResponse> {
        let bridge = self.bridge(&context, "Return").await?;
        let request = request.to_owned_message();
        let verdict = match (request.result.into_option(), request.error.into_option()) {
            (_, Some(error)) => Verdict::Failed(returned_failure(error)),
            (Some(result), None) => Verdict::Done(bridge.accept(result)?),
            (None, None) => {
                let failure = Failure::invalid("gateway return must be either result or err");
                bridge.settle(Verdict::Failed(failure.clone()));
                return Err(failure.into());
            }
        };
        bridge.settle(verdict);
        Response::ok(wire::ReturnResponse::default())
    }

    async fn inputs(
        &self,
        context: RequestContext,
        _request: ServiceRequest<'_, wire::InputsRequest>,
    ) -> ServiceResult<wire::InputsResponse> {
        let bridge = self.bridge(&context, "Inputs").await?;
        let definitions = (*bridge.inputs).clone().into_iter().collect();
        Response::ok(wire::InputsResponse { Definitions: definitions, ..Default::default() })
    }

    async fn new_container(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::NewContainerRequest>,
    ) -> ServiceResult<wire::NewContainerResponse> {
        let bridge = self.bridge(&context, "NewContainer").await?;
        self.explained(bridge.new_container(request.to_owned_message()).await)?;
        Response::ok(wire::NewContainerResponse::default())
    }

    async fn release_container(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReleaseContainerRequest>,
    ) -> ServiceResult<wire::ReleaseContainerResponse> {
        let bridge = self.bridge(&context, "ReleaseContainer").await?;
        let id = request.to_owned_message().ContainerID;
        self.explained(bridge.release_container(&id).await)?;
        Response::ok(wire::ReleaseContainerResponse::default())
    }

    async fn exec_process(
        &self,
        context: RequestContext,
        requests: InboundStream<wire::ExecMessage>,
    ) -> ServiceResult<ServiceStream<wire::ExecMessage>> {
        let bridge = self.bridge(&context, "ExecProcess").await?;
        Response::stream_ok(super::processes::serve(bridge, requests))
    }

    async fn read_file_container(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReadFileRequest>,
    ) -> ServiceResult<wire::ReadFileResponse> {
        let bridge = self.bridge(&context, "ReadFileContainer").await?;
        let request = request.to_owned_message();
        let files = bridge.container_files(&request.Ref, request.MountIndex)?;
        let (offset, length) = range(&request);
        let bytes = files::range_of(files, &request.FilePath, offset, length).await?;
        Response::ok(wire::ReadFileResponse { Data: bytes.to_vec(), ..Default::default() })
    }

    async fn read_dir_container(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReadDirRequest>,
    ) -> ServiceResult<wire::ReadDirResponse> {
        let bridge = self.bridge(&context, "ReadDirContainer").await?;
        let request = request.to_owned_message();
        let files = bridge.container_files(&request.Ref, request.MountIndex)?;
        let (path, pattern) = (&request.DirPath, &request.IncludePattern);
        let ids = bridge.context.store_ids();
        let entries = files::entries_of(files, path, pattern, ids).await?;
        Response::ok(wire::ReadDirResponse { entries, ..Default::default() })
    }

    async fn stat_file_container(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::StatFileRequest>,
    ) -> ServiceResult<wire::StatFileResponse> {
        let bridge = self.bridge(&context, "StatFileContainer").await?;
        let request = request.to_owned_message();
        let files = bridge.container_files(&request.Ref, request.MountIndex)?;
        let stat = files::stat_in(files, &request.Path, bridge.context.store_ids()).await?;
        Response::ok(wire::StatFileResponse {
            stat: buffa::MessageField::some(stat),
            ..Default::default()
        })
    }

    async fn warn(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::WarnRequest>,
    ) -> ServiceResult<wire::WarnResponse> {
        let bridge = self.bridge(&context, "Warn").await?;
        let request = request.to_owned_message();
        let vertex = Digest::parse(&request.digest).map_err(Failure::of)?;
        let warning = cofferdam_solver::Warning {
            level: i32::try_from(request.level).unwrap_or(1),
            short: Bytes::from(request.short),
            detail: request.detail.into_iter().map(Bytes::from).collect(),
            url: request.url,
            info: request.info.into_option().map(Arc::new),
            ranges: request.ranges,
        };
        bridge.warn(vertex, warning);
        Response::ok(wire::WarnResponse::default())
    }
}

/// A failure a client returned, with its details untouched.
fn returned_failure(status: cofferdam_wire::google::rpc::Status) -> Failure {
    let code = u32::try_from(status.code).ok().and_then(connectrpc::ErrorCode::from_grpc_code);
    let code = code.unwrap_or(connectrpc::ErrorCode::Unknown);
    let mut failure = Failure::new(code, status.message);
    for detail in status.details.into_iter().rev() {
        failure = failure.with_detail(&detail.type_url, detail.value.to_vec());
    }
    failure
}
