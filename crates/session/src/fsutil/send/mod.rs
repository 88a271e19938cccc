//! The sending end: announces a tree and serves the files the receiver asks for.

mod serve;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use buffa::MessageField;
use cofferdam_wire::fsutil::types::packet::PacketType;
use cofferdam_wire::fsutil::types::{Packet, PacketView, Stat};
use connectrpc::ConnectError;
use futures::StreamExt;
use rustix::fs::FileType;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::serve::{Batch, READERS, Request, Shelf, Table};
use super::filter::{Filter, FilterError};
use super::follow::{self, FollowError};
use super::mode::GoMode;
use super::walk::{Visit, Visitor, Walk, WalkError};
use super::{PacketStream, Progress, bundle};

/// One tree to send.
#[derive(Debug)]
pub struct Source {
    /// Its directory.
    pub root: OwnedFd,
    /// A single directory name it appears under (`linux_amd64`), or directly at the top.
    pub under: Option<String>,
}

/// What a map hook decides about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapResult {
    /// Send it (as changed by the hook).
    Keep,
    /// Leave it out; a directory's children are still looked at.
    Exclude,
    /// Leave it out with everything below it.
    SkipDir,
}

/// Changes or leaves out entries on their way; the path must not be changed.
pub type MapHook = Arc<dyn Fn(&mut Stat) -> MapResult + Send + Sync>;

/// How to send.
#[derive(Clone, Default)]
pub struct SendOptions {
    /// Only matching paths; empty means everything.
    pub include: Vec<String>,
    /// Not these paths.
    pub exclude: Vec<String>,
    /// Paths resolved through symlinks and added to the includes.
    pub follow: Vec<String>,
    /// Called for each entry, in order.
    pub map: Option<MapHook>,
    /// Whether the receiver reads several packets in one.
    pub bundles: bool,
    /// Counters to keep up to date.
    pub progress: Arc<Progress>,
}

impl fmt::Debug for SendOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SendOptions")
            .field("include", &self.include)
            .field("exclude", &self.exclude)
            .field("follow", &self.follow)
            .finish_non_exhaustive()
    }
}

/// What a finished transfer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Entries announced.
    pub entries: u64,
    /// Files the receiver asked for.
    pub requested: u64,
    /// Bytes of file content sent.
    pub bytes: u64,
}

/// A transfer that did not finish. Unless the stream itself broke, the receiver was told.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The call failed.
    #[error("file transfer stream")]
    Stream(#[source] ConnectError),
    /// The receiver gave up.
    #[error("error from receiver: {message}")]
    Receiver {
        /// Its words.
        message: String,
    },
    /// The receiver stopped before the transfer was complete.
    #[error("file transfer ended early")]
    Ended,
    /// The receiver asked for what was never announced, or twice.
    #[error("invalid file id {id}")]
    InvalidId {
        /// What it asked for.
        id: u32,
    },
    /// The receiver sent what only senders send.
    #[error("unexpected packet of type {kind}")]
    Unexpected {
        /// Its type number.
        kind: i32,
    },
    /// The receiver sent what is no packet.
    #[error("the receiver sent what is no packet")]
    Malformed,
    /// A pattern is malformed.
    #[error(transparent)]
    Filter(FilterError),
    /// The paths to follow could not be resolved.
    #[error(transparent)]
    Follow(FollowError),
    /// The tree could not be read.
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

/// How long the end of the call may take once everything is said.
const DRAIN: Duration = Duration::from_secs(5);

/// Sends `sources` as one tree; several need distinct [`Source::under`] names.
///
/// # Errors
/// Unreadable directories, malformed patterns, or a receiver that stops. A file that cannot be
/// read arrives empty, as the protocol has it.
pub async fn send(
    sources: Vec<Source>,
    packets: PacketStream,
    outgoing: mpsc::Sender<Packet>,
    options: SendOptions,
) -> Result<Sent, SendError> {
    // Read on after its end below, which a bare stream need not bear.
    let mut packets: PacketStream = packets.fuse().boxed();
    let (requests, queue) = mpsc::unbounded_channel();
    let progress = Arc::clone(&options.progress);
    let mut roots = Vec::with_capacity(sources.len());
    for source in &sources {
        let root = source.root.try_clone().map_err(|source| SendError::Disk {
            action: "open",
            path: ".".to_string(),
            source,
        })?;
        roots.push(root);
    }
    let shelf = Arc::new(Shelf {
        roots,
        outgoing: outgoing.clone(),
        requests: std::sync::Mutex::new(queue),
        requested: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        announced: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        bundles: options.bundles,
        progress,
        table: Table::default(),
    });
    let walker = {
        let shelf = Arc::clone(&shelf);
        tokio::task::spawn_blocking(move || announce(sources, &options, &shelf))
    };
    let result = converse(&mut packets, &outgoing, &shelf, requests, walker).await;
    shelf.stop.store(result.is_err(), Ordering::Relaxed);
    let last = match &result {
        Ok(()) => Some(Packet { r#type: PacketType::PACKET_FIN.into(), ..Packet::default() }),
        Err(SendError::Receiver { .. } | SendError::Stream(_) | SendError::Ended) => None,
        Err(error) => Some(super::receive::error_packet(&error.to_string())),
    };
    let end = async {
        if let Some(last) = last {
            // A receiver that is gone needs no last word.
            let _ = outgoing.send(last).await;
        }
        drop(outgoing);
        while let Some(Ok(_)) = packets.next().await {}
    };
    let sent = Sent {
        entries: shelf.table.len() as u64,
        requested: shelf.requested.load(Ordering::Relaxed),
        bytes: shelf.sent.load(Ordering::Relaxed),
    };
    // Its sender would keep the call open.
    drop(shelf);
    let _ = tokio::time::timeout(DRAIN, end).await;
    result.map(|()| sent)
}

/// Answers the receiver until it has everything.
async fn converse(
    packets: &mut PacketStream,
    outgoing: &mpsc::Sender<Packet>,
    shelf: &Arc<Shelf>,
    requests: mpsc::UnboundedSender<Request>,
    mut walker: JoinHandle<Result<(), SendError>>,
) -> Result<(), SendError> {
    let mut announced = false;
    let mut readers = 0;
    loop {
        let packet = tokio::select! {
            walked = &mut walker, if !announced => {
                walked.unwrap_or(Err(SendError::Ended))?;
                announced = true;
                continue;
            }
            () = outgoing.closed() => None,
            packet = packets.next() => packet,
        };
        let packet = match packet {
            None => return Err(SendError::Ended),
            Some(packet) => packet.map_err(SendError::Stream)?,
        };
        let view = packet.view();
        let finished = if bundle::is_bundle(view) {
            let mut finished = false;
            for packet in bundle::Packets(view.data) {
                finished |= hear(&packet.map_err(|_| SendError::Malformed)?, shelf, &requests)?;
            }
            finished
        } else {
            hear(view, shelf, &requests)?
        };
        if finished {
            return if announced { Ok(()) } else { walker.await.unwrap_or(Err(SendError::Ended)) };
        }
        let wanted = shelf.requested.load(Ordering::Relaxed).min(READERS);
        for _ in readers..wanted {
            let shelf = Arc::clone(shelf);
            tokio::task::spawn_blocking(move || shelf.serve());
        }
        readers = readers.max(wanted);
    }
}

/// Takes one word of the receiver; says whether it was the last.
fn hear(
    packet: &PacketView<'_>,
    shelf: &Shelf,
    requests: &mpsc::UnboundedSender<Request>,
) -> Result<bool, SendError> {
    match packet.r#type.as_known() {
        Some(PacketType::PACKET_REQ) => {
            let request = shelf.table.request(packet.ID)?;
            shelf.requested.fetch_add(1, Ordering::Relaxed);
            // The queue never blocks: a sender that stops listening while it answers would
            // deadlock with a receiver that stops listening while it asks.
            requests.send(request).map(|()| false).map_err(|_| SendError::Ended)
        }
        // The end of the announcements may be answered before its task is seen to end.
        Some(PacketType::PACKET_FIN) if shelf.announced.load(Ordering::Acquire) => Ok(true),
        Some(PacketType::PACKET_ERR) => {
            let text = String::from_utf8_lossy(packet.data);
            Err(SendError::Receiver { message: text.chars().take(4096).collect() })
        }
        _ => Err(SendError::Unexpected { kind: packet.r#type.to_i32() }),
    }
}

struct Announcer<'a, 'b> {
    source: usize,
    prefix: usize,
    map: Option<&'a MapHook>,
    shelf: &'a Shelf,
    batch: &'a mut Batch<'b>,
}

impl Visitor for Announcer<'_, '_> {
    type Error = SendError;

    fn decide(&mut self, stat: &mut Stat) -> Visit {
        match self.map.map(|map| map(stat)) {
            None | Some(MapResult::Keep) => Visit::Keep,
            Some(MapResult::Exclude) => Visit::Drop,
            Some(MapResult::SkipDir) => Visit::Skip,
        }
    }

    fn announce(&mut self, stat: Stat) -> Result<(), SendError> {
        let is_file = GoMode(stat.mode).file_type() == Some(FileType::RegularFile);
        let servable = is_file && stat.linkname.is_empty();
        let path = servable.then(|| &stat.path[self.prefix..]);
        self.shelf.table.push(self.source, path);
        self.shelf.progress.add_entry();
        self.batch.say(Packet { stat: MessageField::some(stat), ..Packet::default() })
    }
}

/// Walks and announces every source, then the end of announcements.
fn announce(
    mut sources: Vec<Source>,
    options: &SendOptions,
    shelf: &Shelf,
) -> Result<(), SendError> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by(|left, right| sources[*left].under.cmp(&sources[*right].under));
    let mut batch = Batch::new(shelf);
    for index in order {
        let source = &mut sources[index];
        let filter = filter(&source.root, options)?;
        let mut announcer = Announcer {
            source: index,
            prefix: source.under.as_ref().map_or(0, |under| under.len() + 1),
            map: options.map.as_ref(),
            shelf,
            batch: &mut batch,
        };
        if let Some(under) = &source.under {
            announcer.top(&source.root, under)?;
        }
        let walked = Walk::new(&filter, &mut announcer, source.under.as_deref()).run(&source.root);
        walked.map_err(|error| match error {
            WalkError::Visitor(error) => error,
            WalkError::Disk { action, path, source } => SendError::Disk { action, path, source },
        })?;
    }
    shelf.announced.store(true, Ordering::Release);
    batch.say(Packet::default())?;
    batch.flush()
}

impl Announcer<'_, '_> {
    /// Announces the directory a source appears under.
    fn top(&mut self, root: &OwnedFd, under: &str) -> Result<(), SendError> {
        let found = rustix::fs::fstat(root).map_err(|source| SendError::Disk {
            action: "look at",
            path: under.to_string(),
            source: source.into(),
        })?;
        let mut stat = Stat {
            path: under.to_string(),
            mode: GoMode::from_unix(found.st_mode).0,
            uid: found.st_uid,
            gid: found.st_gid,
            modTime: i64::try_from(super::dir::mtime(&found)).unwrap_or(i64::MAX),
            ..Stat::default()
        };
        // Leaving out the directory a whole source hangs from is not a hook's business.
        self.decide(&mut stat);
        self.announce(stat)
    }
}

fn filter(root: &OwnedFd, options: &SendOptions) -> Result<Filter, SendError> {
    let mut include = options.include.clone();
    if !options.follow.is_empty()
        && let Some(targets) = follow::resolve(root, &options.follow).map_err(SendError::Follow)?
    {
        include.extend(targets);
        include = follow::without_children(include.into_iter()).unwrap_or_default();
    }
    Filter::new(&include, &options.exclude).map_err(SendError::Filter)
}
