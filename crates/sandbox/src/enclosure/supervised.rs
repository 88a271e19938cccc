//! A builder as its supervisor sees it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::{EnclosureError, Started};
use crate::cgroup::Grant;
use crate::{descriptors, process};

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
        let code = process::wait_for(&self.pidfd)
            .map_err(EnclosureError::mechanism("wait for the builder"))?;
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
            descriptors::until_readable(&self.pidfd)
                .await
                .map_err(EnclosureError::mechanism("wait for the builder"))?;
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
