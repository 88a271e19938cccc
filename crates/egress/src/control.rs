//! The socket between builder and gate: message types and their bounded transport.
//!
//! One `SOCK_SEQPACKET` pair; one JSON object per message; an attach request carries exactly one descriptor. Neither side may
//! trust the other's lengths or fields: the builder runs third-party code next door, the gate parses packets of it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::record::{Connection, StepName, Unlisted};

/// Largest message in bytes: a step name (256), a domain name (253, escaped at most fourfold) and fixed fields fit many times.
pub(crate) const MAX_MESSAGE: usize = 8192;

/// On whose behalf an interface is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Party {
    /// Third-party code.
    #[default]
    Step,
    /// The builder itself, which alone has use of what the operator vouches for.
    Builder,
}

/// From the builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Serve the TUN descriptor that comes with this message.
    Attach {
        id: u32,
        step: StepName,
        #[serde(default)]
        party: Party,
    },
    /// Report the flows that are open as they stand, and go on.
    Flush { id: u32 },
    /// End all flows of the step and close its descriptor.
    Detach { id: u32 },
}

/// From the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Report {
    /// The step is served.
    Attached { id: u32 },
    /// The step is not served.
    Refused { id: u32, reason: String },
    /// A connection ended or was refused.
    Connection { id: u32, connection: Connection },
    /// Connections that are not reported one by one.
    Unlisted { id: u32, sum: Unlisted },
    /// Everything that was open when a flush was asked for has been reported.
    Flushed { id: u32 },
    /// The last message about a step.
    Detached { id: u32 },
}

/// What failed on the control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket pair could not be made or prepared.
    #[error("cannot set up the control socket of the gate")]
    Setup(#[source] io::Error),
    /// A message could not be received.
    #[error("cannot receive from the control socket of the gate")]
    Receive(#[source] io::Error),
    /// A message could not be sent.
    #[error("cannot send on the control socket of the gate")]
    Send(#[source] io::Error),
    /// A message could not be written as JSON, or is longer than the other side accepts.
    #[error("cannot encode a message for the gate")]
    Encode,
}

/// Makes the connected pair of sockets for [`crate::Gate::new`] and [`crate::run_gate`], both close-on-exec.
///
/// # Errors
///
/// When the kernel refuses another descriptor.
pub fn control_pair() -> Result<(OwnedFd, OwnedFd), ControlError> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| ControlError::Setup(e.into()))
}

/// One end of the control socket inside a tokio runtime.
#[derive(Debug)]
pub(crate) struct ControlSocket(AsyncFd<OwnedFd>);

impl ControlSocket {
    pub(crate) fn new(fd: OwnedFd) -> Result<ControlSocket, ControlError> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| ControlError::Setup(e.into()))?;
        // SAFETY: an owned descriptor stays open and the same for as long as the value that holds it.
        unsafe { AsyncFd::register(fd) }
            .map(ControlSocket)
            .map_err(|e| ControlError::Setup(e.into()))
    }

    /// The next message, already decoded; `None` at the end of the connection. A message that cannot be understood is
    /// `Some((None, _))`: its descriptors are closed and the caller goes on.
    pub(crate) async fn receive<M: for<'a> Deserialize<'a>>(
        &self,
        buffer: &mut [u8; MAX_MESSAGE],
    ) -> Result<Option<(Option<M>, Option<OwnedFd>)>, ControlError> {
        loop {
            let mut guard = self.0.readable().await.map_err(ControlError::Receive)?;
            match guard.try_io(|fd| receive_once(fd.get_ref().as_fd(), buffer)) {
                Ok(Ok((0, _, _))) => return Ok(None),
                Ok(Ok((length, whole, fd))) => {
                    let message = if whole { decode(&buffer[..length]) } else { None };
                    return Ok(Some((message, fd)));
                }
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(e)) => return Err(ControlError::Receive(e)),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one message, waiting while the other side is behind.
    pub(crate) async fn send<M: Serialize>(
        &self,
        message: &M,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), ControlError> {
        let bytes = serde_json::to_vec(message).map_err(|_| ControlError::Encode)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(ControlError::Encode);
        }
        loop {
            let mut guard = self.0.writable().await.map_err(ControlError::Send)?;
            match guard.try_io(|socket| send_once(socket.get_ref().as_fd(), &bytes, fd)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(ControlError::Send(e)),
                Err(_would_block) => {}
            }
        }
    }
}

fn decode<M: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<M> {
    serde_json::from_slice(bytes).ok()
}

/// Length, whether the message came whole, and at most one descriptor; further ones are closed.
fn receive_once(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, bool, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message =
        recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = None;
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = item {
            for fd in fds {
                received.get_or_insert(fd);
            }
        }
    }
    let whole = !message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok((message.bytes, whole, received))
}

fn send_once(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

pub(crate) fn exercise(data: &[u8]) {
    let data = data.get(..MAX_MESSAGE).unwrap_or(data);
    if let Some(request) = decode::<Request>(data) {
        assert_eq!(
            serde_json::to_vec(&request).ok().and_then(|bytes| decode(&bytes)),
            Some(request)
        );
    }
    if let Some(report) = decode::<Report>(data) {
        assert_eq!(serde_json::to_vec(&report).ok().and_then(|bytes| decode(&bytes)), Some(report));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hostile_messages_decode_to_nothing() {
        for bad in [
            &b""[..],
            b"{",
            b"[]",
            br#"{"kind":"attach"}"#,
            br#"{"kind":"attach","id":-1,"step":"x"}"#,
            br#"{"kind":"go","id":1}"#,
            &[0xff; 300],
        ] {
            assert!(decode::<Request>(bad).is_none());
            exercise(bad);
        }
        exercise(br#"{"kind":"attach","id":1,"step":"a\u0000b"}"#);
        let long = format!(r#"{{"kind":"attach","id":1,"step":"{}"}}"#, "x".repeat(4000));
        assert!(
            matches!(decode(long.as_bytes()), Some(Request::Attach { step, .. }) if step.as_str().len() == 256)
        );
    }

    #[tokio::test]
    async fn messages_and_descriptors_travel() {
        let (a, b) = control_pair().unwrap();
        let (a, b) = (ControlSocket::new(a).unwrap(), ControlSocket::new(b).unwrap());
        let mut buffer = [0; MAX_MESSAGE];
        let sent = Request::Attach { id: 7, step: StepName::new("step"), party: Party::Builder };
        let file = tempfile::tempfile().unwrap();
        a.send(&sent, Some(file.as_fd())).await.unwrap();
        a.send(&Request::Detach { id: 7 }, None).await.unwrap();
        let (message, fd) = b.receive::<Request>(&mut buffer).await.unwrap().unwrap();
        assert_eq!((message, fd.is_some()), (Some(sent), true));
        let (message, fd) = b.receive::<Request>(&mut buffer).await.unwrap().unwrap();
        assert_eq!((message, fd.is_none()), (Some(Request::Detach { id: 7 }), true));
        drop(a);
        assert!(b.receive::<Request>(&mut buffer).await.unwrap().is_none());
    }
}
