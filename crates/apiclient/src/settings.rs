//! What a project says about its walls. Servers that know of none say so with the code `unimplemented`.

use cofferdam_wire::cofferdam::server::v1 as wire;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;

/// What is missing from an answer without settings.
const MISSING: ApiError = ApiError::Incomplete { what: "settings" };

/// What a project says about its walls.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ProjectSettings {
    /// The level of isolation that it demands; empty when it demands none.
    pub isolation: String,
    /// The level that its builds have at least, with what the server demands.
    pub least_isolation: String,
    /// What its builds may reach, when it says anything.
    pub network_policy: Option<NetworkPolicy>,
    /// What its builds and their steps may use.
    pub limits: ProjectLimits,
}

/// What builds may reach, within what the server allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NetworkPolicy {
    /// `public`, `list` or `off`; empty to say nothing.
    pub mode: String,
    /// What is opened.
    pub allow: Vec<String>,
    /// What is closed.
    pub deny: Vec<String>,
}

/// What builds and their steps may use, within what the server allows; 0 is no limit. The names are those of a builder's
/// configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ProjectLimits {
    /// Processors of a step.
    pub step_cpus: f64,
    /// Bytes of memory of a step.
    pub step_memory: u64,
    /// Processes of a step.
    pub step_pids: u64,
    /// Open files of a process.
    pub step_open_files: u64,
    /// Bytes that a step may write.
    pub step_disk: u64,
    /// Seconds of a step.
    pub step_time: u64,
    /// Bytes of output that are kept of a step.
    pub step_log: u64,
    /// Seconds of a build.
    pub build_time: u64,
    /// Steps of a build that run at once.
    pub build_steps: u64,
    /// Bytes of output that are kept of a build.
    pub build_log: u64,
    /// Builds that run at once.
    pub builds: u64,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SettingsChange {
    /// The level; an empty one takes back what was said.
    pub isolation: Option<String>,
    /// The policy; one without a mode takes back what was said.
    pub network_policy: Option<NetworkPolicy>,
    /// All limits at once.
    pub limits: Option<ProjectLimits>,
}

impl From<wire::ProjectSettings> for ProjectSettings {
    fn from(settings: wire::ProjectSettings) -> Self {
        let policy = settings.network_policy.into_option().map(|policy| NetworkPolicy {
            mode: policy.mode,
            allow: policy.allow,
            deny: policy.deny,
        });
        let limits = settings.limits.into_option().unwrap_or_default();
        Self {
            isolation: settings.isolation,
            least_isolation: settings.least_isolation,
            network_policy: policy,
            limits: ProjectLimits {
                step_cpus: limits.step_cpus,
                step_memory: limits.step_memory_bytes,
                step_pids: limits.step_pids,
                step_open_files: limits.step_open_files,
                step_disk: limits.step_disk_bytes,
                step_time: limits.step_seconds,
                step_log: limits.step_log_bytes,
                build_time: limits.build_seconds,
                build_steps: limits.build_steps,
                build_log: limits.build_log_bytes,
                builds: limits.builds,
            },
        }
    }
}

impl From<ProjectLimits> for wire::ProjectLimits {
    fn from(limits: ProjectLimits) -> Self {
        Self {
            step_cpus: limits.step_cpus,
            step_memory_bytes: limits.step_memory,
            step_pids: limits.step_pids,
            step_open_files: limits.step_open_files,
            step_disk_bytes: limits.step_disk,
            step_seconds: limits.step_time,
            step_log_bytes: limits.step_log,
            build_seconds: limits.build_time,
            build_steps: limits.build_steps,
            build_log_bytes: limits.build_log,
            builds: limits.builds,
            ..Default::default()
        }
    }
}

impl ApiClient {
    /// What a project says about its walls.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn project_settings(&self, id: &str) -> Result<ProjectSettings, ApiError> {
        let request = wire::GetSettingsRequest { project_id: id.to_owned(), ..Default::default() };
        let call = self.settings_service().get_settings_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        answer.settings.into_option().map(ProjectSettings::from).ok_or(MISSING)
    }

    /// Changes what a project says about its walls.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn update_settings(
        &self,
        id: &str,
        change: SettingsChange,
    ) -> Result<ProjectSettings, ApiError> {
        let policy = change.network_policy.map(|policy| wire::NetworkPolicy {
            mode: policy.mode,
            allow: policy.allow,
            deny: policy.deny,
            ..Default::default()
        });
        let request = wire::UpdateSettingsRequest {
            project_id: id.to_owned(),
            isolation: change.isolation,
            network_policy: policy.into(),
            limits: change.limits.map(wire::ProjectLimits::from).into(),
            ..Default::default()
        };
        let call =
            self.settings_service().update_settings_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        answer.settings.into_option().map(ProjectSettings::from).ok_or(MISSING)
    }

    /// The level of isolation that a build has run at; empty before it had a builder.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn build_isolation(&self, build: &str) -> Result<String, ApiError> {
        let request = wire::GetWallsRequest { build_id: build.to_owned(), ..Default::default() };
        let call = self.server_service().get_walls_with_options(request, Self::quick()).await;
        Ok(call.map_err(|error| self.failed(error))?.into_owned().isolation)
    }
}
