//! A builder as its supervisor sees it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;

use super::{EnclosureError, Started};
use crate::cgroup::Grant;
use crate::descriptors;
use crate::namespaces::last_errno;

/// How an enclosed process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupervisedExit {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
}

/// An enclosed process. Dropping it ends it and everything in its enclosure.
#[derive(Debug)]
pub struct Supervised {
    pid: i32,
    pidfd: OwnedFd,
    /// Held, never used: its closing is the news that the supervisor is gone.
    _lifeline: OwnedFd,
    grant: Grant,
    exit: Option<SupervisedExit>,
}

impl Supervised {
    pub(super) fn new(started: Started, grant: Grant) -> Self {
        let Started { pid, pidfd, lifeline } = started;
        Self { pid, pidfd, _lifeline: lifeline, grant, exit: None }
    }

    /// Process id of the enclosure's init on the host.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable when the enclosure has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal: termination, interrupt, hang-up, quit and the two user signals reach the builder, kill ends everything.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. An enclosure that has ended is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), EnclosureError> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(EnclosureError::mechanism("signal the builder")(errno)),
        }
    }

    /// Ends everything at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL).ok();
    }

    /// Waits until the enclosure has ended and removes its control groups. Blocks.
    ///
    /// # Errors
    ///
    /// When the process is not ours to wait for.
    pub fn wait(&mut self) -> Result<SupervisedExit, EnclosureError> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let code =
            wait_for(&self.pidfd).map_err(EnclosureError::mechanism("wait for the builder"))?;
        let exit = SupervisedExit { code };
        self.exit = Some(exit);
        if let Err(error) = self.grant.remove() {
            tracing::warn!(%error, "a builder left its control groups busy");
        }
        Ok(exit)
    }

    /// Like [`Supervised::wait`], without blocking. Inside a runtime.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn exited(&mut self) -> Result<SupervisedExit, EnclosureError> {
        if self.exit.is_none() {
            let failed = |error: std::io::Error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                EnclosureError::mechanism("wait for the builder")(errno)
            };
            let copy = self.pidfd.try_clone().map_err(failed)?;
            let watched = descriptors::watch(copy, Interest::READABLE)
                .map_err(EnclosureError::mechanism("wait for the builder"))?;
            watched.readable().await.map_err(failed)?.retain_ready();
        }
        // It has ended: what remains takes a moment.
        self.wait()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill();
            self.wait().ok();
        }
    }
}

/// Reaps a child by its descriptor; gives its exit code, or 128 and the number of the signal that ended it.
pub(super) fn wait_for(pidfd: &OwnedFd) -> Result<i32, Errno> {
    /// `P_PIDFD` of wait.h.
    const BY_DESCRIPTOR: libc::idtype_t = 3;
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).map_err(|_| Errno::BADF)?;
    loop {
        // SAFETY: siginfo_t is made of integers; the pointer is valid for the call.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let result =
                libc::waitid(BY_DESCRIPTOR, id, &raw mut info, libc::WEXITED | libc::__WALL);
            (result, info)
        };
        if result == 0 {
            // SAFETY: waitid has filled in the fields of a child's end.
            let status = unsafe { info.si_status() };
            return Ok(if info.si_code == libc::CLD_EXITED { status } else { 128 + status });
        }
        match last_errno() {
            Errno::INTR => {}
            errno => return Err(errno),
        }
    }
}
