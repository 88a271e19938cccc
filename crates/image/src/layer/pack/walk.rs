//! Walks a tree in sorted order by directory descriptors and writes it as tar.
//!
//! Never follows a link. What an overlay means by special files and attributes is translated for
//! an upper directory; in a merged tree such things have no meaning and are left out.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::cutter::Sink;
use super::error::PackError;
use super::header::Head;
use super::listing::{Ahead, Child, Level, Opened, open};
use crate::layer::error::display;
use crate::layer::limits::{MAX_DEPTH, MAX_PATH, MAX_XATTRS};
use crate::layer::{MapId, WHITEOUT_OPAQUE, WHITEOUT_PREFIX, XATTR_CAPABILITY, XATTR_OPAQUE};

const BUFFER: usize = 256 << 10;
const BLOCK: u64 = 512;
const CHANGED: &str = "it changed while it was read";

/// What the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    /// An overlay's upper directory.
    Upper,
    /// A complete tree.
    Merged,
}

pub(super) struct Walk<'a> {
    flavor: Flavor,
    epoch: Option<i64>,
    ids: MapId<'a>,
    /// First path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
    ahead: Ahead,
    buffer: Vec<u8>,
    head: Vec<u8>,
}

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl<'a> Walk<'a> {
    pub(super) fn new(flavor: Flavor, epoch: Option<i64>, ids: MapId<'a>) -> Self {
        Self {
            flavor,
            epoch,
            ids,
            links: HashMap::new(),
            entries: 0,
            ahead: Ahead::default(),
            buffer: vec![0; BUFFER],
            head: Vec::new(),
        }
    }

    pub(super) const fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes everything beneath `root`, but not `root` itself, under `prefix` (empty, or ending in `/`).
    pub(super) fn tree(
        &mut self,
        root: BorrowedFd<'_>,
        prefix: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), PackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            openat(root, c".", flags, Mode::empty()).map_err(PackError::read("open", b"/"))?;
        // Inode numbers of another tree may repeat those of this one.
        self.links.clear();
        let mut levels = vec![Level::new(root, prefix.to_vec())?];
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.next() else {
                levels.pop();
                continue;
            };
            let below = self.child(level, child, sink)?;
            if let Some(below) = below.as_ref().filter(|_| levels.len() > MAX_DEPTH) {
                let reason = "directories are nested too deeply";
                return Err(PackError::unrepresentable(&below.path, reason));
            }
            levels.extend(below);
            self.ahead.look(&mut levels);
        }
        Ok(())
    }

    /// Writes an entry that exists only here.
    pub(super) fn synthetic(
        &mut self,
        path: &[u8],
        kind: EntryType,
        mode: u32,
        content: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), PackError> {
        let head = Head {
            path,
            link: b"",
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: self.epoch.unwrap_or(0),
            size: content.len() as u64,
            xattrs: Xattrs::new(),
        };
        self.emit(&head, sink)?;
        sink.write(content)?;
        pad(head.size, sink)
    }

    /// Writes a name of a directory. Gives what is in it, when it is one itself.
    fn child(
        &mut self,
        level: &Level,
        mut child: Child,
        sink: &mut dyn Sink,
    ) -> Result<Option<Level>, PackError> {
        let mut path = [level.path.as_slice(), &child.name].concat();
        if path.len() >= MAX_PATH {
            return Err(PackError::unrepresentable(&path, "the path is too long"));
        }
        if self.flavor == Flavor::Upper && child.name.starts_with(WHITEOUT_PREFIX) {
            return Err(PackError::unrepresentable(&path, "its name means a removal there"));
        }
        let opened = self.ahead.take(child.opened.take());
        // Files and directories, nearly everything there is, are examined where they are opened.
        match (child.kind, opened) {
            (FileType::Directory, Some(Opened::Directory(mut below))) => {
                path.push(b'/');
                below.path = path;
                self.directory(&below, sink)?;
                Ok(Some(below))
            }
            (FileType::Directory, _) => {
                let fd = open(&level.fd, &child.name, OFlags::DIRECTORY, &path)?;
                path.push(b'/');
                let below = Level::new(fd, path)?;
                self.directory(&below, sink)?;
                Ok(Some(below))
            }
            (FileType::RegularFile, Some(Opened::File(fd))) => {
                self.file(fd, &path, sink).map(|()| None)
            }
            (FileType::RegularFile, _) => {
                let fd = open(&level.fd, &child.name, OFlags::NONBLOCK, &path)?;
                self.file(fd, &path, sink).map(|()| None)
            }
            _ => self.special(&level.fd, &child, &path, sink).map(|()| None),
        }
    }

    /// What is neither a file nor a directory.
    fn special(
        &mut self,
        dir: &OwnedFd,
        child: &Child,
        path: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), PackError> {
        let name = child.name.as_slice();
        let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(PackError::read("examine", path))?;
        if FileType::from_raw_mode(there.st_mode) != child.kind {
            return Err(PackError::unrepresentable(path, CHANGED));
        }
        match child.kind {
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new())
                    .map_err(PackError::read("read link", path))?;
                let mut head = self.head(path, &there, EntryType::Symlink)?;
                head.link = target.as_bytes();
                self.emit(&head, sink)
            }
            FileType::Fifo => {
                let head = self.head(path, &there, EntryType::Fifo)?;
                self.emit(&head, sink)
            }
            FileType::CharacterDevice if self.flavor == Flavor::Upper && there.st_rdev == 0 => {
                let (parent, base) = path.split_at(path.len() - name.len());
                self.marker(parent, &[WHITEOUT_PREFIX, base].concat(), sink)
            }
            // Sockets have no meaning in an image, and other devices are never created here.
            _ => Ok(()),
        }
    }

    fn directory(&mut self, level: &Level, sink: &mut dyn Sink) -> Result<(), PackError> {
        let path = level.path.as_slice();
        let there = fstat(&level.fd).map_err(PackError::read("examine", path))?;
        let (xattrs, opaque) = self.xattrs(level.fd.as_fd(), path)?;
        let mut head = self.head(path, &there, EntryType::Directory)?;
        head.xattrs = xattrs;
        self.emit(&head, sink)?;
        if opaque {
            self.marker(path, WHITEOUT_OPAQUE, sink)?;
        }
        Ok(())
    }

    fn file(&mut self, fd: OwnedFd, path: &[u8], sink: &mut dyn Sink) -> Result<(), PackError> {
        let there = fstat(&fd).map_err(PackError::read("examine", path))?;
        if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
            return Err(PackError::unrepresentable(path, CHANGED));
        }
        if there.st_nlink > 1 {
            if let Some(first) = self.links.get(&(there.st_dev, there.st_ino)) {
                let first = first.clone();
                let mut head = self.head(path, &there, EntryType::Link)?;
                head.link = &first;
                return self.emit(&head, sink);
            }
            self.links.insert((there.st_dev, there.st_ino), path.to_vec());
        }
        let mut head = self.head(path, &there, EntryType::Regular)?;
        head.xattrs = self.xattrs(fd.as_fd(), path)?.0;
        self.emit(&head, sink)?;
        let size = head.size;
        sink.data_follows(size)?;
        self.content(File::from(fd), size, path, sink)?;
        pad(size, sink)
    }

    fn content(
        &mut self,
        mut file: File,
        size: u64,
        path: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), PackError> {
        let mut remaining = size;
        while remaining > 0 {
            let wanted = usize::try_from(remaining).unwrap_or(BUFFER).min(BUFFER);
            match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => {
                    return Err(PackError::unrepresentable(path, CHANGED));
                }
                Ok(count) => {
                    sink.write(&self.buffer[..count])?;
                    remaining -= count as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(PackError::Read { action: "read", path: display(path), source });
                }
            }
        }
        Ok(())
    }

    /// An empty file that means something: a whiteout.
    fn marker(&mut self, parent: &[u8], name: &[u8], sink: &mut dyn Sink) -> Result<(), PackError> {
        let path = [parent, name].concat();
        self.synthetic(&path, EntryType::Regular, 0o600, b"", sink)
    }

    fn head<'p>(
        &self,
        path: &'p [u8],
        there: &Stat,
        kind: EntryType,
    ) -> Result<Head<'p>, PackError> {
        let map = |id: u32| {
            (self.ids)(id).ok_or_else(|| PackError::UnmappedId { id, path: display(path) })
        };
        let size =
            if kind == EntryType::Regular { u64::try_from(there.st_size).unwrap_or(0) } else { 0 };
        Ok(Head {
            path,
            link: b"",
            kind,
            mode: there.st_mode,
            uid: map(there.st_uid)?,
            gid: map(there.st_gid)?,
            mtime: self.epoch.map_or(there.st_mtime, |epoch| there.st_mtime.min(epoch)),
            size,
            xattrs: Xattrs::new(),
        })
    }

    fn emit(&mut self, head: &Head<'_>, sink: &mut dyn Sink) -> Result<(), PackError> {
        self.entries += 1;
        sink.entry(head.path)?;
        self.head.clear();
        head.write(&mut self.head);
        sink.write(&self.head)
    }

    /// The attributes that belong into a layer, and whether the directory is opaque.
    fn xattrs(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Result<(Xattrs, bool), PackError> {
        let mut names = [0; 1024];
        let names = match flistxattr(fd, &mut names[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok((Xattrs::new(), false)),
            Ok(count) => names[..count].to_vec(),
            Err(Errno::RANGE) => {
                let mut names = vec![0; MAX_XATTRS];
                let count = flistxattr(fd, &mut names[..])
                    .map_err(PackError::read("list attributes of", path))?;
                names.truncate(count);
                names
            }
            Err(errno) => return Err(PackError::read("list attributes of", path)(errno)),
        };
        let mut found = Xattrs::new();
        let mut opaque = false;
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            if name == XATTR_OPAQUE.as_bytes() {
                opaque = self.flavor == Flavor::Upper && value(fd, name, path)? == b"y";
            } else if name == XATTR_CAPABILITY.as_bytes() {
                found.extend(
                    capability(&value(fd, name, path)?).map(|value| (name.to_vec(), value)),
                );
            } else if is_redirect(name) && self.flavor == Flavor::Upper {
                return Err(PackError::unrepresentable(
                    path,
                    "the overlay redirects it to another layer",
                ));
            } else if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") {
                if name.contains(&b'=') {
                    let path = display(path);
                    tracing::warn!(path, "attribute with '=' in its name left out of the layer");
                    continue;
                }
                found.insert(name.to_vec(), value(fd, name, path)?);
            }
        }
        Ok((found, opaque))
    }
}

fn is_redirect(name: &[u8]) -> bool {
    name == b"user.overlay.redirect" || name == b"user.overlay.metacopy"
}

/// A file capability as layers carry it: version 2, without the root id of the store.
fn capability(value: &[u8]) -> Option<Vec<u8>> {
    const SIZE_2: usize = 20;
    let version = value.get(3)?;
    if !matches!(version, 2 | 3) || value.len() < SIZE_2 {
        return None;
    }
    let mut value = value[..SIZE_2].to_vec();
    value[3] = 2;
    Some(value)
}

fn value(fd: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Vec<u8>, PackError> {
    let mut value = vec![0; MAX_XATTRS];
    let count = fgetxattr(fd, name, &mut value[..])
        .map_err(PackError::read("read an attribute of", path))?;
    value.truncate(count);
    Ok(value)
}

fn pad(size: u64, sink: &mut dyn Sink) -> Result<(), PackError> {
    let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
    sink.write(&[0; BLOCK as usize][..padding])
}
