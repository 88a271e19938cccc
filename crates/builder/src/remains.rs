//! What a failed step leaves for whoever wants to look into it: the files that its mounts had in the end.
//!
//! Travels inside the step's error, so it is there for as long as somebody holds the error and no longer. Only kept for builds that
//! a client drives itself, who alone can ask for it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::failure::Failure;
use crate::snapshot::Snapshot;

/// The part of the operation that failed, when it is not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// All of it.
    Whole,
    /// One action of a file operation.
    Action(usize),
    /// Finding out what one of its inputs holds.
    Input(usize),
}

/// What is left.
pub(crate) struct Remains {
    /// What it began with: per mount or input.
    pub(crate) inputs: Vec<Option<Snapshot>>,
    /// What it had in the end: per mount or action.
    pub(crate) mounts: Vec<Option<Snapshot>>,
    /// What failed.
    pub(crate) subject: Subject,
}

/// The same on its way through the solver. It says nothing: the error around it has said all.
#[derive(Clone)]
pub(crate) struct Left(pub(crate) Arc<Remains>);

impl Left {
    /// The remains in an error of a step.
    pub(crate) fn of(error: &cofferdam_solver::StepError) -> Option<Self> {
        error.source.as_ref()?.downcast_ref::<Self>().cloned()
    }
}

impl fmt::Debug for Left {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Left").field(&self.0.subject).finish()
    }
}

impl fmt::Display for Left {
    fn fmt(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl Error for Left {}

impl Failure {
    /// The same failure with what its step left.
    #[must_use]
    pub(crate) fn leaving(self, remains: Remains) -> Self {
        self.with_left(Left(Arc::new(remains)))
    }
}
