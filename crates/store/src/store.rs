//! The store itself: opening, closing, and what its parts share.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, watch};

use crate::clock::{Clock, SystemClock, Time, calm_future};
use crate::database::{Database, DatabaseError, Rows};
use crate::error::{OpenError, RecordError};
use crate::flush::{Flusher, Progress};
use crate::ids::IdRange;
use crate::journal::Journal;
use crate::root::{Root, RootLock};
use crate::state::{State, lock};
use crate::trash::Reaper;
use crate::{flush, journal, sweep};

/// How a store is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How container ids are written to disk.
    pub ids: IdRange,
}

/// An open store. It closes when the last handle to it, and to anything in it, is dropped;
/// closing is *blocking*.
pub struct Store {
    pub(crate) root: Arc<Root>,
    pub(crate) ids: IdRange,
    pub(crate) state: Mutex<State>,
    pub(crate) database: Database,
    /// Held while a batch goes to disk, so that batches keep their order.
    pub(crate) writer: Mutex<()>,
    /// Rung whenever a mutable directory becomes free.
    pub(crate) released: Notify,
    pub(crate) flusher: Flusher,
    pub(crate) reaper: Reaper,
    /// Whether the mark that mirrors may be torn by a crash was set by this process.
    pub(crate) mirrors_marked: AtomicBool,
    /// What time it is for stamps and ages.
    pub(crate) time: Time,
    /// Tells which batches have ended.
    pub(crate) progress: watch::Sender<Progress>,
    /// What a process that is killed leaves to the next. Locked before the state.
    pub(crate) journal: Mutex<Journal>,
    /// Bytes that came in since this was opened.
    growth: AtomicU64,
    /// Whether the records were damaged and begun anew.
    was_damaged: bool,
    /// Makes the next sync fail.
    #[cfg(test)]
    pub(crate) failing_syncs: AtomicBool,
    /// Makes the next sync of the blobs' directories fail.
    #[cfg(test)]
    pub(crate) failing_fsyncs: AtomicBool,
    /// Last, so that everything else is closed when the next one may open.
    lock: RootLock,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("root", &self.root.path()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `root`, which is created when missing and made private, and sweeps
    /// what a crash left. *Blocking*, but short: deletions happen in the background.
    ///
    /// # Errors
    /// The directory is in use by another open store, was written by a newer version, or cannot
    /// be used.
    pub fn open(root: &Path, options: Options) -> Result<Arc<Self>, OpenError> {
        Self::open_with_clock(root, options, Box::new(SystemClock))
    }

    /// Like [`Store::open`], with another clock.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_clock(
        root: &Path,
        options: Options,
        clock: Box<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let time = Time::new(clock);
        let (root, lock_file) = Root::prepare(root)?;
        let root = Arc::new(root);
        let failed = |source| OpenError::Records { root: root.path().to_owned(), source };
        let reaper = Reaper::new(root.clone());
        let (database, rows, was_damaged) = open_records(&root, &reaper).map_err(failed)?;
        let mut state = State::default();
        let clean = lock_file.was_clean;
        sweep::fill_and_sweep(&root, rows, &mut state, &reaper, clean).map_err(|source| {
            OpenError::Prepare {
                root: root.path().to_owned(),
                attempt: "sweep what a crash left",
                source,
            }
        })?;
        let now = time.stamp();
        calm_future(&mut state, now, now);
        let store = Arc::new_cyclic(|weak| Self {
            root,
            ids: options.ids,
            state: Mutex::new(state),
            database,
            writer: Mutex::new(()),
            released: Notify::new(),
            flusher: Flusher::new(weak.clone()),
            reaper,
            mirrors_marked: AtomicBool::new(false),
            time,
            progress: watch::Sender::default(),
            journal: Mutex::new(Journal::new()),
            growth: AtomicU64::new(0),
            was_damaged,
            #[cfg(test)]
            failing_syncs: AtomicBool::new(false),
            #[cfg(test)]
            failing_fsyncs: AtomicBool::new(false),
            lock: lock_file,
        });
        if !lock(&store.state).pending.is_empty() {
            store.schedule_flush();
        }
        Ok(store)
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Whether the records were damaged when this was opened, so that all but the blobs was lost.
    #[must_use]
    pub const fn was_damaged(&self) -> bool {
        self.was_damaged
    }

    /// Whether the one before closed it, and was not killed: what the disk has is then what was written.
    #[must_use]
    pub const fn was_closed(&self) -> bool {
        self.lock.was_clean
    }

    /// How container ids are written to disk.
    #[must_use]
    pub const fn ids(&self) -> IdRange {
        self.ids
    }

    /// Bytes that came in since this was opened, about: of blobs as they are written, of layers
    /// and directories once they are counted. Tells whether a look at [`Store::disk`] is worth it.
    #[must_use]
    pub fn growth(&self) -> u64 {
        self.growth.load(Ordering::Relaxed)
    }

    pub(crate) fn came_in(&self, bytes: u64) {
        self.growth.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Makes everything committed so far durable. *Blocking.*
    ///
    /// # Errors
    /// The disk is full or failing; nothing is lost from memory, and a later flush tries again.
    pub fn flush(&self) -> Result<(), RecordError> {
        flush::write_pending(self)
    }

    /// Waits until what was evicted or dropped so far is deleted from disk. *Blocking.*
    pub fn wait_for_deletions(&self) {
        self.reaper.finish();
    }

    /// A number never used in this store before.
    pub(crate) fn next_id(&self) -> u64 {
        let mut state = lock(&self.state);
        state.next_id += 1;
        state.next_id - 1
    }

    pub(crate) fn schedule_flush(&self) {
        self.flusher.schedule(flush::BATCH_DELAY);
    }

    pub(crate) fn schedule_touches(&self) {
        self.flusher.schedule(flush::TOUCH_DELAY);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flusher.shut_down();
        if let Err(error) = flush::write_pending(self) {
            tracing::warn!(%error, "closing the store without its last changes");
        } else {
            if self.mirrors_marked.load(Ordering::SeqCst) {
                sweep::clear_mirror_mark(&self.root);
            }
            self.lock.mark_clean();
        }
        self.reaper.shut_down();
    }
}

/// Opens the records and reads what is kept in memory. Damaged ones are set aside: they are a
/// cache, and a builder that never starts again is worse than one that starts without it.
fn open_records(
    root: &Arc<Root>,
    reaper: &Reaper,
) -> Result<(Database, Rows, bool), DatabaseError> {
    // A file that was changed by others may make the database panic.
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| read_records(root)));
    let reason = match opened {
        Ok(Ok((database, rows))) => return Ok((database, rows, false)),
        Ok(Err(error)) if !error.is_damage() => return Err(error),
        Ok(Err(error)) => std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
        Err(_) => "reading them ended in a panic".to_owned(),
    };
    tracing::error!(
        root = %root.path().display(),
        %reason,
        "the store's records are damaged: they are set aside, and the cache begins anew"
    );
    Database::set_aside(root, reaper)?;
    journal::forget(root);
    let (database, rows) = read_records(root)?;
    Ok((database, rows, true))
}

fn read_records(root: &Arc<Root>) -> Result<(Database, Rows), DatabaseError> {
    let database = Database::open(root.clone())?;
    journal::replay(root, &database);
    let rows = database.load()?;
    Ok((database, rows))
}
