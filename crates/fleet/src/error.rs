//! What can go wrong with builders, as the server is told.

use std::path::PathBuf;

/// Something about a builder failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FleetError {
    /// This process may not give ids away.
    #[error(
        "projects are kept apart by id ranges of their own, which only root can hand out: run the server as root"
    )]
    NotRoot,
    /// A directory of the server could not be used.
    #[error("{action} {}: {reason}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The project's id cannot be the name of a directory.
    #[error("{0:?} cannot be the id of a project")]
    Project(String),
    /// The build's id cannot be sent to a builder.
    #[error("{0:?} cannot be the id of a build")]
    Build(String),
    /// There are no ids for this slot.
    #[error("there is no id range number {0}")]
    Slot(u32),
    /// The fleet takes no more leases.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The builder could not be started.
    #[error("the builder could not be started: {0}")]
    Start(String),
    /// The builder has ended.
    #[error("the builder has ended: {0}")]
    Ended(String),
    /// The builder could not be reached, or broke off.
    #[error("{call}: {reason}")]
    Call {
        /// What was asked.
        call: &'static str,
        /// What came instead of an answer.
        reason: String,
    },
}

/// An error and its causes as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
