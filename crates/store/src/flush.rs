//! Batches of changes to disk: data first, then the rows that name it.
//!
//! One batch is one `syncfs` and one durable transaction, whatever number of layers, blobs and
//! records it holds. Callers never wait for it unless they ask to.

use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::RecordError;
use crate::ids::{LayerId, name_of};
use crate::root::{open_directory, rename_new, unlink};
use crate::state::{Pending, State, lock};
use crate::store::Store;
use crate::walk;

/// How long a change may wait for others: long enough for a small build to end first, short
/// enough that a crash costs little.
pub(crate) const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long notes of use may wait; losing them only blurs the order of eviction.
pub(crate) const TOUCH_DELAY: Duration = Duration::from_secs(30);
/// How long to wait after a failed batch, which is usually a full disk.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The thread that writes batches. It starts with the first change.
pub(crate) struct Flusher {
    store: Weak<Store>,
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Signal {
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Default)]
struct Plan {
    due: Option<Instant>,
    stop: bool,
}

impl Flusher {
    pub(crate) fn new(store: Weak<Store>) -> Self {
        Self { store, signal: Arc::default(), thread: Mutex::new(None) }
    }

    /// Writes a batch at the latest after `delay`.
    pub(crate) fn schedule(&self, delay: Duration) {
        let due = Instant::now() + delay;
        let mut plan = lock(&self.signal.plan);
        if plan.stop || plan.due.is_some_and(|planned| planned <= due) {
            return;
        }
        plan.due = Some(due);
        drop(plan);
        self.signal.changed.notify_one();
        self.ensure_thread();
    }

    fn ensure_thread(&self) {
        let mut thread = lock(&self.thread);
        if thread.is_some() {
            return;
        }
        let (store, signal) = (self.store.clone(), self.signal.clone());
        let started = std::thread::Builder::new()
            .name("store-flush".into())
            .spawn(move || run(&store, &signal));
        match started {
            Ok(handle) => *thread = Some(handle),
            Err(error) => tracing::warn!(%error, "cannot start writing in the background"),
        }
    }

    /// Stops the thread; the caller writes the last batch.
    pub(crate) fn shut_down(&self) {
        lock(&self.signal.plan).stop = true;
        self.signal.changed.notify_one();
        if let Some(handle) = lock(&self.thread).take()
            // The thread itself closes the store when it held the last handle.
            && handle.thread().id() != std::thread::current().id()
        {
            let _ = handle.join();
        }
    }
}

fn run(store: &Weak<Store>, signal: &Signal) {
    while wait_until_due(signal) {
        let Some(store) = store.upgrade() else { return };
        if let Err(error) = write_pending(&store) {
            tracing::warn!(%error, source = error_source(&error), "cannot write the store's changes");
            store.flusher.schedule(RETRY_DELAY);
        }
    }
}

fn error_source(error: &RecordError) -> String {
    std::error::Error::source(error).map_or_else(String::new, ToString::to_string)
}

/// Waits for the planned time; `false` when the store closes.
fn wait_until_due(signal: &Signal) -> bool {
    let mut plan = lock(&signal.plan);
    loop {
        if plan.stop {
            return false;
        }
        let now = Instant::now();
        plan = match plan.due {
            Some(due) if due <= now => {
                plan.due = None;
                return true;
            }
            Some(due) => {
                let waited = signal.changed.wait_timeout(plan, due - now);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => signal.changed.wait(plan).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Writes everything that waits. One batch at a time.
pub(crate) fn write_pending(store: &Store) -> Result<(), RecordError> {
    let _turn = lock(&store.writer);
    measure_new_layers(store);
    let batch = {
        let mut state = lock(&store.state);
        let pending = std::mem::take(&mut state.pending);
        if pending.is_empty() {
            return Ok(());
        }
        state.writing = pending.clone();
        Batch::new(&state, pending)
    };
    let written = write(store, &batch);
    let mut state = lock(&store.state);
    state.blobs.retain(|_, blob| blob.strong_count() > 0);
    let changes = std::mem::take(&mut state.writing);
    match written {
        Ok(removed) => {
            for identity in removed {
                if !state.pending.records.contains_key(&identity) {
                    state.record_blobs.remove(&identity);
                }
            }
            Ok(())
        }
        Err(error) => {
            state.pending.restore(changes);
            Err(error)
        }
    }
}

/// Changes together with the rows they name, taken from the state in one moment.
pub(crate) struct Batch {
    pub(crate) changes: Pending,
    pub(crate) next_id: u64,
    pub(crate) layers: Vec<(LayerId, Vec<u8>)>,
    pub(crate) directories: Vec<(u64, Vec<u8>)>,
}

impl Batch {
    fn new(state: &State, changes: Pending) -> Self {
        let changed = changes.layers.union(&changes.touched);
        let layers = changed
            .filter_map(|id| {
                let row = serde_json::to_vec(&state.layers.get(id)?.info).ok()?;
                Some((*id, row))
            })
            .collect();
        let directories = changes
            .directories
            .iter()
            .filter_map(|id| {
                let row = serde_json::to_vec(&state.directories.get(id)?.row).ok()?;
                Some((*id, row))
            })
            .collect();
        Self { next_id: state.next_id, layers, directories, changes }
    }
}

/// The batch itself; gives the identities of records that died with their layers.
fn write(store: &Store, batch: &Batch) -> Result<Vec<cofferdam_digest::Digest>, RecordError> {
    if batch.changes.names_data() {
        rustix::fs::syncfs(&store.root.top)
            .map_err(|errno| RecordError::Sync { source: errno.into() })?;
        for digest in &batch.changes.fresh {
            settle_blob(store, &digest.hex()).map_err(|source| RecordError::Sync { source })?;
        }
    }
    Ok(store.database.apply(batch)?)
}

/// Moves a blob whose bytes are durable to its lasting place.
fn settle_blob(store: &Store, name: &str) -> std::io::Result<()> {
    let (fresh, content) = (store.root.fresh.as_fd(), store.root.content.as_fd());
    match rename_new(fresh, name, content, name) {
        // Evicted meanwhile.
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Ok(unlink(fresh, name)?),
        Err(errno) => Err(errno.into()),
    }
}

/// Counts layers that nobody counted yet. A layer evicted meanwhile fails to be counted, which
/// no longer matters.
pub(crate) fn measure_new_layers(store: &Store) {
    let unmeasured: Vec<LayerId> = {
        let state = lock(&store.state);
        let entries = state.layers.iter();
        entries.filter(|(_, entry)| entry.info.usage.is_none()).map(|(id, _)| *id).collect()
    };
    for id in unmeasured {
        let Ok(directory) = open_directory(store.root.layers.as_fd(), &name_of(id.0)) else {
            continue;
        };
        match walk::measure(directory) {
            Ok(usage) => {
                let mut state = lock(&store.state);
                if let Some(entry) = state.layers.get_mut(&id) {
                    entry.info.usage = Some(usage);
                    state.pending.layers.insert(id);
                }
            }
            Err(error) => tracing::debug!(%id, %error, "cannot count a layer"),
        }
    }
}
