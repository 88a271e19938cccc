//! Batches of changes to disk: data first, then the rows that name it.
//!
//! One batch is one `syncfs` and one durable transaction, whatever number of layers, blobs and
//! records it holds. Callers never wait for it unless they ask to.
//!
//! A `syncfs` that fails is never tried again as if nothing had happened: the kernel tells of a
//! lost write once, see `loss`.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cofferdam_digest::Digest;

use crate::error::RecordError;
use crate::ids::{LayerId, name_of};
use crate::root::{Root, open_directory};
use crate::state::{Pending, State, lock};
use crate::store::Store;
use crate::{journal, loss, walk};

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

    fn is_running(&self) -> bool {
        lock(&self.thread).is_some()
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
        // A panic over a damaged file must not end all writing for as long as the store is open.
        let written = std::panic::catch_unwind(AssertUnwindSafe(|| write_pending(&store)));
        let error = match written {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => chain(&error),
            Err(_) => PANICKED.to_owned(),
        };
        tracing::warn!(%error, "cannot write the store's changes");
        store.flusher.schedule(RETRY_DELAY);
    }
}

const PANICKED: &str = "writing ended in a panic";

/// An error with its causes.
pub(crate) fn chain(error: &RecordError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
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
    let (batch, number) = {
        let mut state = lock(&store.state);
        // Something is left here only by a writer that died.
        let unwritten = std::mem::take(&mut state.writing);
        state.pending.restore(unwritten);
        let pending = std::mem::take(&mut state.pending);
        if pending.is_empty() {
            // What somebody waits for may have left before its batch began.
            state.batches += 1;
            let number = state.batches;
            drop(state);
            drop(Turn { store, number, failure: None });
            return Ok(());
        }
        state.batches += 1;
        state.writing = pending.clone();
        (Batch::new(&state, pending), state.batches)
    };
    let mut turn = Turn { store, number, failure: Some(PANICKED.to_owned()) };
    let mut lost = false;
    let written = write(store, &batch, &mut lost);
    let mut state = lock(&store.state);
    state.blobs.retain(|_, blob| blob.strong_count() > 0);
    let changes = std::mem::take(&mut state.writing);
    loss::delete_released(store, &mut state);
    match written {
        Ok(removed) => {
            for id in &changes.layers {
                if let Some(entry) = state.layers.get_mut(id) {
                    entry.durable = true;
                }
            }
            for identity in removed {
                if !state.pending.records.contains_key(&identity) {
                    state.record_blobs.remove(&identity);
                }
            }
            turn.failure = None;
            drop(state);
            journal::batch_ended(store);
            Ok(())
        }
        Err(error) => {
            state.pending.restore(changes);
            drop(state);
            turn.failure = Some(chain(&error));
            if lost {
                loss::distrust_unsynced(store);
            }
            Err(error)
        }
    }
}

/// How far writing has come, for those who wait for it.
#[derive(Default, Clone)]
pub(crate) struct Progress {
    /// The last batch that ended, well or not.
    finished: u64,
    /// The last batch that failed, and why.
    failed: u64,
    reason: String,
}

/// A batch under way. However it ends, those who wait for it hear of it.
struct Turn<'a> {
    store: &'a Store,
    number: u64,
    failure: Option<String>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (number, failure) = (self.number, self.failure.take());
        self.store.progress.send_modify(|progress| {
            progress.finished = number;
            if let Some(reason) = failure {
                progress.failed = number;
                progress.reason = reason;
            }
        });
    }
}

impl Store {
    /// Waits until everything committed so far is durable, the batch in flight and the next one
    /// included: callers that wait at the same time share one batch. Nothing is written when
    /// only notes of use wait. May be dropped at any time.
    ///
    /// # Errors
    /// The batch failed: the disk is full or failing. What waits is tried again later.
    pub async fn settled(&self) -> Result<(), RecordError> {
        let mut progress = self.progress.subscribe();
        let target = {
            let state = lock(&self.state);
            if state.pending.is_work() {
                state.batches + 1
            } else if state.writing.is_work() {
                state.batches
            } else {
                return Ok(());
            }
        };
        self.flusher.schedule(Duration::ZERO);
        let unsettled = |reason: String| RecordError::Unsettled { reason };
        if !self.flusher.is_running() {
            return Err(unsettled("no thread can be started".to_owned()));
        }
        let ended = progress.wait_for(|progress| progress.finished >= target).await;
        match ended.map(|progress| progress.clone()) {
            Ok(progress) if progress.failed >= target => Err(unsettled(progress.reason)),
            Ok(_) => Ok(()),
            Err(_) => Err(unsettled("the store is closed".to_owned())),
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

/// The batch itself; gives the identities of records that died with their layers. Sets `lost`
/// when a sync fails.
fn write(store: &Store, batch: &Batch, lost: &mut bool) -> Result<Vec<Digest>, RecordError> {
    make_durable(store, &batch.changes, lost).map_err(|source| RecordError::Sync { source })?;
    Ok(store.database.apply(batch)?)
}

/// Makes durable what the rows of a batch name.
fn make_durable(store: &Store, changes: &Pending, lost: &mut bool) -> std::io::Result<()> {
    if changes.names_data() {
        sync(store).inspect_err(|_| *lost = true)?;
    }
    if !changes.fresh.is_empty() {
        settle_blobs(store, &changes.fresh, lost)?;
    }
    Ok(())
}

/// Makes all bytes written so far durable.
fn sync(store: &Store) -> std::io::Result<()> {
    #[cfg(test)]
    {
        if store.failing_syncs.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Err(rustix::io::Errno::IO.into());
        }
    }
    Ok(rustix::fs::syncfs(&store.root.top)?)
}

/// Moves blobs whose bytes are durable to their lasting place, and makes the moves durable too:
/// not every file system keeps them in order with the rows that are written next. A move that is
/// refused, as on a full disk, loses nothing.
fn settle_blobs(store: &Store, fresh: &HashSet<Digest>, lost: &mut bool) -> std::io::Result<()> {
    move_blobs(&store.root, fresh)?;
    let synced = sync_moves(store);
    *lost |= synced.is_err();
    Ok(synced?)
}

fn sync_moves(store: &Store) -> rustix::io::Result<()> {
    #[cfg(test)]
    {
        if store.failing_fsyncs.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Err(rustix::io::Errno::IO);
        }
    }
    sync_blob_directories(&store.root)
}

/// Makes moves of blobs durable.
pub(crate) fn sync_blob_directories(root: &Root) -> rustix::io::Result<()> {
    rustix::fs::fsync(&root.content)?;
    rustix::fs::fsync(&root.fresh)
}

/// Moves blobs whose bytes are durable to their lasting place.
pub(crate) fn move_blobs(root: &Root, blobs: &HashSet<Digest>) -> std::io::Result<()> {
    let (fresh, content) = (root.fresh.as_fd(), root.content.as_fd());
    for digest in blobs {
        let name = digest.hex();
        // What is there already was written by an earlier process and may have rotted since.
        match rustix::fs::renameat(fresh, &name, content, &name) {
            // Evicted meanwhile.
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Counts layers that nobody counted yet. A layer evicted meanwhile fails to be counted, which
/// no longer matters.
pub(crate) fn measure_new_layers(store: &Store) {
    let uncounted = lock(&store.state).uncounted.clone();
    for id in uncounted {
        let Ok(directory) = open_directory(store.root.layers.as_fd(), &name_of(id.0)) else {
            continue;
        };
        match walk::measure(directory) {
            Ok(usage) => {
                let mut state = lock(&store.state);
                state.uncounted.remove(&id);
                if let Some(entry) = state.layers.get_mut(&id) {
                    entry.info.usage = Some(usage);
                    state.pending.layers.insert(id);
                    store.came_in(usage.bytes);
                }
            }
            Err(error) => tracing::debug!(%id, %error, "cannot count a layer"),
        }
    }
}
