//! Threads that put small files on the disk while the next packets are read.
//!
//! Files are independent of each other: each has a name of its own in a directory that is there. What depends on all of
//! them (hard links, times of directories, the last word to the sender) comes after [`Pool::wait`]. No thread
//! outlives the pool.

use std::collections::VecDeque;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism};

use super::ReceiveError;
use super::file::FileInProgress;

/// Most threads of one transfer; creating files does not scale further on one file system.
const MAX_THREADS: usize = 3;

/// Files that wait, each with at most 64 KiB of content and perhaps a descriptor of its directory.
const MAX_WAITING: usize = 64;

/// Files that are finished before a thread is worth its start.
const FEW: usize = 16;

/// A file all of whose content is there, and the directory it is in.
pub(super) struct Whole {
    pub(super) file: FileInProgress,
    pub(super) parent: Arc<OwnedFd>,
}

impl Whole {
    fn finish(self) -> Result<(), ReceiveError> {
        self.file.finish(&self.parent)
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Whole>,
    /// Files that threads are at.
    running: usize,
    /// Threads with nothing to do.
    idle: usize,
    /// The first failure of a thread.
    failed: Option<ReceiveError>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do for a thread.
    work: Condvar,
    /// Nothing is left to do.
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let Some(next) = state.waiting.pop_front() else {
                if state.closed {
                    return;
                }
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            state.running += 1;
            drop(state);
            // Whoever waits for this file would wait for ever if the thread just ended.
            let result = catch_unwind(AssertUnwindSafe(|| next.finish()))
                .unwrap_or(Err(ReceiveError::Ended));
            state = self.lock();
            state.running -= 1;
            if let Err(error) = result {
                state.failed.get_or_insert(error);
                state.waiting.clear();
            }
            if state.running == 0 && state.waiting.is_empty() {
                self.done.notify_one();
            }
        }
    }
}

/// The threads of one transfer, none of which starts before there is work for it.
#[derive(Default)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    seen: usize,
}

impl Pool {
    /// Finishes a file now or later.
    ///
    /// # Errors
    /// The file's failure, or that of an earlier one.
    pub(super) fn finish(&mut self, whole: Whole) -> Result<(), ReceiveError> {
        self.seen += 1;
        if self.seen == FEW {
            self.start();
        }
        if self.threads.is_empty() {
            return whole.finish();
        }
        let mut state = self.shared.lock();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if state.waiting.len() >= MAX_WAITING {
            drop(state);
            // Better than to wait for the others.
            return whole.finish();
        }
        state.waiting.push_back(whole);
        let is_awaited = state.idle > 0;
        drop(state);
        if is_awaited {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// Returns when every file is finished.
    ///
    /// # Errors
    /// The first failure.
    pub(super) fn wait(&self) -> Result<(), ReceiveError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if let Some(next) = state.waiting.pop_front() {
                drop(state);
                next.finish()?;
                state = self.shared.lock();
            } else if state.running == 0 {
                return Ok(());
            } else {
                state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn start(&mut self) {
        let cores = available_parallelism().map_or(1, NonZero::get);
        for _ in 0..cores.min(MAX_THREADS) {
            let shared = Arc::clone(&self.shared);
            // A system that has no more threads to give has this one.
            let Ok(thread) = Builder::new().name("files".to_owned()).spawn(move || shared.serve())
            else {
                return;
            };
            self.threads.push(thread);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // It has said what there is to say.
            let _ = thread.join();
        }
    }
}
