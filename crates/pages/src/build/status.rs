//! How a build stands, and how that is said.

use crate::assets::FILES;

/// How a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has not ended.
    Running,
    /// It ended well.
    Success,
    /// A step of it failed.
    Failed,
    /// It could not be run to its end.
    Error,
    /// It was canceled.
    Canceled,
}

impl Status {
    /// What it is called.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Status::Running => "Running",
            Status::Success => "Succeeded",
            Status::Failed => "Failed",
            Status::Error => "Error",
            Status::Canceled => "Canceled",
        }
    }

    /// The class of its tag and the id of its sign: the same as those of steps that stand so.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Success => "done",
            Status::Failed | Status::Error => "failed",
            Status::Canceled => "stopped",
        }
    }

    /// The icon in the browser's tab.
    pub(crate) fn icon(self) -> &'static str {
        match self {
            Status::Running => &FILES.running.path,
            Status::Success => &FILES.success.path,
            Status::Failed | Status::Error => &FILES.failure.path,
            Status::Canceled => &FILES.canceled.path,
        }
    }
}
