//! One build of the server's: its solves, and whether it takes more.

use std::sync::Arc;

use cofferdam_solver::Job;
use connectrpc::ErrorCode;
use tokio::sync::watch;

use super::scope::canceled;
use super::solve::ServedSolve;
use crate::admission::Share;
use crate::failure::Failure;
use crate::runtime::OpRuntime;

/// Solves of one build. A bake file of many targets for many platforms has some hundred.
const MAX_SOLVES: usize = 1000;

/// A build that the server knows under this id.
pub(crate) struct ServedBuild {
    id: String,
    state: watch::Sender<State>,
    share: Arc<Share>,
}

/// What is known of a build; only grows.
#[derive(Default)]
pub(super) struct State {
    /// In the order they began. They keep their events until the build is forgotten, for watchers that come late.
    pub(super) solves: Vec<Arc<ServedSolve>>,
    /// Whether it takes no more solves.
    pub(super) closed: bool,
    canceled: Option<String>,
}

impl ServedBuild {
    pub(super) fn new(id: &str) -> Arc<Self> {
        Arc::new(Self { id: id.to_owned(), state: watch::Sender::default(), share: Arc::default() })
    }

    /// What its solves have together.
    pub(super) fn share(&self) -> Arc<Share> {
        Arc::clone(&self.share)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Why the build was cancelled, if it was.
    pub(super) fn canceled(&self) -> Option<String> {
        self.state.borrow().canceled.clone()
    }

    /// Adds a solve, or says why there can be none.
    pub(super) fn begin(
        &self,
        reference: &str,
        job: &Arc<Job<OpRuntime>>,
    ) -> Result<Arc<ServedSolve>, Failure> {
        let refuse = |message: &str| Failure::new(ErrorCode::FailedPrecondition, message);
        let mut begun = Err(refuse("the build has ended"));
        self.state.send_modify(|state| {
            begun = match (&state.canceled, state.closed) {
                (Some(reason), _) => Err(canceled(reason)),
                (None, true) => Err(refuse("the build has ended and takes no more work")),
                (None, false) if state.solves.len() >= MAX_SOLVES => {
                    Err(Failure::new(ErrorCode::ResourceExhausted, "the build has too many solves"))
                }
                (None, false) => {
                    let solve = ServedSolve::new(reference, Arc::clone(job));
                    state.solves.push(Arc::clone(&solve));
                    Ok(solve)
                }
            };
        });
        begun
    }

    /// Ends what runs and refuses more. The first reason counts.
    pub(super) fn cancel(&self, reason: &str) {
        let mut running = Vec::new();
        self.state.send_modify(|state| {
            if state.canceled.is_none() {
                state.canceled = Some(reason.to_owned());
                running.clone_from(&state.solves);
            }
        });
        for solve in running {
            solve.cancel();
        }
    }

    /// Refuses more.
    pub(super) fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
    }
}
