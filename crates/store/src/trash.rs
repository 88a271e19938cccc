//! Deletion: things are moved aside at once and deleted in the background.
//!
//! Moving aside is one rename, so a caller never waits for a large tree and a crash leaves
//! either the thing or its remains in `trash/`, which the next open deletes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::ids::name_of;
use crate::root::{Root, rename_new};
use crate::state::lock;
use crate::walk;

/// Two names a run apart never meet because each begins with the time it was made; a clock
/// that stands still is caught by the retry.
const NAME_ATTEMPTS: usize = 16;
/// Deleting waits this long for more to delete, and for the step that caused it to get on.
const PATIENCE: Duration = Duration::from_millis(200);
/// Things that are remembered because they could not be moved aside; the next open finds all of them.
const MOST_STUCK: usize = 64;

/// Deletes what is moved to `trash/`.
pub(crate) struct Reaper {
    root: Arc<Root>,
    shared: Arc<Shared>,
    counter: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What could not be moved aside when it should have been.
    stuck: Mutex<Vec<(OwnedFd, String)>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Set while a thread is sure to look at the directory again.
    busy: AtomicBool,
    /// How often something was moved aside.
    requests: AtomicU64,
}

impl Reaper {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        Self {
            root,
            shared: Arc::default(),
            counter: AtomicU64::new(0),
            thread: Mutex::new(None),
            stuck: Mutex::default(),
        }
    }

    /// As [`Reaper::discard`], for what nobody knows of but its owner, who goes: what the disk refuses now is tried again with
    /// whatever is discarded next, and by the next open.
    pub(crate) fn discard_in_the_end(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        self.retry_stuck();
        let result = self.discard(dir, name);
        if result.is_err()
            && let Ok(dir) = dir.try_clone_to_owned()
        {
            let mut stuck = lock(&self.stuck);
            if stuck.len() < MOST_STUCK {
                stuck.push((dir, name.to_owned()));
            }
        }
        result
    }

    fn retry_stuck(&self) {
        let stuck = std::mem::take(&mut *lock(&self.stuck));
        for (dir, name) in stuck {
            if self.discard(dir.as_fd(), &name).is_err() {
                lock(&self.stuck).push((dir, name));
            }
        }
    }

    /// Moves `name` out of `dir` and deletes it soon. A thing that is gone already is fine.
    pub(crate) fn discard(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        for _ in 0..NAME_ATTEMPTS {
            match rename_new(dir, name, self.root.trash.as_fd(), &self.fresh_name()) {
                Ok(()) => {
                    self.kick();
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn fresh_name(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation)] // Only distinctness matters.
        let nanos = now.as_nanos() as u64;
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{}-{}", name_of(nanos), name_of(count))
    }

    /// Starts deleting unless that is under way.
    pub(crate) fn kick(&self) {
        let shared = &self.shared;
        shared.requests.fetch_add(1, Ordering::SeqCst);
        if shared.stop.load(Ordering::SeqCst) || shared.busy.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut thread = lock(&self.thread);
        if let Some(ended) = thread.take() {
            // It cleared `busy` as its last act, so this wait is short.
            let _ = ended.join();
        }
        let (root, for_thread) = (self.root.clone(), shared.clone());
        let started = std::thread::Builder::new()
            .name("store-reaper".into())
            .spawn(move || reap(&root, &for_thread));
        match started {
            Ok(handle) => *thread = Some(handle),
            Err(error) => {
                shared.busy.store(false, Ordering::SeqCst);
                tracing::warn!(%error, "cannot start deleting in the background");
            }
        }
    }

    /// Waits until everything moved aside so far is deleted.
    pub(crate) fn finish(&self) {
        self.retry_stuck();
        self.kick();
        if let Some(handle) = lock(&self.thread).take() {
            handle.thread().unpark();
            let _ = handle.join();
        }
    }

    /// Stops deleting; the rest is deleted after the next open.
    pub(crate) fn shut_down(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(handle) = lock(&self.thread).take() {
            handle.thread().unpark();
            let _ = handle.join();
        }
    }
}

fn reap(root: &Root, shared: &Shared) {
    std::thread::park_timeout(PATIENCE);
    loop {
        let seen = shared.requests.load(Ordering::SeqCst);
        reap_once(root, &shared.stop);
        shared.busy.store(false, Ordering::SeqCst);
        // Something may have been moved here after the look and before the flag fell.
        let quiet = seen == shared.requests.load(Ordering::SeqCst);
        let stopped = shared.stop.load(Ordering::SeqCst);
        if quiet || stopped || shared.busy.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}

/// Deletes what is there now.
fn reap_once(root: &Root, stop: &AtomicBool) {
    let names = match walk::names(root.trash.as_fd()) {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(%error, "cannot read what waits for deletion");
            return;
        }
    };
    for name in names {
        let Ok(c_name) = CString::new(name.as_str()) else { continue };
        match walk::remove(root.trash.as_fd(), &c_name, stop) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => tracing::warn!(%name, %error, "cannot delete what was moved aside"),
        }
    }
}
