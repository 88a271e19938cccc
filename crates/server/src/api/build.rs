//! `depot.build.v1.BuildService`: builds as SDKs begin and end them, and the steps and logs of a build.

use std::sync::Arc;

use cofferdam_access::{Action, Resource};
use cofferdam_records::{LogLine, PageRequest, Step};
use cofferdam_wire::depot::build::v1 as wire;
use cofferdam_wire::depot::build::v1::BuildService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use wire::__buffa::oneof::finish_build_request;

use super::cli_build::{failure, not_created};
use super::convert::{at, at_optional};
use super::{Api, failed};
use crate::builds::Outcome;

/// The service.
pub(super) struct BuildApi(pub(super) Arc<Api>);

impl BuildService for BuildApi {
    async fn create_build(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::CreateBuildRequest>,
    ) -> ServiceResult<wire::CreateBuildResponse> {
        let id = request.to_owned_message().project_id;
        let resource = if id.is_empty() { Resource::AnyProject } else { Resource::Project(&id) };
        let grant = self.0.authorize(&context, Action::CreateBuild, resource).await?;
        let project = grant.project.clone().ok_or_else(|| {
            ConnectError::invalid_argument("project_id is missing: say which project to build in")
        })?;
        let demanded = super::settings::demanded(&context)?;
        let created = self.0.builds.create(&grant, project, 0, "[]".to_owned(), demanded).await;
        let created = created.map_err(not_created)?;
        Response::ok(wire::CreateBuildResponse {
            build_id: created.build.id,
            build_token: created.token,
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
            None => {
                return Err(ConnectError::invalid_argument("result is missing: success or error"));
            }
        };
        self.0.finish(id, outcome).await?;
        Response::ok(wire::FinishBuildResponse::default())
    }

    async fn get_build_steps(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetBuildStepsRequest>,
    ) -> ServiceResult<wire::GetBuildStepsResponse> {
        let request = request.to_owned_message();
        let id = &request.build_id;
        self.0.build_in(&context, id, &request.project_id).await?;
        let page = PageRequest { size: request.page_size, token: request.page_token.as_deref() };
        let page = self.0.records.steps(id, page).await.map_err(failed)?;
        Response::ok(wire::GetBuildStepsResponse {
            build_steps: page.items.into_iter().map(step).collect(),
            next_page_token: Some(page.next.unwrap_or_default()),
            ..Default::default()
        })
    }

    async fn get_build_step_logs(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetBuildStepLogsRequest>,
    ) -> ServiceResult<wire::GetBuildStepLogsResponse> {
        let request = request.to_owned_message();
        let id = &request.build_id;
        self.0.build_in(&context, id, &request.project_id).await?;
        let page = PageRequest { size: request.page_size, token: request.page_token.as_deref() };
        let digest = &request.build_step_digest;
        let page = self.0.records.logs(id, digest, page).await.map_err(failed)?;
        let page = page
            .ok_or_else(|| ConnectError::not_found(format!("build {id} has no step {digest:?}")))?;
        Response::ok(wire::GetBuildStepLogsResponse {
            logs: page.items.into_iter().map(log).collect(),
            next_page_token: Some(page.next.unwrap_or_default()),
            ..Default::default()
        })
    }
}

impl Api {
    /// Authorizes reading a build; a project given beside it must be the build's.
    async fn build_in(
        &self,
        context: &RequestContext,
        build: &str,
        project: &str,
    ) -> Result<(), ConnectError> {
        let grant = self.authorize(context, Action::ReadBuild, Resource::Build(build)).await?;
        let found = grant.build.is_some_and(|found| project.is_empty() || found.project == project);
        if found {
            return Ok(());
        }
        Err(ConnectError::not_found(format!("project {project} has no build {build}")))
    }
}

fn step(step: Step) -> wire::BuildStep {
    let cache_state = if step.cached {
        wire::CacheState::CACHE_STATE_CACHED
    } else {
        wire::CacheState::CACHE_STATE_UNCACHED
    };
    wire::BuildStep {
        name: step.name,
        digest: step.digest,
        started_at: at(step.started_at),
        completed_at: at_optional(step.completed_at),
        cache_state: cache_state.into(),
        error: step.error,
        has_logs: step.has_logs,
        ..Default::default()
    }
}

fn log(line: LogLine) -> wire::get_build_step_logs_response::Log {
    wire::get_build_step_logs_response::Log {
        message: line.message,
        timestamp: at(line.at),
        ..Default::default()
    }
}
