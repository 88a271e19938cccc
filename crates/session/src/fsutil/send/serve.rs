//! Serves the files a receiver asks for.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_wire::fsutil::types::Packet;
use cofferdam_wire::fsutil::types::packet::PacketType;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;

use super::SendError;
use crate::fsutil::dir;

/// Content of one packet; Go's end sends half of it, every receiver takes far more.
const CHUNK: usize = 64 << 10;

/// Files read at once.
pub(super) const READERS: usize = 2;

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
    pub(super) requested: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) progress: Arc<crate::fsutil::Progress>,
    pub(super) table: Table,
}

impl Shelf {
    /// Serves requests until there are no more to come or the receiver is gone.
    pub(super) fn serve(&self) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let next = self.requests.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(request) = next else { return };
            if self.file(&request, &mut buffer).is_none() {
                return;
            }
        }
    }

    /// `None` when nobody receives any more.
    fn file(&self, request: &Request, buffer: &mut [u8]) -> Option<()> {
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
                        self.data(request.id, &buffer[..count])?;
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
        self.data(request.id, &[])
    }

    fn data(&self, id: u32, data: &[u8]) -> Option<()> {
        let packet = Packet {
            r#type: PacketType::PACKET_DATA.into(),
            ID: id,
            data: data.to_vec(),
            ..Packet::default()
        };
        self.say(packet).ok()
    }

    /// Sends a packet unless the transfer is over.
    pub(super) fn say(&self, packet: Packet) -> Result<(), SendError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(SendError::Ended);
        }
        self.outgoing.blocking_send(packet).map_err(|_| SendError::Ended)
    }
}
