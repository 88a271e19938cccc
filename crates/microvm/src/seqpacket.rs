//! The gate's control socket as whoever carries its messages elsewhere sees it: messages of bounded size, at most one descriptor
//! with each. What the messages say is none of this crate's business.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use tokio::io::unix::AsyncFd;

/// Longest message; the gate's own bound is 8 KiB.
pub(crate) const MAX_MESSAGE: usize = 16 << 10;

/// One end of a socket that keeps messages apart.
#[derive(Debug)]
pub(crate) struct Messages(AsyncFd<OwnedFd>);

/// Makes a pair.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl Messages {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: an owned descriptor stays open and the same for as long as the value that holds it.
        Ok(Self(unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)?))
    }

    /// The next message and its descriptor; `None` at the end. One that was cut off is an error.
    pub(crate) async fn receive(&self) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|fd| receive_once(fd.get_ref(), &mut buffer)) {
                Ok(Ok((0, _))) => return Ok(None),
                Ok(Ok((length, fd))) => {
                    buffer.truncate(length);
                    return Ok(Some((buffer, fd)));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one message, waiting while the other side is behind.
    pub(crate) async fn send(&self, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<()> {
        loop {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|socket| send_once(socket.get_ref(), bytes, fd)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

fn receive_once(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fds = ancillary.drain().filter_map(|item| match item {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.flatten().next();
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, fd))
}

fn send_once(socket: &OwnedFd, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
