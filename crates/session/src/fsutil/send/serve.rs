//! Serves the files a receiver asks for.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use cofferdam_wire::fsutil::types::Packet;
use cofferdam_wire::fsutil::types::packet::PacketType;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::SendError;
use crate::fsutil::bundle::{self, Bundle};
use crate::fsutil::dir;

/// Content of one packet; Go's end sends a quarter of it, every receiver takes far more.
const CHUNK: usize = 128 << 10;

/// Packets that go into the queue together: one wake-up of either end for all of them.
const BATCH: usize = 16;

/// Files read at once.
pub(super) const READERS: u64 = 2;

/// A file that may be asked for.
struct Announced {
    source: usize,
    path: String,
}

/// Which ids may be asked for; each once.
#[derive(Default)]
pub(super) struct Table {
    entries: Mutex<Vec<Option<Announced>>>,
}

impl Table {
    /// Adds the next entry; only regular files have a path to serve.
    pub(super) fn push(&self, source: usize, path: Option<&str>) {
        let entry = path.map(|path| Announced { source, path: path.to_string() });
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, id: u32) -> Option<Announced> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get_mut(id as usize)?.take()
    }
}

/// One accepted request.
pub(super) struct Request {
    id: u32,
    file: Announced,
}

impl Table {
    /// Accepts a request for `id`.
    pub(super) fn request(&self, id: u32) -> Result<Request, SendError> {
        let file = self.take(id).ok_or(SendError::InvalidId { id })?;
        Ok(Request { id, file })
    }
}

/// The files' side of a transfer, shared by the readers.
pub(super) struct Shelf {
    pub(super) roots: Vec<OwnedFd>,
    pub(super) outgoing: mpsc::Sender<Packet>,
    pub(super) requests: Mutex<mpsc::UnboundedReceiver<Request>>,
    /// Set when every entry has been announced.
    pub(super) announced: AtomicBool,
    /// Set when the transfer has failed: nothing more is worth reading.
    pub(super) stop: AtomicBool,
    /// Whether the receiver reads several packets in one.
    pub(super) bundles: bool,
    pub(super) requested: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) progress: Arc<crate::fsutil::Progress>,
    pub(super) table: Table,
}

impl Shelf {
    /// Serves requests until there are no more to come or the receiver is gone.
    pub(super) fn serve(&self) {
        let mut buffer = vec![0; CHUNK];
        let mut batch = Batch::new(self);
        while let Some(request) = self.next(&mut batch) {
            if self.file(&request, &mut buffer, &mut batch).is_none() {
                return;
            }
        }
    }

    /// The next request. Nothing waits in `batch` while this waits: the receiver may have to get
    /// it before it asks for more.
    fn next(&self, batch: &mut Batch<'_>) -> Option<Request> {
        let waiting = match self.requests.try_lock() {
            Ok(mut requests) => requests.try_recv(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().try_recv(),
            // Another reader has it, and may be waiting.
            Err(TryLockError::WouldBlock) => Err(TryRecvError::Empty),
        };
        if let Ok(request) = waiting {
            return Some(request);
        }
        batch.flush().ok()?;
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
    }

    /// `None` when nobody receives any more.
    fn file(&self, request: &Request, buffer: &mut [u8], batch: &mut Batch<'_>) -> Option<()> {
        // A file that cannot be read, or that became something else since the walk, is sent
        // as far as it goes: the protocol has no error for a single file.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = dir::open_beneath(
            &self.roots[request.file.source],
            &request.file.path,
            flags,
            Mode::empty(),
        );
        match opened.map(File::from) {
            Ok(mut file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => loop {
                match file.read(buffer) {
                    Ok(0) => break,
                    Ok(count) => {
                        batch.say(data(request.id, &buffer[..count])).ok()?;
                        self.sent.fetch_add(count as u64, Ordering::Relaxed);
                        self.progress.add_bytes(count);
                    }
                    Err(error) => {
                        tracing::warn!(path = request.file.path, %error, "cannot read file to send");
                        break;
                    }
                }
            },
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(path = request.file.path, %error, "cannot open file to send");
            }
        }
        batch.say(data(request.id, &[])).ok()
    }
}

fn data(id: u32, data: &[u8]) -> Packet {
    Packet {
        r#type: PacketType::PACKET_DATA.into(),
        ID: id,
        data: data.to_vec(),
        ..Packet::default()
    }
}

/// Packets of one thread that have not been sent yet, in their order. What is left when it is
/// dropped is not sent.
pub(super) struct Batch<'a> {
    shelf: &'a Shelf,
    packets: Vec<Packet>,
    /// Later than all of those; empty for a receiver that reads none.
    bundle: Bundle,
    /// Bytes of content in them.
    content: usize,
    limit: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn new(shelf: &'a Shelf) -> Self {
        let limit = BATCH.min(shelf.outgoing.max_capacity());
        let bundle = Bundle::default();
        Self { shelf, packets: Vec::with_capacity(limit), bundle, content: 0, limit }
    }

    /// Sends a packet, now or with the ones after it.
    pub(super) fn say(&mut self, packet: Packet) -> Result<(), SendError> {
        if self.shelf.bundles && packet.data.len() < bundle::FULL {
            self.bundle.push(&packet);
            return if self.bundle.is_full() { self.flush() } else { Ok(()) };
        }
        // What is large gains nothing from being copied once more.
        self.packets.extend(self.bundle.take());
        self.content += packet.data.len();
        self.packets.push(packet);
        if self.packets.len() >= self.limit || self.content >= CHUNK {
            return self.flush();
        }
        Ok(())
    }

    /// Sends what is left, unless the transfer is over.
    pub(super) fn flush(&mut self) -> Result<(), SendError> {
        if self.shelf.stop.load(Ordering::Relaxed) {
            return Err(SendError::Ended);
        }
        self.packets.extend(self.bundle.take());
        if self.packets.is_empty() {
            return Ok(());
        }
        let room = self.shelf.outgoing.reserve_many(self.packets.len());
        let room = futures::executor::block_on(room).map_err(|_| SendError::Ended)?;
        for (permit, packet) in room.zip(self.packets.drain(..)) {
            permit.send(packet);
        }
        self.content = 0;
        Ok(())
    }
}
