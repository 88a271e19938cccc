//! Relays one TCP connection between a step and the outside.
//!
//! The outside is connected first and the step's SYN answered after, so that a step sees a refusal as a refusal. Data moves
//! between the stack's ring buffers and the outside socket without a copy in between; a full buffer on one side closes the
//! window on the other. Either direction may end before the other. The record of the connection is written when the task is
//! dropped, however that happens.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use smoltcp::socket::tcp::State;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::dns;
use crate::flows::Started;
use crate::step::Step;
use crate::terminal::Terminal;

/// How long the outside may take to accept. The step's own limit is usually shorter.
const CONNECT_WAIT: Duration = Duration::from_secs(60);
/// Packets one flow may send before others get their turn.
const EGRESS_BUDGET: usize = 32;
/// Bytes one flow may move in each direction before others get their turn.
const BYTE_BUDGET: usize = 1 << 20;
/// Buffers per direction by number of open flows: fast while few, and together never above 140 MiB for a step.
const BUFFERS: [(usize, usize); 3] = [(32, 512 << 10), (256, 128 << 10), (usize::MAX, 32 << 10)];
/// Shortest wait for a timer of the stack, against spinning.
const TIMER_FLOOR: Duration = Duration::from_millis(1);

/// What the packet reader and the relay task of a connection share.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Absent until the outside has accepted.
    terminal: RefCell<Option<Terminal>>,
    /// The step gave up before that.
    reset: Cell<bool>,
    wake: Notify,
}

impl Flow {
    /// Takes a packet of this connection.
    pub(crate) fn ingress(&self, packet: &[u8], resets: bool, step: &Step) {
        match self.terminal.borrow_mut().as_mut() {
            Some(terminal) => terminal.ingress(packet, &step.tun),
            None => self.reset.set(self.reset.get() || resets),
        }
        self.wake.notify_one();
    }
}

/// The other end of a connection.
enum Peer {
    Remote(TcpStream),
    /// The gate's own name service.
    Service(UnixStream),
}

impl Peer {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Peer::Remote(stream) => stream.try_read(buffer),
            Peer::Service(stream) => stream.try_read(buffer),
        }
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Peer::Remote(stream) => stream.try_write(data),
            Peer::Service(stream) => stream.try_write(data),
        }
    }

    async fn ready(&self, interest: Interest) {
        // An error shows again at the next read or write.
        match self {
            Peer::Remote(stream) => drop(stream.ready(interest).await),
            Peer::Service(stream) => drop(stream.ready(interest).await),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Peer::Remote(stream) => stream.as_fd(),
            Peer::Service(stream) => stream.as_fd(),
        }
    }

    fn finish(&self) {
        let _ = shutdown(self.descriptor(), Shutdown::Write);
    }

    /// Makes the coming close a reset, so that the other end does not take a broken stream for a whole one.
    fn abort(&self) {
        let _ = sockopt::set_socket_linger(self.descriptor(), Some(Duration::ZERO));
    }
}

/// Connects and relays one allowed connection; `syn` is the packet that asked for it.
pub(crate) async fn relay(mut started: Started, flow: Rc<Flow>, syn: Vec<u8>) {
    let step = Rc::clone(&started.step);
    let destination = started.key.destination;
    let stream = tokio::select! {
        connected = timeout(CONNECT_WAIT, TcpStream::connect(SocketAddr::V4(destination))) => match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return refuse(&step, &mut started, &syn, error.to_string()),
            Err(_) => return refuse(&step, &mut started, &syn, format!("no answer in {} s", CONNECT_WAIT.as_secs())),
        },
        () = given_up(&flow) => {
            started.failure = Some("given up by the step".into());
            return;
        }
    };
    // The step's own socket options decide when small writes wait.
    let _ = stream.set_nodelay(true);
    run(&step, destination, &flow, &syn, Peer::Remote(stream), &mut started).await;
}

/// Serves one connection to the gate's name service.
pub(crate) async fn serve_names(mut started: Started, flow: Rc<Flow>, syn: Vec<u8>) {
    let step = Rc::clone(&started.step);
    let destination = started.key.destination;
    let Ok((near, far)) = UnixStream::pair() else { return step.refuse_packet(&syn) };
    let relayed = run(&step, destination, &flow, &syn, Peer::Service(near), &mut started);
    let served = async {
        dns::serve_stream(&step, far).await;
        // The relay ends the connection once it has delivered everything.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = relayed => {}
        () = served => {}
    }
}

async fn given_up(flow: &Flow) {
    while !flow.reset.get() {
        flow.wake.notified().await;
    }
}

fn refuse(step: &Step, started: &mut Started, syn: &[u8], failure: String) {
    step.refuse_packet(syn);
    started.failure = Some(failure);
}

fn buffer_size(flows: usize) -> usize {
    BUFFERS.iter().find(|(limit, _)| flows <= *limit).map_or(32 << 10, |(_, size)| *size)
}

async fn run(
    step: &Step,
    destination: SocketAddrV4,
    flow: &Flow,
    syn: &[u8],
    peer: Peer,
    started: &mut Started,
) {
    let mut terminal =
        Terminal::listen(destination, buffer_size(step.open_flows()), step.random(), &step.tun);
    terminal.ingress(syn, &step.tun);
    *flow.terminal.borrow_mut() = Some(terminal);
    let mut relay = Relay { peer, ended: false, finished: false };
    loop {
        let next = match flow.terminal.borrow_mut().as_mut() {
            Some(terminal) => relay.pump(terminal, step, started),
            None => return,
        };
        match next {
            Next::Over => return,
            Next::Again => tokio::task::yield_now().await,
            Next::Wait { interest, deadline } => {
                let ready = async {
                    match interest {
                        Some(interest) => relay.peer.ready(interest).await,
                        None => std::future::pending().await,
                    }
                };
                let timer = async {
                    match deadline {
                        Some(deadline) => {
                            sleep_until(deadline.max(Instant::now() + TIMER_FLOOR)).await
                        }
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = flow.wake.notified() => {}
                    () = ready => {}
                    () = timer => {}
                }
            }
        }
    }
}

struct Relay {
    peer: Peer,
    /// The outside has sent its last byte.
    ended: bool,
    /// The outside has been told that the step sent its last byte.
    finished: bool,
}

enum Next {
    Over,
    Again,
    Wait { interest: Option<Interest>, deadline: Option<Instant> },
}

impl Relay {
    /// Moves what can be moved in both directions and lets the stack send.
    fn pump(&mut self, terminal: &mut Terminal, step: &Step, started: &mut Started) -> Next {
        let up = self.pump_up(terminal, started);
        let down = self.pump_down(terminal, started);
        let (up, down) = match (up, down) {
            (Ok(up), Ok(down)) => (up, down),
            (Err(error), _) | (_, Err(error)) => {
                started.failure = Some(error.to_string());
                self.peer.abort();
                terminal.socket().abort();
                terminal.egress(1, &step.tun);
                return Next::Over;
            }
        };
        let more = terminal.egress(EGRESS_BUDGET, &step.tun);
        let socket = terminal.socket();
        match socket.state() {
            // Nothing more can come from the step, and what came has been passed on.
            State::Closed | State::TimeWait if !socket.can_recv() => {
                if !(self.ended && self.finished) {
                    self.peer.abort();
                    started.failure.get_or_insert_with(|| "reset by the step".into());
                }
                return Next::Over;
            }
            _ => {}
        }
        if more || up == Moved::Budget || down == Moved::Budget {
            return Next::Again;
        }
        let interest = match (down == Moved::Blocked, up == Moved::Blocked) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        Next::Wait { interest, deadline: terminal.deadline() }
    }

    fn pump_up(&mut self, terminal: &mut Terminal, started: &mut Started) -> io::Result<Moved> {
        let socket = terminal.socket();
        let mut moved = 0;
        while socket.can_recv() {
            if moved >= BYTE_BUDGET {
                return Ok(Moved::Budget);
            }
            let sent = socket.recv(|data| match self.peer.try_write(data) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match sent {
                Ok(Ok(length)) => {
                    moved += length;
                    started.open.count_up(length);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Moved::Blocked);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        let closed_by_step = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if closed_by_step && !self.finished {
            self.finished = true;
            self.peer.finish();
        }
        Ok(Moved::All)
    }

    fn pump_down(&mut self, terminal: &mut Terminal, started: &mut Started) -> io::Result<Moved> {
        let socket = terminal.socket();
        let mut moved = 0;
        while !self.ended && socket.can_send() {
            if moved >= BYTE_BUDGET {
                return Ok(Moved::Budget);
            }
            let received = socket.send(|space| match self.peer.try_read(space) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match received {
                Ok(Ok(0)) => {
                    self.ended = true;
                    socket.close();
                }
                Ok(Ok(length)) => {
                    moved += length;
                    started.open.count_down(length);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Moved::Blocked);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Moved::All)
    }
}

/// Why moving data stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    /// Nothing left, or no room on the step's side.
    All,
    /// The outside cannot take or give more now.
    Blocked,
    /// Others get their turn.
    Budget,
}
