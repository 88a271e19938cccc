//! `cofferdam.server.v1.ProjectService`: what a project says about its walls. What it takes of the disk is told with its usage.

use std::sync::Arc;

use cofferdam_access::{Action, Resource};
use cofferdam_records::{Walls, WallsChange};
use cofferdam_wire::cofferdam::server::v1 as wire;
use cofferdam_wire::cofferdam::server::v1::ProjectService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

use super::{Api, failed};
use crate::walls::{self, WallsError};

/// The service.
pub(super) struct SettingsApi(pub(super) Arc<Api>);

impl ProjectService for SettingsApi {
    async fn get_settings(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetSettingsRequest>,
    ) -> ServiceResult<wire::GetSettingsResponse> {
        let id = request.to_owned_message().project_id;
        let resource = Resource::Project(&id);
        let grant = self.0.authorize(&context, Action::ReadProject, resource).await?;
        let walls = grant.project.map(|project| project.walls).unwrap_or_default();
        Response::ok(wire::GetSettingsResponse {
            settings: Some(self.settings(&walls)?).into(),
            ..Default::default()
        })
    }

    async fn update_settings(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::UpdateSettingsRequest>,
    ) -> ServiceResult<wire::UpdateSettingsResponse> {
        let request = request.to_owned_message();
        let id = &request.project_id;
        self.0.authorize(&context, Action::ChangeProject, Resource::Project(id)).await?;
        if let Some(isolation) = &request.isolation {
            walls::level(isolation).map_err(refused)?;
        }
        let policy = request.network_policy.as_option().map(walls::network);
        let limits = request.limits.as_option().map(walls::limits);
        let change = WallsChange {
            isolation: request.isolation,
            network_policy: policy.transpose().map_err(refused)?,
            limits: limits.transpose().map_err(refused)?,
        };
        let changed = self.0.records.update_walls(id, change).await.map_err(failed)?;
        let changed = changed.ok_or_else(|| {
            ConnectError::not_found(format!("project {id} was deleted at this moment"))
        })?;
        tracing::info!(project = changed.id, "the walls of a project were changed");
        Response::ok(wire::UpdateSettingsResponse {
            settings: Some(self.settings(&changed.walls)?).into(),
            ..Default::default()
        })
    }

    async fn list_storage(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListStorageRequest>,
    ) -> ServiceResult<wire::ListStorageResponse> {
        self.0.list_storage(&context, request.to_owned_message()).await
    }
}

impl SettingsApi {
    fn settings(&self, walls: &Walls) -> Result<wire::ProjectSettings, ConnectError> {
        let told = walls::told(walls, self.0.builds.least());
        told.map_err(|error| ConnectError::failed_precondition(error.to_string()))
    }
}

pub(super) fn refused(error: WallsError) -> ConnectError {
    ConnectError::invalid_argument(error.to_string())
}

/// The level that a call demands for the build it begins.
pub(super) fn demanded(
    context: &RequestContext,
) -> Result<cofferdam_fleet::Isolation, ConnectError> {
    let Some(value) = context.headers().get(walls::ISOLATION_HEADER) else {
        return Ok(cofferdam_fleet::Isolation::default());
    };
    let text = value.to_str().unwrap_or("?");
    Ok(walls::level(text).map_err(refused)?.unwrap_or_default())
}
