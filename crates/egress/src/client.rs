//! The builder's half: hands TUN descriptors to the gate and collects what it reports.
//!
//! A lost gate must never stall a build: waiting ends when the socket does. What the gate says is bounded per step here too,
//! for the same reason as there: a step decides how many connections it makes.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::control::{ControlError, ControlSocket, MAX_MESSAGE, Party, Report, Request};
use crate::record::{Connection, StepName, Unlisted};

/// Connections listed per step; the rest are summed. A long dependency download makes some thousands.
const MAX_LISTED: usize = 16384;
/// How long the end of a step waits for the gate's last reports, which need no outside answer.
const FINISH_WAIT: Duration = Duration::from_secs(5);

/// Why a step got no network.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The gate could not be asked.
    #[error("cannot hand step {step} to the gate")]
    Control {
        /// The step.
        step: StepName,
        /// What failed.
        #[source]
        source: ControlError,
    },
    /// The gate looked at the descriptor and declined.
    #[error("the gate refused step {step}: {reason}")]
    Refused {
        /// The step.
        step: StepName,
        /// The gate's words.
        reason: String,
    },
    /// The gate has ended.
    #[error("the gate ended before it served step {step}")]
    Gone {
        /// The step.
        step: StepName,
    },
}

/// The builder's end of one gate process. Dropping it, together with all attachments, closes the socket and ends the gate.
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

/// Everything that is known about the network use of a step when it is over.
#[derive(Debug, Clone, Default)]
pub struct StepRecord {
    /// The connections in the order they ended.
    pub connections: Vec<Connection>,
    /// Sum of those not in the list.
    pub unlisted: Unlisted,
    /// Whether the gate confirmed that this is all; false when it was lost or too slow.
    pub complete: bool,
}

/// One step served by the gate. Dropping it ends all flows of the step and closes the gate's copy of the descriptor.
#[derive(Debug)]
pub struct Attachment {
    id: u32,
    state: Arc<StepState>,
    shared: Arc<Shared>,
    detached: bool,
}

#[derive(Debug)]
struct Shared {
    socket: ControlSocket,
    steps: Mutex<HashMap<u32, Arc<StepState>>>,
    next: AtomicU32,
    /// What dropped values leave to the reader.
    late: mpsc::UnboundedSender<Late>,
}

#[derive(Debug)]
enum Late {
    /// Tell the gate that an attachment was dropped.
    Detach(u32),
    /// The last reason to stay may be gone.
    Check,
    /// The gate's handle was dropped; end with the last attachment.
    Close,
}

#[derive(Debug)]
struct StepState {
    record: Mutex<StepRecord>,
    phase: watch::Sender<Phase>,
    /// Flushes that are done.
    flushed: watch::Sender<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Asked,
    Served,
    Refused(String),
    Over,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding these locks, and the data stays consistent if it did.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// Takes the builder's end of the control socket. Must be called within a tokio runtime, which reads it from then on.
    ///
    /// # Errors
    ///
    /// When the descriptor cannot be watched.
    pub fn new(control: OwnedFd) -> Result<Gate, ControlError> {
        let (late, requests) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            socket: ControlSocket::new(control)?,
            steps: Mutex::default(),
            next: AtomicU32::new(1),
            late,
        });
        let reader = tokio::spawn(serve(Arc::clone(&shared), requests));
        Ok(Gate { shared, reader })
    }

    /// Whether the gate process has ended, so that no step can be attached any more.
    pub fn is_gone(&self) -> bool {
        self.reader.is_finished()
    }

    /// Gives a step the network: `tun` is the descriptor of the interface in its namespace, set up as the crate's contract
    /// says. Returns when the gate serves it.
    ///
    /// # Errors
    ///
    /// When the gate is gone or refuses the descriptor.
    pub async fn attach(
        &self,
        tun: OwnedFd,
        step: impl Into<StepName>,
    ) -> Result<Attachment, AttachError> {
        self.attach_party(tun, step.into(), Party::Step).await
    }

    /// Gives the builder itself the network, likewise. What the operator vouches for is open to it as well.
    ///
    /// # Errors
    ///
    /// As for a step.
    pub async fn attach_builder(&self, tun: OwnedFd) -> Result<Attachment, AttachError> {
        self.attach_party(tun, StepName::new("builder"), Party::Builder).await
    }

    async fn attach_party(
        &self,
        tun: OwnedFd,
        step: StepName,
        party: Party,
    ) -> Result<Attachment, AttachError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(StepState {
            record: Mutex::default(),
            phase: watch::Sender::new(Phase::Asked),
            flushed: watch::Sender::default(),
        });
        lock(&self.shared.steps).insert(id, Arc::clone(&state));
        // From here on a dropped future detaches too.
        let attachment =
            Attachment { id, state, shared: Arc::clone(&self.shared), detached: false };
        if self.is_gone() {
            return Err(AttachError::Gone { step });
        }
        let request = Request::Attach { id, step: step.clone(), party };
        if let Err(source) = self.shared.socket.send(&request, Some(tun.as_fd())).await {
            return Err(AttachError::Control { step, source });
        }
        let mut phase = attachment.state.phase.subscribe();
        let reached =
            phase.wait_for(|phase| *phase != Phase::Asked).await.map(|phase| phase.clone());
        match reached {
            Ok(Phase::Served) => Ok(attachment),
            Ok(Phase::Refused(reason)) => Err(AttachError::Refused { step, reason }),
            _ => Err(AttachError::Gone { step }),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Attachments hold the socket open; the reader must not, or the gate would outlive its builder's interest.
        if lock(&self.shared.steps).is_empty() {
            self.reader.abort();
        } else {
            let _ = self.shared.late.send(Late::Close);
        }
    }
}

impl Attachment {
    /// The connections that have ended so far, oldest first.
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.state.record).connections.clone()
    }

    /// Sum of the ended connections that [`Attachment::connections`] does not list.
    pub fn unlisted(&self) -> Unlisted {
        lock(&self.state.record).unlisted
    }

    /// Everything that was reported since the last call, open flows included as they stand. What is taken is not in the record
    /// of [`Attachment::finish`] again. Waits a few seconds at most.
    pub async fn take(&self) -> StepRecord {
        let mut flushed = self.state.flushed.subscribe();
        let before = *flushed.borrow_and_update();
        let done = async {
            self.shared.socket.send(&Request::Flush { id: self.id }, None).await.ok()?;
            // Another caller's flush that ends first may miss what only ours asked for, which the next call will have.
            flushed.wait_for(|count| *count > before).await.ok().map(drop)
        };
        let complete = matches!(tokio::time::timeout(FINISH_WAIT, done).await, Ok(Some(())));
        let record = std::mem::take(&mut *lock(&self.state.record));
        StepRecord { complete, ..record }
    }

    /// Detaches and returns the whole record, including the flows this ends. Waits a few seconds at most.
    pub async fn finish(mut self) -> StepRecord {
        self.detached = true;
        let mut phase = self.state.phase.subscribe();
        let over = async {
            self.shared.socket.send(&Request::Detach { id: self.id }, None).await.ok()?;
            phase.wait_for(|phase| *phase == Phase::Over).await.ok().map(drop)
        };
        let complete = matches!(tokio::time::timeout(FINISH_WAIT, over).await, Ok(Some(())));
        let record = std::mem::take(&mut *lock(&self.state.record));
        StepRecord { complete: complete && record.complete, ..record }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        lock(&self.shared.steps).remove(&self.id);
        let _ =
            self.shared.late.send(if self.detached { Late::Check } else { Late::Detach(self.id) });
    }
}

/// Reads reports and sends late detach requests until the socket ends.
async fn serve(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Late>) {
    let mut buffer = [0; MAX_MESSAGE];
    let mut closing = false;
    loop {
        if closing && lock(&shared.steps).is_empty() {
            break;
        }
        tokio::select! {
            received = shared.socket.receive::<Report>(&mut buffer) => match received {
                Ok(Some((Some(report), _))) => shared.take(report),
                Ok(Some((None, _))) => tracing::warn!("the gate sent a message that cannot be understood"),
                Ok(None) | Err(_) => break,
            },
            request = requests.recv() => match request {
                Some(Late::Close) | None => closing = true,
                Some(Late::Check) => {}
                Some(Late::Detach(id)) => {
                    let _ = shared.socket.send(&Request::Detach { id }, None).await;
                }
            },
        }
    }
    for state in lock(&shared.steps).values() {
        state.phase.send_replace(Phase::Over);
    }
}

impl Shared {
    fn take(&self, report: Report) {
        let (Report::Attached { id }
        | Report::Refused { id, .. }
        | Report::Connection { id, .. }
        | Report::Unlisted { id, .. }
        | Report::Flushed { id }
        | Report::Detached { id }) = &report;
        let Some(state) = lock(&self.steps).get(id).cloned() else { return };
        match report {
            Report::Attached { .. } => drop(state.phase.send_replace(Phase::Served)),
            Report::Refused { reason, .. } => {
                drop(state.phase.send_replace(Phase::Refused(reason)))
            }
            Report::Connection { connection, .. } => {
                let mut record = lock(&state.record);
                if record.connections.len() < MAX_LISTED {
                    record.connections.push(connection);
                } else {
                    record.unlisted.count(&connection);
                }
            }
            Report::Unlisted { sum, .. } => lock(&state.record).unlisted.add(sum),
            Report::Flushed { .. } => state.flushed.send_modify(|count| *count += 1),
            Report::Detached { .. } => {
                lock(&state.record).complete = true;
                state.phase.send_replace(Phase::Over);
            }
        }
    }
}
