//! Calls that bring parts of one tree: whose packet is next.
//!
//! Each call announces its part in the order of the protocol, and the receiver wants one order over all. So an entry is next when no
//! call can announce one before it any more; everything else is next at once. What has to wait is bounded: a call that is far
//! ahead of another one is not read for that long. Must never wait for a call whose entries are all there.

use std::collections::VecDeque;
use std::sync::Arc;

use cofferdam_wire::fsutil::types::packet::PacketType;
use cofferdam_wire::fsutil::types::{Packet, PacketView};
use connectrpc::{ConnectError, StreamMessage};
use tokio::sync::Semaphore;

use super::{MAX_BYTES, MAX_PACKETS, ReceiveError, Receiver};
use crate::fsutil::bundle::{self, Packets};
use crate::fsutil::order;
use crate::tunnel::MAX_MESSAGE;

/// Packets that go to the blocking thread together, in the order they came.
pub(super) type Batch = Vec<StreamMessage<Packet>>;

/// What the streams have for the blocking thread, by call.
pub(super) enum Input {
    Batch(usize, Batch),
    /// Nothing more comes; why not, when the stream broke.
    End(usize, Option<ConnectError>),
}

/// Memory that the packets of one call may take while they wait, in bytes.
const ROOM: usize = 20 << 20;

/// What a packet takes beside its bytes.
const OVERHEAD: usize = 512;

/// There is room for any batch, or its call would wait forever.
const _: () = assert!(ROOM > MAX_MESSAGE + MAX_BYTES + MAX_PACKETS * OVERHEAD);

/// Room for one call.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ROOM))
}

/// What a batch takes of it.
pub(super) fn weight(batch: &Batch) -> u32 {
    let all: usize = batch.iter().map(weight_of).sum();
    u32::try_from(all.min(ROOM)).unwrap_or(u32::MAX)
}

fn weight_of(packet: &StreamMessage<Packet>) -> usize {
    packet.bytes().len() + OVERHEAD
}

/// Packets that came and were not taken yet.
pub(super) struct Waiting {
    calls: Vec<Queue>,
}

struct Queue {
    packets: VecDeque<StreamMessage<Packet>>,
    /// Bytes taken of the first one, when that is a bundle.
    taken: usize,
    /// What the first packet is, once somebody wanted to know: it may be large, and is compared with many.
    first: Option<First>,
    room: Arc<Semaphore>,
}

enum First {
    /// It announces this path.
    Entry(String),
    Other,
}

impl Waiting {
    /// Of as many calls as there are rooms.
    pub(super) fn new(rooms: Vec<Arc<Semaphore>>) -> Self {
        let queue = |room| Queue { packets: VecDeque::new(), taken: 0, first: None, room };
        Self { calls: rooms.into_iter().map(queue).collect() }
    }

    pub(super) fn add(&mut self, call: usize, batch: Batch) {
        self.calls[call].packets.extend(batch);
        self.calls[call].forget_empty();
    }

    /// The call whose first packet is next; none before more has come.
    pub(super) fn next(&mut self, receiver: &Receiver) -> Option<usize> {
        if let [only] = &self.calls[..] {
            return (!only.packets.is_empty()).then_some(0);
        }
        let mut next: Option<(usize, &str)> = None;
        let mut is_certain = true;
        for (call, queue) in self.calls.iter_mut().enumerate() {
            match queue.first() {
                None => is_certain &= receiver.has_announced_all(call),
                Some(First::Other) => return Some(call),
                Some(First::Entry(path)) => {
                    if next.is_none_or(|(_, first)| order::compare(path, first).is_lt()) {
                        next = Some((call, path));
                    }
                }
            }
        }
        next.filter(|_| is_certain).map(|(call, _)| call)
    }

    /// Takes the first packet of a call, if there is one.
    pub(super) fn take<T>(
        &mut self,
        call: usize,
        take: impl FnOnce(&PacketView<'_>) -> Result<T, ReceiveError>,
    ) -> Result<Option<T>, ReceiveError> {
        let queue = &mut self.calls[call];
        let taken = queue.with_first(take).transpose()?;
        queue.forget_first();
        Ok(taken)
    }

    /// Whether the first packet of a call came in a bundle.
    pub(super) fn is_bundled(&self, call: usize) -> bool {
        self.calls[call].packets.front().is_some_and(|first| bundle::is_bundle(first.view()))
    }
}

/// The path of an entry that is announced.
fn path<'a>(packet: &PacketView<'a>) -> Option<&'a str> {
    let is_stat = packet.r#type.as_known() == Some(PacketType::PACKET_STAT);
    packet.stat.as_option().filter(|_| is_stat).map(|stat| stat.path)
}

impl Queue {
    fn first(&mut self) -> Option<&First> {
        if self.first.is_none() {
            let look = |packet: &PacketView<'_>| {
                Ok(path(packet).map_or(First::Other, |path| First::Entry(path.to_owned())))
            };
            // What is no packet is found out at once, too.
            self.first = self.with_first(look).map(|first| first.unwrap_or(First::Other));
        }
        self.first.as_ref()
    }

    /// Looks into bundles. A bundle in a bundle is a packet of an unexpected type.
    fn with_first<T>(
        &self,
        look: impl FnOnce(&PacketView<'_>) -> Result<T, ReceiveError>,
    ) -> Option<Result<T, ReceiveError>> {
        let first = self.packets.front()?.view();
        if !bundle::is_bundle(first) {
            return Some(look(first));
        }
        let malformed =
            |error: bundle::Malformed| ReceiveError::Invalid { violation: error.to_string() };
        let packet = Packets(&first.data[self.taken..]).next()?;
        Some(packet.map_err(malformed).and_then(|packet| look(&packet)))
    }

    fn forget_first(&mut self) {
        self.first = None;
        let Some(first) = self.packets.front().map(StreamMessage::view) else { return };
        if bundle::is_bundle(first) {
            let mut rest = Packets(&first.data[self.taken..]);
            let _ = rest.next();
            self.taken = first.data.len() - rest.0.len();
            self.forget_empty();
        } else {
            self.drop_first();
        }
    }

    /// Forgets bundles of which nothing is left.
    fn forget_empty(&mut self) {
        while let Some(first) = self.packets.front().map(StreamMessage::view)
            && bundle::is_bundle(first)
            && first.data.len() == self.taken
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        self.taken = 0;
        if let Some(first) = self.packets.pop_front() {
            self.room.add_permits(weight_of(&first).min(ROOM));
        }
    }
}
