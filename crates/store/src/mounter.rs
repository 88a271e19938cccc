//! Threads that may mount, in a process that has otherwise given that up.
//!
//! Restrictions of landlock(7) are a thread's and those of threads it makes. They forbid every mount that has a place in the tree,
//! which older kernels need for a moment; and an overlay opens its layers with the rights of whoever made it, so one made by a
//! restricted thread would pass the restrictions on to steps. A thread made before the restrictions does both. It runs the
//! jobs of this crate alone.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Builder;

type Job = Box<dyn FnOnce() + Send>;

static JOBS: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();

/// Makes the thread. To be called once, before the process restricts itself; a process that does not restrict itself needs none.
///
/// # Errors
///
/// When the system has no room for a thread.
pub fn start_mounter() -> std::io::Result<()> {
    let (jobs, waiting) = channel::<Job>();
    Builder::new().name("store-mounter".into()).spawn(move || {
        for job in waiting {
            job();
        }
    })?;
    JOBS.set(Mutex::new(jobs)).ok();
    Ok(())
}

/// Runs `work` where mounting is allowed, and waits for it; nothing when it did not end well.
pub(crate) fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let Some(jobs) = JOBS.get() else { return Some(work()) };
    let (done, result) = channel();
    let job = move || drop(done.send(work()));
    jobs.lock().unwrap_or_else(PoisonError::into_inner).send(Box::new(job)).ok()?;
    result.recv().ok()
}

/// The same on a thread made for it, which may have a working directory of its own.
pub(crate) fn run_on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let spawn = move || Builder::new().name("store-mount".into()).spawn(work).ok();
    run(spawn)??.join().ok()
}
