//! Records as pages show them.

use cofferdam_pages::{BuildView, ConnectionView, ProjectRef, Status};
use cofferdam_records::{Build, BuildStatus, ConnectionRecord, Project};

pub(super) fn project_ref(project: &Project) -> ProjectRef {
    ProjectRef { id: project.id.clone(), name: project.name.clone() }
}

pub(super) fn build_view(build: &Build) -> BuildView {
    BuildView {
        id: build.id.clone(),
        status: match build.status {
            BuildStatus::Running => Status::Running,
            BuildStatus::Success => Status::Success,
            BuildStatus::Failed => Status::Failed,
            BuildStatus::Error => Status::Error,
            BuildStatus::Canceled => Status::Canceled,
        },
        error: build.error.clone(),
        command: command(build.command),
        created_at: build.created_at,
        started_at: build.started_at,
        finished_at: build.finished_at,
        cached_steps: u64::from(build.cached_steps),
        total_steps: u64::from(build.total_steps),
        saved: build.saved,
    }
}

/// Commands by the numbers of `depot.cli.v1.Command`.
fn command(number: i32) -> Option<String> {
    let name = match number {
        1 => "build",
        2 => "bake",
        3 => "buildx",
        4 => "dagger",
        5 => "exec",
        6 => "flyctl",
        _ => return None,
    };
    Some(name.to_owned())
}

pub(super) fn connection_view(connection: ConnectionRecord) -> ConnectionView {
    ConnectionView {
        protocol: connection.protocol,
        host: connection.host,
        address: connection.address,
        port: connection.port,
        allowed: connection.allowed,
        sent: connection.sent,
        received: connection.received,
        opened_at: connection.opened_at,
    }
}
