//! The host's end of what the guest is reached by: with QEMU one half of a pair of sockets; with Firecracker a connection that the
//! guest makes.
//!
//! Exactly one connection is taken. Then nobody listens any more, and whatever in the guest tries again is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

/// Bytes between host and guest.
#[derive(Debug)]
pub(super) enum Port {
    /// The guest has not come yet.
    Awaited(Listener),
    /// It is there.
    Open(UnixStream),
}

/// Where the guest comes to; gone when dropped.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

impl Port {
    /// Waits for the guest at a new socket.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        Ok(Self::Awaited(Listener { socket: UnixListener::bind(path)?, path: path.to_owned() }))
    }

    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut UnixStream>>> {
        if let Self::Awaited(listener) = self {
            // Both directions wait here; they are one task's, so that it does not matter whose waker is kept.
            let (stream, _) = ready!(listener.socket.poll_accept(context))?;
            *self = Self::Open(stream);
        }
        match self {
            Self::Open(stream) => Poll::Ready(Ok(Pin::new(stream))),
            Self::Awaited(_) => Poll::Pending,
        }
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_open(context))?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_open(context))?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_flush(context),
            Self::Awaited(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Awaited(_) => Poll::Ready(Ok(())),
        }
    }
}
