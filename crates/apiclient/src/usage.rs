//! What was used, in a window of time.

use chrono::{DateTime, Utc};
use cofferdam_wire::depot::core::v1 as wire;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::page::{Page, PageRequest};
use crate::time;

/// A window of time; its end is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Its first moment.
    pub start: DateTime<Utc>,
    /// The first moment after it.
    pub end: DateTime<Utc>,
}

/// What a project used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectUsage {
    /// The project.
    pub project: String,
    /// Builds that were made in the window.
    pub builds: i32,
    /// How long they took together.
    pub duration_seconds: i32,
    /// Size of the project's cache now, in GiB.
    pub cache_gb: i32,
}

/// What an organization used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Usage {
    /// Builds, by project.
    pub builds: Vec<BuildUsage>,
    /// What is stored.
    pub storage: Vec<StorageUsage>,
}

/// Builds of one project.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildUsage {
    /// The project's name.
    pub project: String,
    /// How many.
    pub count: i32,
    /// What the cache saved.
    pub minutes_saved: f32,
    /// What they took, weighted as the server does.
    pub minutes_billed: f32,
}

/// Something that is stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StorageUsage {
    /// What.
    pub kind: String,
    /// How much, in GiB.
    pub total_gb: f32,
}

impl From<wire::ProjectUsage> for ProjectUsage {
    fn from(usage: wire::ProjectUsage) -> Self {
        Self {
            project: usage.project_id,
            builds: usage.build_count,
            duration_seconds: usage.build_duration_seconds,
            cache_gb: usage.layer_cache_size_gb,
        }
    }
}

impl ApiClient {
    /// What each project of the organization used.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn project_usages(
        &self,
        window: Window,
        page: PageRequest,
    ) -> Result<Page<ProjectUsage>, ApiError> {
        let request = wire::ListProjectUsageRequest {
            start_at: time::write(window.start),
            end_at: time::write(window.end),
            page_size: page.size,
            page_token: page.token,
            ..Default::default()
        };
        let call =
            self.usage_service().list_project_usage_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let usages = answer.usage.into_iter().map(ProjectUsage::from).collect();
        Ok(Page::new(usages, Some(answer.next_page_token)))
    }

    /// What one project used.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn project_usage(
        &self,
        project: &str,
        window: Window,
    ) -> Result<ProjectUsage, ApiError> {
        let request = wire::GetProjectUsageRequest {
            project_id: project.to_owned(),
            start_at: time::write(window.start),
            end_at: time::write(window.end),
            ..Default::default()
        };
        let call =
            self.usage_service().get_project_usage_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let usage = answer.usage.into_option().map(ProjectUsage::from);
        usage.ok_or(ApiError::Incomplete { what: "usage" })
    }

    /// What the organization used.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn usage(&self, window: Window) -> Result<Usage, ApiError> {
        let request = wire::GetUsageRequest {
            start_at: time::write(window.start),
            end_at: time::write(window.end),
            ..Default::default()
        };
        let call = self.usage_service().get_usage_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let builds = answer.container_build.into_iter().map(|usage| BuildUsage {
            project: usage.project_name,
            count: usage.build_count,
            minutes_saved: usage.minutes_saved,
            minutes_billed: usage.minutes_billed,
        });
        let storage = answer
            .storage
            .into_iter()
            .map(|usage| StorageUsage { kind: usage.storage_type, total_gb: usage.total_gb });
        Ok(Usage { builds: builds.collect(), storage: storage.collect() })
    }
}
