//! Figures for Prometheus. Totals only: nothing here names an organization, project or build.

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// Builds by how they ended.
pub(crate) const BUILDS_ENDED: &str = "cofferdam_builds_ended_total";
/// Builds that run.
pub(crate) const BUILDS_RUNNING: &str = "cofferdam_builds_running";
/// Steps by whether the cache answered.
pub(crate) const STEPS: &str = "cofferdam_steps_total";
/// Connections to builders.
pub(crate) const CONNECTIONS: &str = "cofferdam_builder_connections_total";

/// Installs the recorder of this process; what it says is served at `/metrics`.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    metrics::describe_counter!(BUILDS_ENDED, "Builds that ended, by status");
    metrics::describe_gauge!(BUILDS_RUNNING, "Builds that run");
    metrics::describe_counter!(STEPS, "Steps that completed, by whether the cache answered");
    metrics::describe_counter!(CONNECTIONS, "Connections of clients to builders");
    Ok(handle)
}
