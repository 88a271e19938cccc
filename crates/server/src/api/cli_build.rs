//! `depot.cli.v1.BuildService`: what the `depot` program calls around a build.

use std::sync::Arc;

use buffa::MessageField;
use chrono::Utc;
use cofferdam_access::{Action, Resource};
use cofferdam_records::{BuildStatus, PageRequest};
use cofferdam_wire::depot::cli::v1 as wire;
use cofferdam_wire::depot::cli::v1::BuildService;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
};
use futures::StreamExt;
use wire::__buffa::oneof::{finish_build_request, get_build_kit_connection_response as connection};

use super::convert::{at, at_optional, timestamp};
use super::{Api, failed, origin};
use crate::builds::{CreateError, EndpointError, Outcome};
use crate::origin::Origin;

/// How long a client waits before it asks again for a builder that is not there yet, in milliseconds.
const ASK_AGAIN: i32 = 1000;
/// Longest description of what a build is to do, as JSON.
const MAX_OPTIONS: usize = 256 << 10;
/// User name that goes with a token at the registry; what it is does not matter there.
pub(super) const REGISTRY_USER: &str = "x-token";

/// The service.
pub(super) struct CliBuildApi(pub(super) Arc<Api>);

impl BuildService for CliBuildApi {
    async fn create_build(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::CreateBuildRequest>,
    ) -> ServiceResult<wire::CreateBuildResponse> {
        let request = request.to_owned_message();
        let wanted = request.project_id.as_deref().filter(|id| !id.is_empty());
        let resource = wanted.map_or(Resource::AnyProject, Resource::Project);
        let grant = self.0.authorize(&context, Action::CreateBuild, resource).await?;
        if request.required_engine.as_option().is_some_and(wants_dagger) {
            return Err(ConnectError::unimplemented("Dagger engines are not run here"));
        }
        let options = serde_json::to_string(&request.options)
            .map_err(|error| ConnectError::invalid_argument(format!("options: {error}")))?;
        if options.len() > MAX_OPTIONS {
            return Err(ConnectError::invalid_argument(format!(
                "options are longer than {MAX_OPTIONS} bytes"
            )));
        }
        let project = grant.project.clone().ok_or_else(no_project)?;
        let demanded = super::settings::demanded(&context)?;
        let command = request.options.first().map_or(0, |options| options.command.to_i32());
        let created = self.0.builds.create(&grant, project, command, options, demanded).await;
        let created = created.map_err(not_created)?;
        let origin = origin(&context);
        let saving = request.options.iter().any(|options| options.save);
        let loading = request.options.iter().any(|options| options.load);
        let project = created.build.project.clone();
        let load_using_registry = loading && can_pull_from(&origin);
        let mut additional_tags = Vec::new();
        if saving || load_using_registry {
            additional_tags = save_tags(&origin, &project, &created.build.id, &request.options);
        }
        Response::ok(wire::CreateBuildResponse {
            build_url: origin.url(&cofferdam_pages::build_path(&project, &created.build.id)),
            registry: MessageField::some(wire::create_build_response::Registry {
                load_using_registry,
                ..Default::default()
            }),
            additional_credentials: vec![wire::create_build_response::Credential {
                host: origin.authority.clone(),
                token: credential(&created.token),
                ..Default::default()
            }],
            additional_tags,
            build_id: created.build.id,
            build_token: created.token,
            project_id: project,
            ..Default::default()
        })
    }

    async fn get_build(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetBuildRequest>,
    ) -> ServiceResult<wire::GetBuildResponse> {
        let id = request.to_owned_message().build_id;
        let grant = self.0.authorize(&context, Action::ReadBuild, Resource::Build(&id)).await?;
        let project = grant.build.map(|build| build.project).unwrap_or_default();
        let build_url = origin(&context).url(&cofferdam_pages::build_path(&project, &id));
        Response::ok(wire::GetBuildResponse {
            build_id: id,
            project_id: project,
            build_url,
            ..Default::default()
        })
    }

    async fn finish_build(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::FinishBuildRequest>,
    ) -> ServiceResult<wire::FinishBuildResponse> {
        use finish_build_request::Result as Said;
        let request = request.to_owned_message();
        let id = &request.build_id;
        self.0.authorize(&context, Action::FinishBuild, Resource::Build(id)).await?;
        let outcome = match request.result {
            Some(Said::Success(_)) => Outcome::Success,
            Some(Said::Error(error)) => failure(error.error),
            Some(Said::Canceled(_)) => Outcome::Canceled("canceled by its client".to_owned()),
            None => {
                return Err(ConnectError::invalid_argument(
                    "result is missing: success, error or canceled",
                ));
            }
        };
        self.0.finish(id, outcome).await?;
        Response::ok(wire::FinishBuildResponse::default())
    }

    async fn get_build_kit_connection(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetBuildKitConnectionRequest>,
    ) -> ServiceResult<wire::GetBuildKitConnectionResponse> {
        let request = request.to_owned_message();
        let id = &request.build_id;
        self.0.authorize(&context, Action::ConnectBuild, Resource::Build(id)).await?;
        if request.required_engine.as_option().is_some_and(wants_dagger) {
            return Err(ConnectError::unimplemented("Dagger engines are not run here"));
        }
        let answer = match self.0.endpoint(id).await {
            Ok(active) => connection::Connection::Active(Box::new(
                wire::get_build_kit_connection_response::ActiveConnection {
                    endpoint: format!("tcp://{}", origin(&context).host_port()),
                    server_name: active.server_name,
                    cert: MessageField::some(wire::Cert {
                        cert: active.certificate,
                        key: active.key,
                        ..Default::default()
                    }),
                    ca_cert: MessageField::some(wire::Cert {
                        cert: active.authority,
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            )),
            Err(EndpointError::Wait(reason)) => {
                tracing::debug!(
                    project = self.0.builds.get(id).map(|live| live.project_id().to_owned()),
                    build = id,
                    reason,
                    "a client waits for its builder"
                );
                connection::Connection::Pending(Box::new(
                    wire::get_build_kit_connection_response::PendingConnection {
                        wait_ms: ASK_AGAIN,
                        ..Default::default()
                    },
                ))
            }
            Err(error) => return Err(no_endpoint(error)),
        };
        Response::ok(wire::GetBuildKitConnectionResponse {
            connection: Some(answer),
            ..Default::default()
        })
    }

    async fn report_build_health(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReportBuildHealthRequest>,
    ) -> ServiceResult<wire::ReportBuildHealthResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
        let mut response = wire::ReportBuildHealthResponse::default();
        match self.0.builds.get(&id) {
            Some(live) if live.is_running() || !live.is_cut() => live.sign(),
            // It is still on the way to its builder, where it is told: to stop by this it would close a connection that it then
            // waits for.
            Some(live) if !live.has_solved() => {}
            // A moment that has passed makes the client stop.
            _ => {
                response.cancels_at =
                    MessageField::some(timestamp(Utc::now() - chrono::TimeDelta::seconds(1)))
            }
        }
        Response::ok(response)
    }

    /// Progress that the client reports of itself (starting, loading). What happens in the build is known from the builder,
    /// and a client's word about it is not taken; the report shows that the client lives.
    async fn report_status_stream(
        &self,
        context: RequestContext,
        mut requests: InboundStream<wire::ReportStatusRequest>,
    ) -> ServiceResult<wire::ReportStatusResponse> {
        let mut granted: Option<String> = None;
        while let Some(request) = requests.next().await {
            let id = request?.to_owned_message().build_id;
            if granted.as_ref() != Some(&id) {
                self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
            }
            if let Some(live) = self.0.builds.get(&id) {
                live.sign();
            }
            granted = Some(id);
        }
        Response::ok(wire::ReportStatusResponse::default())
    }

    async fn report_status(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReportStatusRequest>,
    ) -> ServiceResult<wire::ReportStatusResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
        Response::ok(wire::ReportStatusResponse::default())
    }

    async fn report_timings(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReportTimingsRequest>,
    ) -> ServiceResult<wire::ReportTimingsResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
        Response::ok(wire::ReportTimingsResponse::default())
    }

    async fn report_build_context(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReportBuildContextRequest>,
    ) -> ServiceResult<wire::ReportBuildContextResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
        Response::ok(wire::ReportBuildContextResponse::default())
    }

    async fn list_builds(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListBuildsRequest>,
    ) -> ServiceResult<wire::ListBuildsResponse> {
        let request = request.to_owned_message();
        let id = &request.project_id;
        self.0.authorize(&context, Action::ListBuilds, Resource::Project(id)).await?;
        let page = PageRequest {
            size: Some(request.page_size).filter(|size| *size != 0),
            token: Some(request.page_token.as_str()).filter(|token| !token.is_empty()),
        };
        let page = self.0.records.builds(id, page).await.map_err(failed)?;
        let builds = page.items.into_iter().map(|build| wire::Build {
            status: status(build.status).into(),
            created_at: at(build.created_at),
            finished_at: at_optional(build.finished_at),
            id: build.id,
            ..Default::default()
        });
        Response::ok(wire::ListBuildsResponse {
            builds: builds.collect(),
            next_page_token: page.next.unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn get_pull_info(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetPullInfoRequest>,
    ) -> ServiceResult<wire::GetPullInfoResponse> {
        let id = request.to_owned_message().build_id;
        let grant = self.0.authorize(&context, Action::PullToken, Resource::Build(&id)).await?;
        let build = grant.build.clone().ok_or_else(no_project)?;
        let origin = origin(&context);
        let options: Vec<wire::BuildOptions> =
            serde_json::from_str(&build.options).unwrap_or_default();
        let token = self.0.pull_token(&grant, &build.project).await?;
        Response::ok(wire::GetPullInfoResponse {
            reference: format!("{}/{}:{}", origin.authority, build.project, build.id),
            username: REGISTRY_USER.to_owned(),
            password: token,
            save_for_load: options.iter().any(|options| options.load) && can_pull_from(&origin),
            options,
            registry_host: origin.authority,
            ..Default::default()
        })
    }

    async fn get_pull_token(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetPullTokenRequest>,
    ) -> ServiceResult<wire::GetPullTokenResponse> {
        let request = request.to_owned_message();
        let given = |id: &Option<String>| id.clone().filter(|id| !id.is_empty());
        let (project, build) = (given(&request.project_id), given(&request.build_id));
        let resource = match (&build, &project) {
            (Some(build), _) => Resource::Build(build),
            (None, Some(project)) => Resource::Project(project),
            (None, None) => Resource::AnyProject,
        };
        let grant = self.0.authorize(&context, Action::PullToken, resource).await?;
        let project = grant.project.clone().ok_or_else(no_project)?;
        let token = self.0.pull_token(&grant, &project.id).await?;
        Response::ok(wire::GetPullTokenResponse {
            token,
            registry_host: origin(&context).authority,
            ..Default::default()
        })
    }
}

fn no_project() -> ConnectError {
    ConnectError::invalid_argument(
        "project_id is missing and this token does not belong to one project",
    )
}

fn wants_dagger(engine: &wire::RequiredEngine) -> bool {
    use wire::__buffa::oneof::required_engine::Engine;
    matches!(engine.engine, Some(Engine::Dagger(_)))
}

/// What a client says of its own failure; cancellations of older commands come as errors.
pub(super) fn failure(error: String) -> Outcome {
    /// Longest text that is kept.
    const MAX_ERROR: usize = 64 << 10;
    let error: String = error.chars().take(MAX_ERROR).collect();
    if error == "build canceled" {
        Outcome::Canceled("canceled by its client".to_owned())
    } else {
        Outcome::Failed(error)
    }
}

pub(super) fn not_created(error: CreateError) -> ConnectError {
    match error {
        CreateError::Stopping => ConnectError::unavailable(error.to_string()),
        CreateError::TooMany(_) => ConnectError::resource_exhausted(error.to_string()),
        CreateError::Records(error) => failed(error),
    }
}

pub(super) fn no_endpoint(error: EndpointError) -> ConnectError {
    match error {
        EndpointError::Ended(_) => ConnectError::failed_precondition(error.to_string()),
        EndpointError::Records(error) => failed(error),
        EndpointError::Wait(_) => ConnectError::unavailable(error.to_string()),
        EndpointError::Walls(_) => ConnectError::failed_precondition(error.to_string()),
        EndpointError::Level { .. } => ConnectError::failed_precondition(format!(
            "{error}: its log says why, and `cofferdam doctor` there what to install"
        )),
        EndpointError::Fleet(_) | EndpointError::Authority(_) => ConnectError::unavailable(
            "the builder of this project cannot be started: see the server's log",
        ),
    }
}

const fn status(status: BuildStatus) -> wire::BuildStatus {
    match status {
        BuildStatus::Running => wire::BuildStatus::BUILD_STATUS_RUNNING,
        BuildStatus::Success => wire::BuildStatus::BUILD_STATUS_FINISHED,
        BuildStatus::Failed | BuildStatus::Error => wire::BuildStatus::BUILD_STATUS_FAILED,
        BuildStatus::Canceled => wire::BuildStatus::BUILD_STATUS_CANCELED,
    }
}

/// Whether a container engine on the client's machine can pull from here: engines refuse cleartext except on loopback.
fn can_pull_from(origin: &Origin) -> bool {
    origin.secure || origin.is_loopback()
}

fn credential(token: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("{REGISTRY_USER}:{token}"))
}

/// Names under which the client pushes what is to be kept: the build's own and those it asked for.
fn save_tags(
    origin: &Origin,
    project: &str,
    build: &str,
    options: &[wire::BuildOptions],
) -> Vec<wire::create_build_response::Tag> {
    let mut tags = vec![build.to_owned()];
    for tag in options.iter().flat_map(|options| &options.save_tags) {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    let name = |tag: String| wire::create_build_response::Tag {
        tag: format!("{}/{project}:{tag}", origin.authority),
        push: true,
        ..Default::default()
    };
    tags.into_iter().map(name).collect()
}
