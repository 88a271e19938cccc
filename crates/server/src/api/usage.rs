//! `depot.core.v1.UsageService`: what was built, how long it took, what the cache saved and holds. And what projects take of the
//! disk, to the byte, which Depot's API has no words for.

use std::sync::Arc;

use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};
use cofferdam_access::{Action, Resource};
use cofferdam_records::{PageRequest, ProjectUsage};
use cofferdam_wire::cofferdam::server::v1 as own;
use cofferdam_wire::depot::core::v1 as wire;
use cofferdam_wire::depot::core::v1::UsageService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

use super::convert::at;
use super::{Api, failed};
use crate::builds::{CACHE, Figure, Look, REGISTRY};

/// Bytes of a GB.
const GB: u64 = 1 << 30;
/// Projects read at a time where a call has no pages.
const AT_ONCE: i32 = 250;

/// The service.
pub(super) struct UsageApi(pub(super) Arc<Api>);

impl UsageService for UsageApi {
    async fn list_project_usage(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListProjectUsageRequest>,
    ) -> ServiceResult<wire::ListProjectUsageResponse> {
        let request = request.to_owned_message();
        let resource = Resource::Organization(None);
        let grant = self.0.authorize(&context, Action::Usage, resource).await?;
        let (start, end) = window(request.start_at.as_option(), request.end_at.as_option())?;
        let page = PageRequest { size: request.page_size, token: request.page_token.as_deref() };
        let organization = &grant.organization;
        let page = self.0.records.organization_usage(organization, start, end, page).await;
        let page = page.map_err(failed)?;
        let mut usage = Vec::with_capacity(page.items.len());
        for item in page.items {
            usage.push(self.project(item, Look::Kept).await?);
        }
        Response::ok(wire::ListProjectUsageResponse {
            usage,
            next_page_token: page.next.unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn get_project_usage(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetProjectUsageRequest>,
    ) -> ServiceResult<wire::GetProjectUsageResponse> {
        let request = request.to_owned_message();
        let id = &request.project_id;
        self.0.authorize(&context, Action::Usage, Resource::Project(id)).await?;
        let (start, end) = window(request.start_at.as_option(), request.end_at.as_option())?;
        let usage = self.0.records.project_usage(id, start, end).await.map_err(failed)?;
        let usage = match usage {
            Some(usage) => Some(self.project(usage, Look::Now).await?),
            None => None,
        };
        Response::ok(wire::GetProjectUsageResponse { usage: usage.into(), ..Default::default() })
    }

    async fn get_usage(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetUsageRequest>,
    ) -> ServiceResult<wire::GetUsageResponse> {
        let request = request.to_owned_message();
        let resource = Resource::Organization(None);
        let grant = self.0.authorize(&context, Action::Usage, resource).await?;
        let (start, end) = window(request.start_at.as_option(), request.end_at.as_option())?;
        let projects = self.everything(&grant.organization, start, end).await?;
        let (mut cache, mut registry) = (0_u64, 0_u64);
        for project in &projects {
            let figures = self.0.builds.storage(&project.project, Look::Kept).await;
            let figures = figures.map_err(failed)?;
            cache = cache.saturating_add(Figure::bytes_of(&figures, CACHE));
            registry = registry.saturating_add(Figure::bytes_of(&figures, REGISTRY));
        }
        Response::ok(wire::GetUsageResponse {
            period_start: at(start),
            period_end: at(end),
            container_build: projects.iter().filter(|usage| usage.builds > 0).map(builds).collect(),
            storage: vec![storage("cache", cache), storage("registry", registry)],
            ..Default::default()
        })
    }
}

impl UsageApi {
    async fn everything(
        &self,
        organization: &str,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Result<Vec<ProjectUsage>, ConnectError> {
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = PageRequest { size: Some(AT_ONCE), token: token.as_deref() };
            let records = &self.0.records;
            let page = records.organization_usage(organization, start, end, request).await;
            let page = page.map_err(failed)?;
            all.extend(page.items);
            token = page.next;
            if token.is_none() {
                return Ok(all);
            }
        }
    }

    async fn project(
        &self,
        usage: ProjectUsage,
        look: Look,
    ) -> Result<wire::ProjectUsage, ConnectError> {
        let figures = self.0.builds.storage(&usage.project, look).await.map_err(failed)?;
        let cache = Figure::bytes_of(&figures, CACHE);
        Ok(wire::ProjectUsage {
            build_count: i32::try_from(usage.builds).unwrap_or(i32::MAX),
            build_duration_seconds: i32::try_from(usage.duration.as_secs()).unwrap_or(i32::MAX),
            layer_cache_size_gb: i32::try_from(cache.div_ceil(GB)).unwrap_or(i32::MAX),
            project_id: usage.project,
            ..Default::default()
        })
    }
}

impl Api {
    /// What one project, or each of the caller's organization, takes of the disk.
    pub(super) async fn list_storage(
        &self,
        context: &RequestContext,
        request: own::ListStorageRequest,
    ) -> ServiceResult<own::ListStorageResponse> {
        if let Some(id) = request.project_id.as_deref().filter(|id| !id.is_empty()) {
            self.authorize(context, Action::Usage, Resource::Project(id)).await?;
            let projects = vec![self.project_storage(id, Look::Now).await?];
            return Response::ok(own::ListStorageResponse { projects, ..Default::default() });
        }
        let resource = Resource::Organization(None);
        let grant = self.authorize(context, Action::Usage, resource).await?;
        let page = PageRequest { size: request.page_size, token: request.page_token.as_deref() };
        let page = self.records.projects(&grant.organization, None, page).await.map_err(failed)?;
        let mut projects = Vec::with_capacity(page.items.len());
        for project in page.items {
            projects.push(self.project_storage(&project.id, Look::Kept).await?);
        }
        Response::ok(own::ListStorageResponse {
            projects,
            next_page_token: page.next.unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn project_storage(
        &self,
        id: &str,
        look: Look,
    ) -> Result<own::ProjectStorage, ConnectError> {
        let figures = self.builds.storage(id, look).await.map_err(failed)?;
        let figures = figures.into_iter().map(|figure| own::StorageFigure {
            kind: figure.kind.to_owned(),
            bytes: figure.bytes,
            measured_at: at(figure.at),
            ..Default::default()
        });
        Ok(own::ProjectStorage {
            project_id: id.to_owned(),
            figures: figures.collect(),
            ..Default::default()
        })
    }
}

fn builds(usage: &ProjectUsage) -> wire::ContainerBuildUsage {
    wire::ContainerBuildUsage {
        project_name: usage.name.clone(),
        build_count: i32::try_from(usage.builds).unwrap_or(i32::MAX),
        minutes_saved: usage.saved.as_secs_f32() / 60.0,
        minutes_billed: usage.duration.as_secs_f32() / 60.0
            * crate::hardware::multiplier(usage.hardware),
        ..Default::default()
    }
}

fn storage(kind: &str, bytes: u64) -> wire::StorageUsage {
    // Display precision: a float keeps seven digits.
    #[allow(clippy::cast_precision_loss)]
    let total_gb = bytes as f32 / GB as f32;
    wire::StorageUsage { storage_type: kind.to_owned(), total_gb, ..Default::default() }
}

/// The window that was asked for: both ends, in order.
fn window(
    start: Option<&Timestamp>,
    end: Option<&Timestamp>,
) -> Result<(DateTime<Utc>, DateTime<Utc>), ConnectError> {
    let moment = |name: &str, time: Option<&Timestamp>| {
        let time =
            time.ok_or_else(|| ConnectError::invalid_argument(format!("{name} is missing")))?;
        let nanos = u32::try_from(time.nanos).ok();
        nanos
            .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
            .ok_or_else(|| ConnectError::invalid_argument(format!("{name} is no time")))
    };
    let (start, end) = (moment("start_at", start)?, moment("end_at", end)?);
    if start >= end {
        return Err(ConnectError::invalid_argument("start_at must be before end_at"));
    }
    Ok((start, end))
}
