//! The one thread of a restricted builder that may still attach mounts.
//!
//! landlock(7) forbids a thread, and those that it makes, every mount that has a place in the tree. Kernels before 6.15 clone parts
//! of a detached mount only while that has one. So a thread that is older than the restriction does it; it takes nothing but that.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::mounts::{MountError, part_while_attached};

/// A detached mount, a part of it, and where the clone goes.
type Job = (OwnedFd, OwnedFd, Sender<Result<OwnedFd, MountError>>);

static JOBS: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();

/// Makes the thread, before the process restricts itself.
pub(crate) fn start() -> std::io::Result<()> {
    let (jobs, waiting) = channel::<Job>();
    std::thread::Builder::new().name("mounter".into()).spawn(move || {
        for (mount, part, done) in waiting {
            done.send(part_while_attached(mount, part)).ok();
        }
    })?;
    JOBS.set(Mutex::new(jobs)).ok();
    Ok(())
}

/// Clones `part` of `mount`: on the thread that may when there is one, else here.
pub(crate) fn clone_part(mount: OwnedFd, part: OwnedFd) -> Result<OwnedFd, MountError> {
    let Some(jobs) = JOBS.get() else { return part_while_attached(mount, part) };
    let gone = || MountError::File(std::io::Error::other("the thread that mounts is gone"));
    let (done, result) = channel();
    let sent = jobs.lock().unwrap_or_else(PoisonError::into_inner).send((mount, part, done));
    sent.map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}
