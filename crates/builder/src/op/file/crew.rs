//! Threads that copy regular files while one thread walks the directories.
//!
//! The walking thread hands over batches of names of one directory. The queue is short, and while it
//! is full the walking thread copies too, so that neither memory nor open files grow with the tree.
//! The error that is reported is the first one in the order of the walk, whichever thread met it.
//! Nothing here decides what is copied; [`super::tree`] does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

use rustix::fs::Stat;

use super::leaf::{Buffers, Leaves, Spot};
use crate::rooted::{Ownership, Root};

/// Files of one directory that are handed over together.
pub(super) const BATCH: usize = 16;
/// Most threads of one copy, the walking one included.
const MAX_THREADS: usize = 4;
/// Batches that wait for a thread.
const MAX_WAITING: usize = 8;
/// Batches before the walking thread asks for help: most copies are small.
const ALONE: u64 = 4;

/// A directory that is being filled.
pub(super) struct Folder {
    /// Where its files come from.
    pub(super) source: Arc<Root>,
    /// What an earlier copy made of it.
    pub(super) earlier: Option<Root>,
    /// Where they go.
    pub(super) target: Root,
    /// The latter as a path of the target.
    pub(super) path: String,
    /// What gives it its time once everything is in it; `None` when it keeps the one it gets.
    pub(super) restore: Option<Ownership>,
}

impl Folder {
    /// Lets go of a directory. Whoever does so last restores its time, which every name that is put
    /// into it changes.
    pub(super) fn release(self: Arc<Self>) -> io::Result<()> {
        let last = Arc::into_inner(self).and_then(|folder| Some((folder.restore?, folder.target)));
        last.map_or(Ok(()), |(owner, target)| owner.settle_time(target.as_fd()))
    }
}

struct Batch {
    number: u64,
    folder: Arc<Folder>,
    names: Vec<String>,
}

/// What all threads of a copy share.
#[derive(Clone, Copy)]
struct Shared<'a> {
    leaves: &'a Leaves<'a>,
    waiting: &'a Mutex<Receiver<Batch>>,
    failure: &'a Mutex<Option<(u64, io::Error)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared<'_> {
    /// Copies batches until no more can come.
    fn work(self, buffers: &mut Buffers) {
        while let Some(batch) = self.receive() {
            self.run(batch, buffers);
        }
    }

    fn receive(self) -> Option<Batch> {
        lock(self.waiting).recv().ok()
    }

    /// Copies a batch, unless something before it failed.
    fn run(self, batch: Batch, buffers: &mut Buffers) {
        let number = batch.number;
        if self.failed_before(number) {
            return;
        }
        if let Err(error) = self.copy(batch, buffers) {
            self.fail(number, error);
        }
    }

    fn copy(self, batch: Batch, buffers: &mut Buffers) -> io::Result<()> {
        let Batch { folder, names, .. } = batch;
        for name in &names {
            let path = format!("{}/{name}", folder.path);
            let spot = Spot { parent: &folder.target, name, path: &path };
            self.leaves.named(&folder.source, folder.earlier.as_ref(), spot, buffers)?;
        }
        folder.release()
    }

    fn fail(self, number: u64, error: io::Error) {
        let mut failure = lock(self.failure);
        if failure.as_ref().is_none_or(|(first, _)| number < *first) {
            *failure = Some((number, error));
        }
    }

    fn failed_before(self, number: u64) -> bool {
        lock(self.failure).as_ref().is_some_and(|(first, _)| *first < number)
    }
}

/// The walking thread's side.
pub(super) struct Crew<'a> {
    /// The walking thread's own.
    pub(super) buffers: &'a mut Buffers,
    shared: Shared<'a>,
    queue: SyncSender<Batch>,
    call: &'a mut dyn FnMut() -> usize,
    helpers: usize,
    sent: u64,
}

impl Crew<'_> {
    /// Copies what is no regular file at once.
    pub(super) fn single(
        &mut self,
        source: BorrowedFd<'_>,
        stat: &Stat,
        spot: Spot<'_>,
    ) -> io::Result<()> {
        self.shared.leaves.copy(source, stat, spot, self.buffers)
    }

    /// What an earlier copy made of the directory that becomes `path`, which is in what it made of `above` as `name`.
    pub(super) fn earlier(&self, above: Option<&Folder>, name: &str, path: &str) -> Option<Root> {
        let copying = self.shared.leaves.copying?;
        match above {
            Some(above) => above.earlier.as_ref()?.child(name).ok(),
            None => copying.directory(path),
        }
    }

    /// Sees to it that the regular files `names` of a directory are copied.
    ///
    /// # Errors
    /// Something failed, and going on is of no use. Not necessarily in this directory.
    pub(super) fn copy(&mut self, folder: Arc<Folder>, names: Vec<String>) -> io::Result<()> {
        let batch = Batch { number: self.sent, folder, names };
        self.sent += 1;
        if batch.number == ALONE {
            self.helpers = (self.call)();
        }
        let own = if self.helpers == 0 {
            Some(batch)
        } else {
            match self.queue.try_send(batch) {
                Ok(()) => None,
                Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => Some(batch),
            }
        };
        if let Some(batch) = own {
            self.shared.run(batch, self.buffers);
        }
        if self.shared.failed_before(self.sent) {
            // The failure that is known already came before this one and is the one reported.
            return Err(io::Error::other("another file could not be copied"));
        }
        Ok(())
    }
}

/// Runs `walk` and waits until everything that it handed over is copied. Fails with the first failure
/// in the order of the walk.
pub(super) fn with_crew(
    leaves: &Leaves<'_>,
    buffers: &mut Buffers,
    walk: impl FnOnce(&mut Crew<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let (queue, waiting) = sync_channel(MAX_WAITING);
    let waiting = Mutex::new(waiting);
    let failure = Mutex::new(None);
    let shared = Shared { leaves, waiting: &waiting, failure: &failure };
    thread::scope(|scope| {
        let mut call = || call_helpers(scope, shared);
        let mut crew =
            Crew { buffers: &mut *buffers, shared, queue, call: &mut call, helpers: 0, sent: 0 };
        if let Err(error) = walk(&mut crew) {
            shared.fail(crew.sent, error);
        }
        // Without its sender the queue ends, and with it the threads that wait for more.
        drop(crew);
        shared.work(buffers);
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Starts as many threads as the machine has a use for. Where there can be none, one does it all.
fn call_helpers<'scope>(scope: &'scope Scope<'scope, '_>, shared: Shared<'scope>) -> usize {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let start = |_: &usize| {
        let work = move || shared.work(&mut Buffers::new());
        thread::Builder::new().name("copy".to_owned()).spawn_scoped(scope, work).is_ok()
    };
    (1..threads.min(MAX_THREADS)).filter(start).count()
}
