//! Relays the datagrams between one port of a step and one destination.
//!
//! Nothing is queued here: what the sockets cannot take at once is lost, as UDP allows. A flow ends after a minute of silence.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::flows::{OpenFlow, Started};
use crate::packet::{UDP_HEADERS, write_udp};
use crate::step::{Key, Step};

/// Silence after which a flow is forgotten (RFC 4787 asks network translators for two minutes; name lookups and QUIC need less).
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams handed to the step before others get their turn.
const BATCH: usize = 64;

/// What the packet reader and the relay task of a flow share.
#[derive(Debug)]
pub(crate) struct Flow {
    socket: UdpSocket,
    last: Cell<Instant>,
    open: Rc<OpenFlow>,
}

impl Flow {
    /// Connects a socket, so that only the destination's own datagrams come back.
    pub(crate) fn open(destination: SocketAddrV4, open: Rc<OpenFlow>) -> io::Result<Flow> {
        let socket = std::net::UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(destination)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Flow { socket, last: Cell::new(Instant::now()), open })
    }

    /// Passes on a datagram of the step.
    pub(crate) fn ingress(&self, payload: &[u8]) {
        self.last.set(Instant::now());
        // Errors are those of earlier datagrams (port unreachable) or of a full socket; the step cannot be told either.
        if let Ok(length) =
            rustix::net::send(&self.socket, payload, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        {
            self.open.count_up(length);
        }
    }

    /// Passes on what has come from the outside.
    fn egress(&self, key: Key, step: &Step) {
        for _ in 0..BATCH {
            let received = step.tun.send_received(
                UDP_HEADERS,
                |space| self.socket.try_recv(space).inspect(|length| self.open.count_down(*length)),
                |packet| write_udp(packet, key.destination, key.source()),
            );
            match received {
                Ok(()) => self.last.set(Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A refusal of an earlier datagram; the flow may still work.
                Err(_) => {}
            }
        }
    }
}

/// Runs an allowed flow until it has been silent.
pub(crate) async fn relay(mut started: Started, flow: Rc<Flow>) {
    let step = Rc::clone(&started.step);
    loop {
        let idle = flow.last.get() + IDLE;
        match timeout_at(idle, flow.socket.readable()).await {
            Ok(Ok(())) => flow.egress(started.key, &step),
            Ok(Err(error)) => {
                started.failure = Some(error.to_string());
                return;
            }
            Err(_) if flow.last.get() + IDLE > Instant::now() => {}
            Err(_) => return,
        }
        tokio::task::yield_now().await;
    }
}
