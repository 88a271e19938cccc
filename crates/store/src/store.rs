//! The store itself: opening, closing, and what its parts share.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::database::Database;
use crate::error::{OpenError, RecordError};
use crate::flush::Flusher;
use crate::ids::IdRange;
use crate::root::{Root, RootLock};
use crate::state::{State, lock};
use crate::trash::Reaper;
use crate::{flush, sweep};

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
    /// Last, so that everything else is closed when the next one may open.
    _lock: RootLock,
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
        let (root, lock_file) = Root::prepare(root)?;
        let root = Arc::new(root);
        let failed = |source| OpenError::Records { root: root.path().to_owned(), source };
        let database = Database::open(root.clone()).map_err(failed)?;
        let mut state = State::default();
        let rows = database.load().map_err(failed)?;
        let reaper = Reaper::new(root.clone());
        sweep::fill_and_sweep(&root, rows, &mut state, &reaper).map_err(|source| {
            OpenError::Prepare {
                root: root.path().to_owned(),
                attempt: "sweep what a crash left",
                source,
            }
        })?;
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
            _lock: lock_file,
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

    /// How container ids are written to disk.
    #[must_use]
    pub const fn ids(&self) -> IdRange {
        self.ids
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
        } else if self.mirrors_marked.load(Ordering::SeqCst) {
            sweep::clear_mirror_mark(&self.root);
        }
        self.reaper.shut_down();
    }
}
