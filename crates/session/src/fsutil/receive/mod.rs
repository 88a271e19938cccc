//! The receiving end: applies a sender's stats and data to a directory.
//!
//! The async part only moves packets, as many at once as are there: a thread that is woken for each
//! spends more time on waking than on packets. One blocking thread owns the [`Receiver`], which checks
//! and applies them in order; requests go back through a queue that never blocks it, because a
//! receiver that stops reading while it asks would deadlock with a sender that stops reading
//! while it answers.

mod apply;
mod calls;
mod file;
mod pool;
mod state;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_wire::fsutil::types::packet::PacketType;
use cofferdam_wire::fsutil::types::{Packet, PacketView};
use connectrpc::ConnectError;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, mpsc};

pub use state::{Receiver, Step};

use self::calls::{Batch, Input, Waiting};
use super::limits::ReceiveLimits;
use super::{PacketStream, Progress, bundle};
use crate::patterns::Matcher;

/// What happens to entries the sender does not announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiveMode {
    /// They are deleted: the directory becomes the sender's tree.
    #[default]
    Mirror,
    /// They stay: the sender's tree is laid over the directory.
    Merge,
}

/// Which files are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compare {
    /// Those whose metadata differs from what is there.
    #[default]
    Metadata,
    /// All of them (`local.differ=none`).
    Nothing,
}

/// Whose the received entries are.
#[derive(Clone, Default)]
pub enum Ownership {
    /// The receiving process's.
    #[default]
    Process,
    /// The sender's ids through this mapping; an id it refuses ends the transfer.
    Mapped(Arc<dyn Fn(u32) -> Option<u32> + Send + Sync>),
}

impl fmt::Debug for Ownership {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Process => "Process",
            Self::Mapped(_) => "Mapped",
        })
    }
}

/// How to receive.
#[derive(Debug, Clone, Default)]
pub struct ReceiveOptions {
    /// Mirror or merge.
    pub mode: ReceiveMode,
    /// What counts as unchanged.
    pub compare: Compare,
    /// Whose the entries become.
    pub ownership: Ownership,
    /// Describes all entries in a list, and brings only those that match
    /// (`local.metadatatransfer`).
    pub described: Option<Arc<Matcher>>,
    /// Bounds of the transfer.
    pub limits: ReceiveLimits,
    /// Counters to keep up to date.
    pub progress: Arc<Progress>,
}

/// What a finished transfer did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// Entries the sender announced.
    pub entries: u64,
    /// Files asked for.
    pub requested: u64,
    /// Entries deleted because the sender has them no more.
    pub deleted: u64,
    /// Bytes of file content received.
    pub bytes: u64,
    /// Whether anything in the directory is not as it was.
    pub changed: bool,
    /// What a call of its own may bring of the same tree next time, beside one that brings the rest: directories with about half of it.
    /// Nothing for a tree that is not worth it.
    pub apart: Vec<String>,
}

/// One of the calls that bring a tree.
pub struct Call {
    /// What the sender says.
    pub packets: PacketStream,
    /// What it is told.
    pub outgoing: mpsc::Sender<Packet>,
}

/// A transfer that did not finish. Unless the stream itself broke, the sender was told.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The call failed.
    #[error("file transfer stream")]
    Stream(#[source] ConnectError),
    /// The sender gave up.
    #[error("error from sender: {message}")]
    Sender {
        /// Its words.
        message: String,
    },
    /// The sender stopped before the transfer was complete.
    #[error("file transfer ended early")]
    Ended,
    /// The sender broke the protocol.
    #[error("invalid file transfer: {violation}")]
    Invalid {
        /// What it did, with the path.
        violation: String,
    },
    /// The sender went beyond a limit.
    #[error("file transfer exceeds {limit}")]
    Limit {
        /// Which one.
        limit: &'static str,
    },
    /// An entry's owner has no place here.
    #[error("owner {id} of {path} is outside the ids of this builder")]
    Owner {
        /// The id.
        id: u32,
        /// The entry.
        path: String,
    },
    /// The directory could not be changed.
    #[error("{action} {path}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On which entry.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Most packets of a batch.
const MAX_PACKETS: usize = 256;

/// A batch that has this many bytes is full. One packet may have more.
const MAX_BYTES: usize = 512 << 10;

/// Batches between the streams and the blocking thread (1 MiB).
const DEPTH: usize = 2;

/// How long the end of the calls may take once everything is said.
const DRAIN: Duration = Duration::from_secs(5);

/// Receives a tree into `dest`; see the module text for the shape.
///
/// # Errors
/// A broken or hostile sender, or a directory that cannot be changed. Nothing outside `dest`
/// is ever touched; what was already applied inside it stays.
pub async fn receive(
    packets: PacketStream,
    outgoing: mpsc::Sender<Packet>,
    dest: OwnedFd,
    options: ReceiveOptions,
) -> Result<Received, ReceiveError> {
    receive_parts(vec![Call { packets, outgoing }], dest, options).await
}

/// The same from several calls that bring parts of one tree. Each is in the order of the protocol; a directory may come in more
/// than one.
///
/// # Errors
/// As [`receive`]. What fails one call fails all.
pub async fn receive_parts(
    calls: Vec<Call>,
    dest: OwnedFd,
    options: ReceiveOptions,
) -> Result<Received, ReceiveError> {
    let (input, work) = mpsc::channel(DEPTH);
    let (mut streams, mut answers, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
    for call in calls {
        // Read on after its end below, which a bare stream need not bear.
        streams.push(call.packets.fuse().boxed());
        answers.push(answering(call.outgoing));
        rooms.push(calls::room());
    }
    let mut worker = {
        let rooms = rooms.clone();
        tokio::task::spawn_blocking(move || apply(dest, options, work, &answers, rooms))
    };
    let result = {
        let pumps = streams.iter_mut().zip(&rooms).enumerate();
        let pumps = pumps.map(|(call, (packets, room))| pump(call, packets, room, input.clone()));
        let pumps = futures::future::join_all(pumps);
        drop(input);
        tokio::pin!(pumps);
        tokio::select! {
            result = &mut worker => result,
            _ = &mut pumps => worker.await,
        }
    };
    // Both sides have said everything; taking in the rest lets our last words get through.
    let rest = streams
        .iter_mut()
        .map(|packets| async move { while let Some(Ok(_)) = packets.next().await {} });
    let _ = tokio::time::timeout(DRAIN, futures::future::join_all(rest)).await;
    result.unwrap_or(Err(ReceiveError::Ended))
}

/// Sends answers in a task of their own, so that who gives them never waits.
fn answering(outgoing: mpsc::Sender<Packet>) -> Answers {
    let (answers, mut answered) = mpsc::unbounded_channel::<Vec<Packet>>();
    tokio::spawn(async move {
        while let Some(packets) = answered.recv().await {
            for packet in packets {
                if outgoing.send(packet).await.is_err() {
                    return;
                }
            }
        }
    });
    answers
}

/// Moves packets until the stream ends or nobody takes them.
async fn pump(
    call: usize,
    packets: &mut PacketStream,
    room: &Semaphore,
    input: mpsc::Sender<Input>,
) {
    loop {
        let (batch, then) = gather(packets).await;
        if !batch.is_empty() {
            let Ok(taken) = room.acquire_many(calls::weight(&batch)).await else { return };
            taken.forget();
            if input.send(Input::Batch(call, batch)).await.is_err() {
                return;
            }
        }
        if let ControlFlow::Break(broken) = then {
            // The thread may be done; then nobody needs to know.
            let _ = input.send(Input::End(call, broken)).await;
            return;
        }
    }
}

/// Waits for a packet and takes what else is there; says whether that was the end of the stream.
async fn gather(packets: &mut PacketStream) -> (Batch, ControlFlow<Option<ConnectError>>) {
    let mut batch = Batch::new();
    let mut bytes = 0;
    let mut let_others_run = true;
    let mut next = packets.next().await;
    loop {
        match next {
            None => return (batch, ControlFlow::Break(None)),
            Some(Err(error)) => return (batch, ControlFlow::Break(Some(error))),
            Some(Ok(packet)) => {
                bytes += packet.bytes().len();
                batch.push(packet);
            }
        }
        if batch.len() >= MAX_PACKETS || bytes >= MAX_BYTES {
            return (batch, ControlFlow::Continue(()));
        }
        let mut ready = packets.next().now_or_never();
        if ready.is_none() && let_others_run {
            // Once: whoever reads the connection may have more already.
            let_others_run = false;
            tokio::task::yield_now().await;
            ready = packets.next().now_or_never();
        }
        match ready {
            Some(item) => next = item,
            None => return (batch, ControlFlow::Continue(())),
        }
    }
}

type Answers = mpsc::UnboundedSender<Vec<Packet>>;

/// Applies what comes, and tells every sender when that fails.
fn apply(
    dest: OwnedFd,
    options: ReceiveOptions,
    work: mpsc::Receiver<Input>,
    answers: &[Answers],
    rooms: Vec<Arc<Semaphore>>,
) -> Result<Received, ReceiveError> {
    let result = Receiver::new(dest, options, answers.len()).and_then(|mut receiver| {
        apply_all(&mut receiver, work, answers, rooms)?;
        Ok(receiver.received())
    });
    if let Err(error) = &result
        && !matches!(
            error,
            ReceiveError::Sender { .. } | ReceiveError::Ended | ReceiveError::Stream(_)
        )
    {
        for answers in answers {
            // The sender may be gone already; then nobody needs to know.
            let _ = answers.send(vec![error_packet(&error.to_string())]);
        }
    }
    result
}

fn apply_all(
    receiver: &mut Receiver,
    mut work: mpsc::Receiver<Input>,
    answers: &[Answers],
    rooms: Vec<Arc<Semaphore>>,
) -> Result<(), ReceiveError> {
    let mut waiting = Waiting::new(rooms);
    let mut bundles = vec![false; answers.len()];
    while let Some(input) = work.blocking_recv() {
        match input {
            Input::Batch(call, batch) => waiting.add(call, batch),
            Input::End(call, _) if receiver.has_finished(call) => continue,
            Input::End(_, broken) => {
                return Err(broken.map_or(ReceiveError::Ended, ReceiveError::Stream));
            }
        }
        let mut said = vec![Vec::new(); answers.len()];
        let mut finished = false;
        while !finished && let Some(call) = waiting.next(receiver) {
            bundles[call] |= waiting.is_bundled(call);
            let taken = waiting.take(call, |packet| take(receiver, call, packet, &mut said))?;
            finished = taken.unwrap_or(false);
        }
        for (call, mut said) in said.into_iter().enumerate() {
            if bundles[call] && said.len() > 1 {
                said = bundled(&said);
            }
            if !said.is_empty() && answers[call].send(said).is_err() {
                return Err(ReceiveError::Ended);
            }
        }
        if finished {
            return Ok(());
        }
    }
    Err(ReceiveError::Ended)
}

/// The same in as few packets as will do, for a sender that sends bundles itself.
fn bundled(packets: &[Packet]) -> Vec<Packet> {
    let (mut bundle, mut out) = (bundle::Bundle::default(), Vec::new());
    for packet in packets {
        bundle.push(packet);
        if bundle.is_full() {
            out.extend(bundle.take());
        }
    }
    out.extend(bundle.take());
    out
}

/// Applies a packet and collects what there is to answer, by call; says whether the sender has finished.
fn take(
    receiver: &mut Receiver,
    call: usize,
    packet: &PacketView<'_>,
    said: &mut [Vec<Packet>],
) -> Result<bool, ReceiveError> {
    match receiver.packet(call, packet)? {
        Step::Finished => return Ok(true),
        Step::Request(id) => said[call].push(Packet {
            r#type: PacketType::PACKET_REQ.into(),
            ID: id,
            ..Packet::default()
        }),
        Step::Continue => {}
    }
    if receiver.is_ready() {
        receiver.settle()?;
        for said in said {
            said.push(Packet { r#type: PacketType::PACKET_FIN.into(), ..Packet::default() });
        }
    }
    Ok(false)
}

pub(super) fn error_packet(message: &str) -> Packet {
    Packet {
        r#type: PacketType::PACKET_ERR.into(),
        data: message.as_bytes().to_vec(),
        ..Packet::default()
    }
}

/// Applies a sequence of packets, each behind its length as four little-endian bytes, to
/// `dest`: the receiving end without a connection, for tests of hostile input.
///
/// # Errors
/// As [`receive`]; bytes that are no packets end the transfer.
pub fn receive_bytes(
    bytes: &[u8],
    dest: OwnedFd,
    options: ReceiveOptions,
) -> Result<Received, ReceiveError> {
    let mut receiver = Receiver::new(dest, options, 1)?;
    // Nobody is there to be answered.
    let mut take = |packet: &PacketView<'_>| take(&mut receiver, 0, packet, &mut [Vec::new()]);
    for packet in bundle::Packets(bytes) {
        let packet = packet.map_err(|_| ReceiveError::Ended)?;
        let mut finished = false;
        if bundle::is_bundle(&packet) {
            for packet in bundle::Packets(packet.data) {
                let packet = packet
                    .map_err(|error| ReceiveError::Invalid { violation: error.to_string() })?;
                finished = finished || take(&packet)?;
            }
        } else {
            finished = take(&packet)?;
        }
        if finished {
            return Ok(receiver.received());
        }
    }
    Err(ReceiveError::Ended)
}
