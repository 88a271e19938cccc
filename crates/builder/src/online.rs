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

/// Work that is online. However it ends, also by being dropped, what it connected to is put to its step.
struct Turn {
    online: Arc<Online>,
    number: u64,
    names: String,
    /// The step, when there is one: more may want it before it ends.
    log: Option<VertexLog>,
    holders: Vec<Holder>,
    settled: bool,
}

/// A job that wanted the work when it began.
struct Holder {
    job: Arc<str>,
    /// What it calls the step.
    digest: String,
    /// Who is told, and waits for that.
    solve: Option<Arc<ServedSolve>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.online.lock().active.remove(&self.number);
        if self.settled {
            return;
        }
        // Cancelled: nobody waits, and it is on the record all the same.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (online, names) = (Arc::clone(&self.online), std::mem::take(&mut self.names));
            let (log, holders) = (self.log.take(), std::mem::take(&mut self.holders));
            runtime.spawn(async move { online.settle(&names, log.as_ref(), &holders).await });
        }
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
        self: &Arc<Self>,
        log: &VertexLog,
        names: &str,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        self.during_for(self.enter(Some(log), holders_of(log), names), work.boxed()).await
    }

    /// The same for work of a build that shows as no step.
    pub(crate) async fn during_job<T>(
        self: &Arc<Self>,
        job: &str,
        names: &str,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let holders = vec![(Arc::from(job), String::new())];
        self.during_for(self.enter(None, holders, names), work.boxed()).await
    }

    async fn during_for<T>(
        &self,
        mut turn: Turn,
        // Boxed: this is part of nearly every future there is, and whatever is in it would be in each of them.
        work: BoxFuture<'_, Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let result = work.await;
        self.lock().active.remove(&turn.number);
        let own = self.settle(&turn.names, turn.log.as_ref(), &turn.holders).await;
        turn.settled = true;
        match (result, explanation(&own)) {
            (Err(failure), Some(denied)) => Err(failure.because(&denied)),
            (result, _) => result,
        }
    }

    fn enter(
        self: &Arc<Self>,
        log: Option<&VertexLog>,
        holders: Vec<(Arc<str>, String)>,
        names: &str,
    ) -> Turn {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.active.insert(number, names.to_owned());
        let holders: Vec<Holder> = holders
            .into_iter()
            .map(|(job, digest)| {
                let solve = state.solves.get(&*job).cloned();
                Holder { job, digest, solve }
            })
            .collect();
        drop(state);
        for solve in holders.iter().filter_map(|holder| holder.solve.as_ref()) {
            solve.expect_record();
        }
        let (online, names, log) = (Arc::clone(self), names.to_owned(), log.cloned());
        Turn { online, number, names, log, holders, settled: false }
    }

    /// Takes what belongs to work that has ended, and puts it on record.
    async fn settle(
        &self,
        names: &str,
        log: Option<&VertexLog>,
        holders: &[Holder],
    ) -> Vec<Connection> {
        let new = match &self.attachment {
            Some(attachment) => attachment.take().await.connections,
            None => Vec::new(),
        };
        let own = self.claim(names, new);
        for connection in &own {
            let (job, step) = holders.first().map_or(("", ""), |one| (&*one.job, &*one.digest));
            note(job, step, connection);
        }
        let record = StepRecord { connections: own, ..StepRecord::default() };
        for holder in holders {
            if let Some(solve) = &holder.solve {
                solve.add_record(&holder.digest, &record, true);
            }
        }
        for (job, digest) in log.map(holders_of).unwrap_or_default() {
            let late = holders.iter().all(|holder| holder.job != job);
            let solve = late.then(|| self.lock().solves.get(&*job).cloned()).flatten();
            if let Some(solve) = solve {
                solve.add_record(&digest, &record, false);
            }
        }
        record.connections
    }

    /// What belongs to work that names these places, of what is new and of what was left.
    fn claim(&self, names: &str, new: Vec<Connection>) -> Vec<Connection> {
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

fn holders_of(log: &VertexLog) -> Vec<(Arc<str>, String)> {
    log.holders().into_iter().map(|(job, digest)| (job, digest.to_string())).collect()
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
