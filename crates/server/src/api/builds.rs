//! `depot.core.v1.BuildService`: builds as they are listed and shared.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use cofferdam_access::{Action, Resource};
use cofferdam_records::{Build, BuildStatus, PageRequest};
use cofferdam_wire::depot::core::v1 as wire;
use cofferdam_wire::depot::core::v1::BuildService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

use super::convert::{at, at_optional};
use super::{Api, failed, origin};

/// The service.
pub(super) struct BuildsApi(pub(super) Arc<Api>);

impl BuildService for BuildsApi {
    async fn share_build(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ShareBuildRequest>,
    ) -> ServiceResult<wire::ShareBuildResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ShareBuild, Resource::Build(&id)).await?;
        let (secret, hash) = cofferdam_access::mint_share();
        self.0.records.share_build(&id, &hash).await.map_err(failed)?;
        let share_url = origin(&context).url(&cofferdam_pages::shared_path(&secret));
        Response::ok(wire::ShareBuildResponse { share_url, ..Default::default() })
    }

    async fn stop_sharing_build(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::StopSharingBuildRequest>,
    ) -> ServiceResult<wire::StopSharingBuildResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ShareBuild, Resource::Build(&id)).await?;
        self.0.records.stop_sharing(&id).await.map_err(failed)?;
        Response::ok(wire::StopSharingBuildResponse::default())
    }

    async fn list_builds(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListBuildsRequest>,
    ) -> ServiceResult<wire::ListBuildsResponse> {
        let request = request.to_owned_message();
        let id = &request.project_id;
        self.0.authorize(&context, Action::ListBuilds, Resource::Project(id)).await?;
        let page = PageRequest { size: request.page_size, token: request.page_token.as_deref() };
        let page = self.0.records.builds(id, page).await.map_err(failed)?;
        Response::ok(wire::ListBuildsResponse {
            builds: page.items.into_iter().map(build).collect(),
            next_page_token: page.next.unwrap_or_default(),
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
        let found = grant
            .build
            .ok_or_else(|| ConnectError::internal("the build was granted and is not there"))?;
        Response::ok(wire::GetBuildResponse {
            build: Some(build(found)).into(),
            ..Default::default()
        })
    }
}

fn build(build: Build) -> wire::Build {
    let status = match build.status {
        BuildStatus::Running => wire::build::Status::STATUS_RUNNING,
        BuildStatus::Failed => wire::build::Status::STATUS_FAILED,
        BuildStatus::Success => wire::build::Status::STATUS_SUCCESS,
        BuildStatus::Error => wire::build::Status::STATUS_ERROR,
        BuildStatus::Canceled => wire::build::Status::STATUS_CANCELED,
    };
    let until = build.finished_at.unwrap_or_else(Utc::now);
    let lasted = (until - build.started_at.unwrap_or(build.created_at)).to_std();
    wire::Build {
        build_id: build.id,
        status: status.into(),
        created_at: at(build.created_at),
        started_at: at_optional(build.started_at),
        finished_at: at_optional(build.finished_at),
        build_duration_seconds: Some(seconds(lasted.unwrap_or_default())),
        saved_duration_seconds: Some(seconds(build.saved)),
        cached_steps: Some(i32::try_from(build.cached_steps).unwrap_or(i32::MAX)),
        total_steps: Some(i32::try_from(build.total_steps).unwrap_or(i32::MAX)),
        ..Default::default()
    }
}

/// Whole seconds, to the nearest.
fn seconds(duration: Duration) -> i32 {
    i32::try_from((duration + Duration::from_millis(500)).as_secs()).unwrap_or(i32::MAX)
}
