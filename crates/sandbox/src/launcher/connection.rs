//! One launch helper as the builder sees it: requests out, notices in, and who waits for which.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::running::Handle;
use super::{LaunchError, watched};
use crate::descriptors;
use crate::message::Notice;
use crate::process::Ended;

/// What the end of a step is told with.
pub(super) type EndSender = oneshot::Sender<Result<Ended, LaunchError>>;

/// A helper and the steps it has in hand.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    steps: Mutex<HashMap<u64, Entry>>,
    lost: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    handle: Arc<Handle>,
    end: EndSender,
}

impl Connection {
    /// Takes over a helper's socket and starts listening to it. Inside a runtime.
    pub(super) fn open(socket: OwnedFd) -> Result<Arc<Self>, Errno> {
        let connection = Arc::new(Self {
            socket: watched(socket)?,
            steps: Mutex::new(HashMap::new()),
            lost: AtomicBool::new(false),
        });
        tokio::spawn(listen(Arc::clone(&connection)));
        Ok(connection)
    }

    pub(super) fn lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(super) fn load(&self) -> usize {
        self.steps().len()
    }

    pub(super) fn expect(&self, id: u64, handle: Arc<Handle>, end: EndSender) {
        self.steps().insert(id, Entry { handle, end });
    }

    /// Drops a step that was never asked for; whoever waits for its end hears that it was lost.
    pub(super) fn forget(&self, id: u64) {
        self.steps().remove(&id);
    }

    pub(super) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |socket| Ok(descriptors::try_send(socket, bytes, fds)?))
            .await;
        sent.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn steps(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, notice: Notice, fd: Option<OwnedFd>) {
        match notice {
            Notice::Started { id } => {
                let handle = self.steps().get(&id).map(|entry| Arc::clone(&entry.handle));
                if let (Some(handle), Some(pidfd)) = (handle, fd) {
                    handle.started(pidfd);
                }
            }
            Notice::Refused { id, errno } => {
                let errno = Errno::from_raw_os_error(errno);
                self.end(id, Err(LaunchError::Process(errno)));
            }
            Notice::Exited { id, ended } => self.end(id, Ok(ended)),
        }
    }

    fn end(&self, id: u64, how: Result<Ended, LaunchError>) {
        let entry = self.steps().remove(&id);
        if let Some(entry) = entry {
            entry.handle.over();
            // Nobody waiting is fine: the watch has its own way to notice.
            entry.end.send(how).ok();
        }
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        let entries: Vec<Entry> = self.steps().drain().map(|(_, entry)| entry).collect();
        for entry in entries {
            entry.handle.kill();
            entry.end.send(Err(LaunchError::HelperLost)).ok();
        }
    }
}

/// Hears a helper out until it is gone, which it is when the builder is.
async fn listen(connection: Arc<Connection>) {
    loop {
        let heard = connection
            .socket
            .async_io(Interest::READABLE, |socket| {
                Ok(descriptors::receive(socket, RecvFlags::DONTWAIT)?)
            })
            .await;
        let Ok(Some((bytes, fds))) = heard else {
            connection.lose();
            return;
        };
        match serde_json::from_slice(&bytes) {
            Ok(notice) => connection.hear(notice, fds.into_iter().next()),
            Err(error) => tracing::error!(%error, "a launch helper said something unintelligible"),
        }
    }
}
