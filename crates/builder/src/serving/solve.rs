//! One solve of a build, as its watchers are told of it.

use std::sync::Arc;

use cofferdam_egress::{Connection, StepRecord};
use cofferdam_solver::Job;
use connectrpc::ErrorCode;
use tokio::sync::watch;

use crate::failure::Failure;
use crate::runtime::OpRuntime;

/// Connections kept of one solve; the server keeps fewer of a whole build.
const MAX_CONNECTIONS: usize = 20_000;

/// A solve that runs or has run.
pub(crate) struct ServedSolve {
    reference: String,
    job: Arc<Job<OpRuntime>>,
    state: watch::Sender<State>,
}

/// What is known of a solve besides the events of its job; only grows.
#[derive(Default)]
pub(super) struct State {
    /// What its steps connected to, with the step's digest.
    pub(super) connections: Vec<(String, Connection)>,
    /// Steps whose connections are not known yet.
    recording: usize,
    ended: Option<Ended>,
}

/// How a solve ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) error: Option<String>,
    pub(super) canceled: bool,
}

impl State {
    /// How it ended, once nothing more can come.
    pub(super) fn over(&self) -> Option<&Ended> {
        self.ended.as_ref().filter(|_| self.recording == 0)
    }
}

impl ServedSolve {
    pub(super) fn new(reference: &str, job: Arc<Job<OpRuntime>>) -> Arc<Self> {
        Arc::new(Self { reference: reference.to_owned(), job, state: watch::Sender::default() })
    }

    /// What the client calls it.
    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    pub(super) fn job(&self) -> &Arc<Job<OpRuntime>> {
        &self.job
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn cancel(&self) {
        if self.state.borrow().ended.is_none() {
            self.job.cancel();
        }
    }

    fn end(&self, ended: Ended) {
        self.state.send_if_modified(|state| {
            let first = state.ended.is_none();
            if first {
                state.ended = Some(ended);
            }
            first
        });
    }

    /// Announces that a step's connections will be known.
    pub(crate) fn expect_record(&self) {
        self.state.send_modify(|state| state.recording += 1);
    }

    /// Keeps what a step connected to. `expected` when it was announced.
    pub(crate) fn add_record(&self, step: &str, record: &StepRecord, expected: bool) {
        self.state.send_modify(|state| {
            let room = MAX_CONNECTIONS.saturating_sub(state.connections.len());
            let new = record.connections.iter().take(room);
            state.connections.extend(new.map(|one| (step.to_owned(), one.clone())));
            if expected {
                state.recording = state.recording.saturating_sub(1);
            }
        });
    }
}

/// Ends a solve whichever way its call ends.
#[derive(Default)]
pub(crate) struct Solving(Option<Arc<ServedSolve>>);

impl Solving {
    pub(super) const fn of(solve: Arc<ServedSolve>) -> Self {
        Self(Some(solve))
    }

    /// The solve, when a server watches.
    pub(crate) fn solve(&self) -> Option<&Arc<ServedSolve>> {
        self.0.as_ref()
    }

    /// Keeps how the solve ended.
    pub(crate) fn end<T>(&self, result: &Result<T, Failure>) {
        let Some(solve) = &self.0 else { return };
        let failure = result.as_ref().err();
        solve.end(Ended {
            error: failure.map(|failure| failure.message().to_owned()),
            canceled: failure.is_some_and(|failure| failure.code() == ErrorCode::Canceled),
        });
    }
}

impl Drop for Solving {
    fn drop(&mut self) {
        if let Some(solve) = &self.0 {
            solve.end(Ended { error: Some("the client went away".to_owned()), canceled: true });
        }
    }
}
