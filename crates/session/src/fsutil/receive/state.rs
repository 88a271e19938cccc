//! The receiving state machine: what has been announced, what is still to come.
//!
//! Every packet passes here before it has any effect. The stack of open directories follows the
//! sender's order, so an entry whose directory is not on it was announced out of order.

mod content;
mod described;
mod shape;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use cofferdam_wire::fsutil::types::packet::PacketType;
use cofferdam_wire::fsutil::types::{PacketView, StatView};
use rustix::fs::FileType;

use self::described::Described;
use self::shape::Shape;
use super::apply::{Attributes, Disk, Existing};
use super::file::{FileInProgress, Parents};
use super::pool::Pool;
use super::{Compare, ReceiveError, ReceiveMode, ReceiveOptions, Received};
use crate::fsutil::mode::GoMode;
use crate::fsutil::order;

/// What a packet asks the caller to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Continue,
    /// Request the content of this file.
    Request(u32),
    /// The sender has finished.
    Finished,
}

/// What is known of the entries already in a directory.
enum Listing {
    /// Just created: nothing.
    Fresh,
    /// The names not announced so far; deleted when the directory is left.
    Mirror(HashSet<Vec<u8>>),
    /// Anything may be there and stays.
    Merge,
}

struct Level {
    path: String,
    fd: OwnedFd,
    listing: Listing,
    /// Its record; the root has none.
    record: Option<usize>,
    /// Entries announced before those in it.
    before: u64,
}

struct DirectoryRecord {
    path: String,
    attributes: Attributes,
    dirty: bool,
}

struct HardLink {
    path: String,
    target: String,
}

/// One of the calls that bring a tree together, each a part of it.
#[derive(Default)]
struct Call {
    /// Entries so far: the next one's id in this call.
    announced: u32,
    announced_all: bool,
    finished: bool,
}

/// Applies one sender's packets to one directory, in order and without ever waiting.
///
/// [`super::receive`] drives it from a stream; driven by hand it suits tests of hostile input.
pub struct Receiver {
    disk: Disk,
    options: ReceiveOptions,
    calls: Vec<Call>,
    stack: Vec<Level>,
    last: String,
    /// The call that announced the last entry.
    last_call: usize,
    metadata_bytes: u64,
    shape: Shape,
    /// Regular files so far: the inode of those kept as they are, `None` for new ones.
    files: HashMap<Box<str>, Option<u64>>,
    /// Inodes of kept files with several names: a second name must be a link again.
    kept_inodes: HashSet<u64>,
    /// By call and id.
    pending: HashMap<(usize, u32), FileInProgress>,
    /// How many of them have begun to arrive.
    in_transit: usize,
    parents: Parents,
    pool: Pool,
    directories: Vec<DirectoryRecord>,
    links: Vec<HardLink>,
    settled: bool,
    received: Received,
    /// What was written down, in a transfer of descriptions.
    described: Option<Described>,
}

fn invalid(violation: String) -> ReceiveError {
    ReceiveError::Invalid { violation }
}

impl Receiver {
    /// Starts on `root`, for what `calls` calls bring together.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn new(root: OwnedFd, options: ReceiveOptions, calls: usize) -> Result<Self, ReceiveError> {
        let disk = Disk::new(root, options.ownership.clone());
        let fd = disk.open_root()?;
        let listing = match options.mode {
            ReceiveMode::Merge => Listing::Merge,
            ReceiveMode::Mirror => Listing::Mirror(disk.names(&fd, "")?),
        };
        let root = Level { path: String::new(), fd, listing, record: None, before: 0 };
        Ok(Self {
            disk,
            options,
            calls: (0..calls).map(|_| Call::default()).collect(),
            stack: vec![root],
            last: String::new(),
            last_call: 0,
            metadata_bytes: 0,
            shape: Shape::default(),
            files: HashMap::new(),
            kept_inodes: HashSet::new(),
            pending: HashMap::new(),
            in_transit: 0,
            parents: Parents::default(),
            pool: Pool::default(),
            directories: Vec::new(),
            links: Vec::new(),
            settled: false,
            received: Received::default(),
            described: None,
        })
    }

    /// Takes one packet of a call. What is announced has to be in order over all calls.
    ///
    /// # Errors
    /// Any violation of the protocol, limit, or failure on disk; the receiver is then done.
    pub fn packet(&mut self, call: usize, packet: &PacketView<'_>) -> Result<Step, ReceiveError> {
        let kind = packet.r#type.as_known();
        // What is announced moves too, and may be all that does.
        let names = packet.stat.as_option().map_or(0, |stat| stat.path.len() + stat.linkname.len());
        self.options.progress.add_bytes(names + packet.data.len());
        match kind {
            Some(PacketType::PACKET_STAT) => match packet.stat.as_option() {
                None => self.end_of_announcements(call).map(|()| Step::Continue),
                Some(stat) => self.announce(call, stat),
            },
            Some(PacketType::PACKET_DATA) => {
                self.data((call, packet.ID), packet.data).map(|()| Step::Continue)
            }
            Some(PacketType::PACKET_FIN) if self.settled => {
                self.calls[call].finished = true;
                let all = self.calls.iter().all(|call| call.finished);
                Ok(if all { Step::Finished } else { Step::Continue })
            }
            Some(PacketType::PACKET_ERR) => Err(ReceiveError::Sender {
                message: String::from_utf8_lossy(packet.data).chars().take(4096).collect(),
            }),
            _ => Err(invalid(format!("unexpected packet of type {}", packet.r#type.to_i32()))),
        }
    }

    /// Whether everything was announced and every requested file has arrived, for the first
    /// time: the caller then calls [`Receiver::settle`] and says so to the sender.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.all_announced_all() && self.pending.is_empty() && !self.settled
    }

    /// Waits for the last files, makes the hard links and sets the attributes of directories.
    ///
    /// # Errors
    /// Failures on disk.
    pub fn settle(&mut self) -> Result<(), ReceiveError> {
        self.pool.wait()?;
        self.write_list()?;
        for link in std::mem::take(&mut self.links) {
            self.disk.hard_link(&link.target, &link.path)?;
        }
        for directory in std::mem::take(&mut self.directories).into_iter().rev() {
            if directory.dirty {
                self.disk.finish_directory(&directory.path, &directory.attributes)?;
            }
        }
        self.settled = true;
        Ok(())
    }

    /// What was done so far.
    #[must_use]
    pub fn received(&self) -> Received {
        Received { apart: self.shape.half(self.received.entries), ..self.received.clone() }
    }

    /// Whether a call has announced all of its entries.
    #[must_use]
    pub fn has_announced_all(&self, call: usize) -> bool {
        self.calls[call].announced_all
    }

    /// Whether a call has said all that it has to say.
    #[must_use]
    pub fn has_finished(&self, call: usize) -> bool {
        self.calls[call].finished
    }

    fn all_announced_all(&self) -> bool {
        self.calls.iter().all(|call| call.announced_all)
    }

    fn announce(&mut self, call: usize, stat: &StatView<'_>) -> Result<Step, ReceiveError> {
        if self.calls[call].announced_all {
            return Err(invalid(format!("{} announced after the end", stat.path)));
        }
        if self.options.described.is_some() && stat.path == described::LIST {
            return Ok(Step::Continue);
        }
        let id = self.calls[call].announced;
        self.count(call, stat)?;
        let path = stat.path;
        if !order::is_clean(path) {
            return Err(invalid(format!("unclean path {path:?}")));
        }
        if call != self.last_call && self.last == path {
            // A directory of which more than one call has something.
            return Ok(Step::Continue);
        }
        if !self.last.is_empty() && order::compare(&self.last, path).is_ge() {
            return Err(invalid(format!("changes out of order: {path} after {}", self.last)));
        }
        path.clone_into(&mut self.last);
        self.last_call = call;
        match self.options.described.clone() {
            Some(wanted) => self.describe((call, id), stat, &wanted),
            None => self.take((call, id), stat),
        }
    }

    /// Applies an entry that is in order to the directory on top.
    fn place(
        &mut self,
        id: (usize, u32),
        stat: &StatView<'_>,
        path: &str,
        name: &str,
        mode: GoMode,
        kind: FileType,
    ) -> Result<Step, ReceiveError> {
        let attributes = self.disk.attributes(stat, mode)?;
        let existing = self.existing(path, name)?;
        match kind {
            FileType::Directory => self.directory(path, name, attributes, existing)?,
            FileType::Symlink => {
                if stat.linkname.is_empty()
                    || stat.linkname.len() > order::MAX_PATH
                    || stat.linkname.contains('\0')
                {
                    return Err(invalid(format!("symlink {path} without a usable target")));
                }
                let top = &self.stack[self.stack.len() - 1].fd;
                if self.disk.symlink(top, path, name, stat.linkname, &attributes, existing)? {
                    self.touch();
                }
            }
            FileType::RegularFile if !stat.linkname.is_empty() => {
                self.hard_link(path, stat.linkname, existing.as_ref())?;
            }
            FileType::RegularFile => {
                return self.file(id, stat, path, name, attributes, existing);
            }
            FileType::Fifo => {
                let top = &self.stack[self.stack.len() - 1].fd;
                if self.disk.fifo(top, path, name, &attributes, existing)? {
                    self.touch();
                }
            }
            // Devices cannot be made without privilege, and one kind of them is how an overlay
            // writes a deletion: they are left out, as BuildKit does in a user namespace.
            _ => {
                if let Some(existing) = existing
                    && self.options.mode == ReceiveMode::Mirror
                {
                    let top = &self.stack[self.stack.len() - 1].fd;
                    self.disk.remove_existing(top, path, name, &existing)?;
                    self.touch();
                }
            }
        }
        Ok(Step::Continue)
    }

    fn count(&mut self, call: usize, stat: &StatView<'_>) -> Result<(), ReceiveError> {
        let limits = &self.options.limits;
        if self.received.entries >= u64::from(limits.max_entries) {
            return Err(ReceiveError::Limit { limit: "the number of entries" });
        }
        self.calls[call].announced += 1;
        self.received.entries += 1;
        self.options.progress.add_entry();
        let xattrs: usize = stat.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.metadata_bytes += (stat.path.len() + stat.linkname.len() + xattrs) as u64;
        if self.metadata_bytes > limits.max_metadata_bytes {
            return Err(ReceiveError::Limit { limit: "the size of paths and attributes" });
        }
        Ok(())
    }

    /// Leaves directories until `parent` is on top.
    fn enter(&mut self, parent: &str, path: &str) -> Result<(), ReceiveError> {
        while self.stack[self.stack.len() - 1].path != parent {
            if self.stack.len() == 1 {
                return Err(invalid(format!("directory of {path} was not announced")));
            }
            self.leave()?;
        }
        Ok(())
    }

    /// Leaves the directory on top, deleting what was not announced in it.
    fn leave(&mut self) -> Result<(), ReceiveError> {
        let Some(level) = self.stack.pop() else { return Ok(()) };
        self.shape.add(&level.path, self.received.entries - level.before);
        if let Listing::Mirror(names) = level.listing {
            for name in &names {
                self.disk.remove_name(&level.fd, &level.path, name)?;
                self.received.deleted += 1;
                self.received.changed = true;
            }
            if let (false, Some(record)) = (names.is_empty(), level.record) {
                self.directories[record].dirty = true;
            }
        }
        Ok(())
    }

    /// What is in the directory on top under `name`.
    fn existing(&mut self, path: &str, name: &str) -> Result<Option<Existing>, ReceiveError> {
        let top = self.stack.len() - 1;
        let level = &mut self.stack[top];
        let look = match &mut level.listing {
            Listing::Fresh => false,
            Listing::Mirror(names) => names.remove(name.as_bytes()),
            Listing::Merge => true,
        };
        if look { self.disk.existing(&level.fd, path, name) } else { Ok(None) }
    }

    /// Notes that the directory on top changes, so that its times are set again.
    fn touch(&mut self) {
        self.received.changed = true;
        if let Some(record) = self.stack[self.stack.len() - 1].record {
            self.directories[record].dirty = true;
        }
    }

    fn directory(
        &mut self,
        path: &str,
        name: &str,
        attributes: Attributes,
        existing: Option<Existing>,
    ) -> Result<(), ReceiveError> {
        if self.stack.len() > self.options.limits.max_depth {
            return Err(ReceiveError::Limit { limit: "the depth of directories" });
        }
        let top = &self.stack[self.stack.len() - 1].fd;
        let (fd, fresh) = self.disk.directory(top, path, name, existing.as_ref())?;
        let dirty = fresh || existing.is_none_or(|existing| !existing.matches(&attributes, true));
        let listing = match self.options.mode {
            _ if fresh => Listing::Fresh,
            ReceiveMode::Merge => Listing::Merge,
            ReceiveMode::Mirror => Listing::Mirror(self.disk.names(&fd, path)?),
        };
        if fresh {
            self.touch();
        }
        self.received.changed |= dirty;
        let before = self.received.entries;
        let record = self.directories.len();
        self.directories.push(DirectoryRecord { path: path.to_string(), attributes, dirty });
        self.stack.push(Level {
            path: path.to_string(),
            fd,
            listing,
            record: Some(record),
            before,
        });
        Ok(())
    }

    fn hard_link(
        &mut self,
        path: &str,
        target: &str,
        existing: Option<&Existing>,
    ) -> Result<(), ReceiveError> {
        self.shape.has_links();
        let Some(kept) = self.files.get(target) else {
            return Err(invalid(format!(
                "hard link {path} to {target:?}, which was not announced"
            )));
        };
        if let (Some(kept), Some(existing)) = (kept, existing)
            && existing.is_file()
            && existing.inode() == *kept
        {
            return Ok(());
        }
        self.touch();
        self.links.push(HardLink { path: path.to_string(), target: target.to_string() });
        Ok(())
    }

    fn file(
        &mut self,
        id: (usize, u32),
        stat: &StatView<'_>,
        path: &str,
        name: &str,
        attributes: Attributes,
        existing: Option<Existing>,
    ) -> Result<Step, ReceiveError> {
        if let Some(existing) = &existing
            && self.options.compare == Compare::Metadata
            && existing.is_file()
            && existing.size() == stat.size
            && existing.matches(&attributes, true)
            && (!existing.has_links() || self.kept_inodes.insert(existing.inode()))
        {
            self.files.insert(path.into(), Some(existing.inode()));
            return Ok(Step::Continue);
        }
        self.touch();
        self.files.insert(path.into(), None);
        let top = &self.stack[self.stack.len() - 1].fd;
        // A user's file stays whole until its successor is; a mirror's is simply replaced.
        let keep_until_done = self.options.mode == ReceiveMode::Merge
            && existing.as_ref().is_some_and(Existing::is_file);
        if let Some(existing) = &existing
            && !keep_until_done
        {
            self.disk.remove_existing(top, path, name, existing)?;
        }
        self.pending.insert(id, FileInProgress::new(path, attributes, keep_until_done));
        self.received.requested += 1;
        Ok(Step::Request(id.1))
    }

    fn end_of_announcements(&mut self, call: usize) -> Result<(), ReceiveError> {
        if std::mem::replace(&mut self.calls[call].announced_all, true) {
            return Err(invalid("second end of announcements".to_string()));
        }
        if !self.all_announced_all() {
            return Ok(());
        }
        while !self.stack.is_empty() {
            self.leave()?;
        }
        Ok(())
    }
}

/// The attributes of a stat that this end keeps.
pub(super) fn kept_xattrs(stat: &StatView<'_>) -> Vec<(String, Vec<u8>)> {
    stat.xattrs
        .iter()
        .filter(|(name, _)| crate::fsutil::dir::is_portable_xattr(name))
        .map(|(name, value)| ((*name).to_string(), value.to_vec()))
        .collect()
}
