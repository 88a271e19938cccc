//! Builds that were or are: their state, steps and connections.

use chrono::{DateTime, Utc};
use cofferdam_wire::cofferdam::server::v1 as server;
use cofferdam_wire::depot::build::v1 as steps;
use cofferdam_wire::depot::cli::v1 as run;
use cofferdam_wire::depot::core::v1 as wire;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::page::{Page, PageRequest};
use crate::time;

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Its identity.
    pub id: String,
    /// What became of it.
    pub status: BuildStatus,
    /// When it was asked for.
    pub created_at: Option<DateTime<Utc>>,
    /// When its first step began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long it took.
    pub duration_seconds: Option<i32>,
    /// What the cache saved.
    pub saved_seconds: Option<i32>,
    /// Steps that the cache answered.
    pub cached_steps: Option<i32>,
    /// All steps.
    pub total_steps: Option<i32>,
}

/// What became of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildStatus {
    /// Not known to this program.
    Unknown,
    /// Still going.
    Running,
    /// A step failed, or the build made no sense.
    Failed,
    /// Done.
    Success,
    /// It was lost, through nobody's fault who wrote it.
    Error,
    /// Somebody stopped it.
    Canceled,
}

impl BuildStatus {
    /// The name that JSON has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Success => "success",
            Self::Error => "error",
            Self::Canceled => "canceled",
        }
    }
}

/// Where a build belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPlace {
    /// Its project.
    pub project: String,
    /// Its page; empty when the server has none.
    pub url: String,
}

/// A step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its identity within the build.
    pub digest: String,
    /// What it does.
    pub name: String,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether the cache answered it.
    pub cached: bool,
    /// Why it failed; absent when it did not.
    pub error: Option<String>,
    /// Whether it wrote anything.
    pub has_logs: bool,
}

/// A connection that a step made, or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkConnection {
    /// The step.
    pub step_digest: String,
    /// What the step does.
    pub step_name: String,
    /// `tcp`, `udp`, …
    pub protocol: String,
    /// The name that was asked for; empty when it was an address.
    pub host: String,
    /// The address.
    pub address: String,
    /// The port.
    pub port: u32,
    /// Whether it was let through.
    pub allowed: bool,
    /// Bytes the step sent.
    pub sent_bytes: u64,
    /// Bytes the step got.
    pub received_bytes: u64,
    /// When it was made.
    pub opened_at: Option<DateTime<Utc>>,
}

impl From<wire::Build> for Build {
    fn from(build: wire::Build) -> Self {
        use wire::build::Status;
        let status = match build.status.as_known() {
            Some(Status::STATUS_RUNNING) => BuildStatus::Running,
            Some(Status::STATUS_FAILED) => BuildStatus::Failed,
            Some(Status::STATUS_SUCCESS) => BuildStatus::Success,
            Some(Status::STATUS_ERROR) => BuildStatus::Error,
            Some(Status::STATUS_CANCELED) => BuildStatus::Canceled,
            Some(Status::STATUS_UNSPECIFIED) | None => BuildStatus::Unknown,
        };
        Self {
            status,
            created_at: time::read(&build.created_at),
            started_at: time::read(&build.started_at),
            finished_at: time::read(&build.finished_at),
            duration_seconds: build.build_duration_seconds,
            saved_seconds: build.saved_duration_seconds,
            cached_steps: build.cached_steps,
            total_steps: build.total_steps,
            id: build.build_id,
        }
    }
}

impl From<steps::BuildStep> for Step {
    fn from(step: steps::BuildStep) -> Self {
        Self {
            started_at: time::read(&step.started_at),
            completed_at: time::read(&step.completed_at),
            cached: step.cache_state == steps::CacheState::CACHE_STATE_CACHED,
            digest: step.digest,
            name: step.name,
            error: step.error,
            has_logs: step.has_logs,
        }
    }
}

impl From<server::StepConnection> for NetworkConnection {
    fn from(connection: server::StepConnection) -> Self {
        Self {
            opened_at: time::read(&connection.opened_at),
            step_digest: connection.step_digest,
            step_name: connection.step_name,
            protocol: connection.protocol,
            host: connection.host,
            address: connection.address,
            port: connection.port,
            allowed: connection.allowed,
            sent_bytes: connection.sent_bytes,
            received_bytes: connection.received_bytes,
        }
    }
}

impl ApiClient {
    /// The builds of a project, newest first.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn builds(&self, project: &str, page: PageRequest) -> Result<Page<Build>, ApiError> {
        let request = wire::ListBuildsRequest {
            project_id: project.to_owned(),
            page_size: page.size,
            page_token: page.token,
            ..Default::default()
        };
        let call = self.build_service().list_builds_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let builds = answer.builds.into_iter().map(Build::from).collect();
        Ok(Page::new(builds, Some(answer.next_page_token)))
    }

    /// One build.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn build(&self, id: &str) -> Result<Build, ApiError> {
        let request = wire::GetBuildRequest { build_id: id.to_owned(), ..Default::default() };
        let call = self.build_service().get_build_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        answer.build.into_option().map(Build::from).ok_or(ApiError::Incomplete { what: "build" })
    }

    /// Project and page of a build.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn build_place(&self, id: &str) -> Result<BuildPlace, ApiError> {
        let request = run::GetBuildRequest { build_id: id.to_owned(), ..Default::default() };
        let call = self.run_service().get_build_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        Ok(BuildPlace { project: answer.project_id, url: answer.build_url })
    }

    /// The steps of a build, in the order they appeared.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn steps(
        &self,
        project: &str,
        build: &str,
        page: PageRequest,
    ) -> Result<Page<Step>, ApiError> {
        let request = steps::GetBuildStepsRequest {
            project_id: project.to_owned(),
            build_id: build.to_owned(),
            page_size: page.size,
            page_token: page.token,
            ..Default::default()
        };
        let call = self.step_service().get_build_steps_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let steps = answer.build_steps.into_iter().map(Step::from).collect();
        Ok(Page::new(steps, answer.next_page_token))
    }

    /// What the steps of a build reached over the network, and what they were refused.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn connections(
        &self,
        build: &str,
        page: PageRequest,
    ) -> Result<Page<NetworkConnection>, ApiError> {
        let request = server::ListConnectionsRequest {
            build_id: build.to_owned(),
            page_size: page.size,
            page_token: page.token,
            ..Default::default()
        };
        let call =
            self.server_service().list_connections_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let connections = answer.connections.into_iter().map(NetworkConnection::from).collect();
        Ok(Page::new(connections, Some(answer.next_page_token)))
    }

    /// Stops a running build; one that has ended is left as it is.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn cancel_build(&self, id: &str) -> Result<(), ApiError> {
        let request = server::CancelBuildRequest { build_id: id.to_owned(), ..Default::default() };
        let call = self.server_service().cancel_build_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }

    /// Makes a page of the build that needs no token; gives its address.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn share_build(&self, id: &str) -> Result<String, ApiError> {
        let request = wire::ShareBuildRequest { build_id: id.to_owned(), ..Default::default() };
        let call = self.build_service().share_build_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        if answer.share_url.is_empty() {
            return Err(ApiError::Incomplete { what: "address" });
        }
        Ok(answer.share_url)
    }

    /// Takes that page away.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn stop_sharing_build(&self, id: &str) -> Result<(), ApiError> {
        let request =
            wire::StopSharingBuildRequest { build_id: id.to_owned(), ..Default::default() };
        let call =
            self.build_service().stop_sharing_build_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }
}
