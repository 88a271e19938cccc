//! The builder's own traffic: pulls, pushes, downloads, git.
//!
//! It leaves through one device that ends in the gate, so the policy of the project holds for it as for steps. Here each
//! connection is put to the step on whose behalf it was made, and a step that fails because of the policy is told so.
//! Connections are pooled and outlive steps; the gate reports them in parts. Of two steps that are online at once, a part
//! belongs to the one that named its host, and to whichever ends first when neither or both did. None is lost or told twice.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_egress::{AttachError, Attachment, Connection, Gate, StepRecord};
use cofferdam_solver::VertexLog;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::failure::Failure;
use crate::network_record::note;
use crate::serving::ServedSolve;

/// Refusals a failure is explained with: enough for a registry and its mirrors.
const MAX_EXPLAINED: usize = 4;

/// The builder as a user of the network.
#[derive(Default)]
pub(crate) struct Online {
    /// Absent where the builder has the host's network.
    attachment: Option<Attachment>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// What the steps that are online name, by number.
    active: HashMap<u64, String>,
    /// Reported and not yet put to a step.
    pending: Vec<Connection>,
    solves: HashMap<String, Arc<ServedSolve>>,
}

/// A step that is online; gone from the list when dropped, as a cancelled one is.
struct Turn<'a> {
    online: &'a Online,
    number: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.online.lock().active.remove(&self.number);
    }
}

impl Online {
    /// Hands the builder's device to the gate.
    pub(crate) async fn attach(gate: &Gate, tun: OwnedFd) -> Result<Self, AttachError> {
        let attachment = Some(gate.attach_builder(tun).await?);
        Ok(Self { attachment, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server wants to know what this job connects to.
    pub(crate) fn add_solve(&self, job: &str, solve: &Arc<ServedSolve>) {
        self.lock().solves.insert(job.to_owned(), Arc::clone(solve));
    }

    /// The job has ended.
    pub(crate) fn remove_solve(&self, job: &str) {
        self.lock().solves.remove(job);
    }

    /// Does work that may use the network for a step. `names` is where to, as the step says it.
    pub(crate) async fn during<T>(
        &self,
        log: &VertexLog,
        names: &str,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let holders = || {
            let holders = log.holders().into_iter();
            holders.map(|(job, digest)| (job, digest.to_string())).collect()
        };
        self.during_for(holders, names, work.boxed()).await
    }

    /// The same for work of a build that shows as no step.
    pub(crate) async fn during_job<T>(
        &self,
        job: &str,
        names: &str,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        self.during_for(|| vec![(Arc::from(job), String::new())], names, work.boxed()).await
    }

    async fn during_for<T>(
        &self,
        holders: impl Fn() -> Vec<(Arc<str>, String)>,
        names: &str,
        // Boxed: this is part of nearly every future there is, and whatever is in it would be in each of them.
        work: BoxFuture<'_, Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(attachment) = &self.attachment else { return work.await };
        let turn = self.enter(names);
        let result = work.await;
        let connections = attachment.take().await.connections;
        let own = self.leave(turn, names, connections);
        if own.is_empty() {
            return result;
        }
        let holders = holders();
        for connection in &own {
            note(holders.first().map_or("", |(_, digest)| digest), connection);
        }
        let denied = explanation(&own);
        let record = StepRecord { connections: own, ..StepRecord::default() };
        for (job, digest) in &holders {
            let solve = self.lock().solves.get(&**job).cloned();
            if let Some(solve) = solve {
                solve.add_record(digest, &record, false);
            }
        }
        match (result, denied) {
            (Err(failure), Some(denied)) => Err(failure.because(&denied)),
            (result, _) => result,
        }
    }

    fn enter(&self, names: &str) -> Turn<'_> {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.active.insert(number, names.to_owned());
        Turn { online: self, number }
    }

    /// Ends a turn and takes what belongs to it.
    fn leave(&self, turn: Turn<'_>, names: &str, new: Vec<Connection>) -> Vec<Connection> {
        drop(turn);
        let mut state = self.lock();
        state.pending.extend(new);
        let others: Vec<String> = state.active.values().cloned().collect();
        let foreign =
            |one: &Connection| !named(names, one) && others.iter().any(|other| named(other, one));
        let (left, own) = std::mem::take(&mut state.pending).into_iter().partition(foreign);
        state.pending = left;
        own
    }
}

/// Whether a text names a connection's destination.
fn named(text: &str, connection: &Connection) -> bool {
    match &connection.name {
        Some(name) => text.contains(name.as_str()),
        None => text.contains(&connection.address.to_string()) || text.contains("localhost"),
    }
}

/// Why the gate refused what it refused.
fn explanation(connections: &[Connection]) -> Option<String> {
    let denied = connections.iter().filter(|one| one.denied()).take(MAX_EXPLAINED);
    let texts: Vec<String> = denied
        .map(|one| {
            let name = one.name.as_deref().map(|name| format!("{name} ")).unwrap_or_default();
            format!("{name}({} port {}): {}", one.address, one.port, one.verdict.rule())
        })
        .collect();
    (!texts.is_empty()).then(|| {
        format!(
            "the egress policy refused {}; an operator opens a registry to builders with [egress] vouched",
            texts.join(", ")
        )
    })
}
