//! What a tree takes of the disk, as `du` counts it: its blocks, those of hard links once.
//!
//! The tree is a tenant's: no path into it is ever formed and no link followed. Directories are opened by descriptor, entry by
//! entry; few are open at once however deep it is, and how much is looked at is bounded. Changes nothing, not even times of access.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Most entries of one tree; stores have some thousand for each layer.
const MOST_ENTRIES: u64 = 50_000_000;
/// Most files of one tree that have several names: they are remembered.
const MOST_LINKED: usize = 4_000_000;
/// Directories that are open at once.
const MOST_OPEN: usize = 32;
/// `st_blocks` counts in these units whatever the file system's block size.
const STAT_BLOCK: u64 = 512;

/// Why a tree could not be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WalkError {
    /// Nobody wants to know any more.
    #[error("the server is stopping")]
    Stopped,
    /// There is too much in it.
    #[error("there are too many files to count")]
    TooMany,
    /// A directory was moved while it was looked at.
    #[error("it changed meanwhile")]
    Changed,
    /// What the system said.
    #[error("{0}")]
    System(Errno),
}

impl From<Errno> for WalkError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// Which file: its device and its number there.
pub(crate) type FileId = (u64, u64);

/// Which file `stat` is of.
pub(crate) fn id_of(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

/// Opens the top of a tree; nothing when there is none.
pub(crate) fn open_top(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match open(CWD, path) {
        Ok(top) => Ok(Some(top)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Bytes of disk that the tree below `top` takes, with `top` itself. Blocks, for as long as it takes or until `stop` is set.
pub(crate) fn disk_bytes(top: &OwnedFd, stop: &AtomicBool) -> Result<u64, WalkError> {
    let stat = rustix::fs::fstat(top)?;
    let mut walk = Walk {
        stop,
        device: stat.st_dev,
        bytes: 0,
        entries: 0,
        linked: HashSet::new(),
        way: Vec::new(),
    };
    walk.count(&stat)?;
    walk.enter(open(top, c".")?, id_of(&stat))?;
    while let Some(directory) = walk.way.last_mut() {
        match directory.left.pop() {
            Some(name) => walk.down(&name)?,
            None => walk.up()?,
        }
    }
    Ok(walk.bytes)
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// A directory on the way from the top to where the walk is.
struct Directory {
    /// None while it is far above.
    fd: Option<OwnedFd>,
    id: FileId,
    /// The directories in it that were not looked at yet.
    left: Vec<CString>,
}

struct Walk<'a> {
    stop: &'a AtomicBool,
    device: u64,
    bytes: u64,
    entries: u64,
    /// Files with several names that were counted.
    linked: HashSet<u64>,
    /// The last one is always open.
    way: Vec<Directory>,
}

impl Walk<'_> {
    fn count(&mut self, stat: &Stat) -> Result<(), WalkError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(WalkError::Stopped);
        }
        self.entries += 1;
        if self.entries > MOST_ENTRIES || self.linked.len() >= MOST_LINKED {
            return Err(WalkError::TooMany);
        }
        if !is_directory(stat) && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return Ok(());
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(STAT_BLOCK));
        Ok(())
    }

    /// Counts what is in a directory and goes on from there.
    fn enter(&mut self, fd: OwnedFd, id: FileId) -> Result<(), WalkError> {
        let mut left = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = match entry {
                Ok(entry) => entry,
                // It was removed.
                Err(Errno::NOENT) => break,
                Err(errno) => return Err(errno.into()),
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            // What is mounted somewhere in it takes another disk.
            if stat.st_dev != self.device {
                continue;
            }
            self.count(&stat)?;
            if is_directory(&stat) {
                left.push(name.to_owned());
            }
        }
        self.way.push(Directory { fd: Some(fd), id, left });
        let far = self.way.len().checked_sub(MOST_OPEN + 1);
        if let Some(far) = far.and_then(|far| self.way.get_mut(far)) {
            far.fd = None;
        }
        Ok(())
    }

    fn down(&mut self, name: &CStr) -> Result<(), WalkError> {
        let Some(above) = self.way.last().and_then(|directory| directory.fd.as_ref()) else {
            return Ok(());
        };
        let fd = match open(above, name) {
            Ok(fd) => fd,
            // It is gone, or no directory any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let id = id_of(&rustix::fs::fstat(&fd)?);
        if id.0 == self.device { self.enter(fd, id) } else { Ok(()) }
    }

    fn up(&mut self) -> Result<(), WalkError> {
        let (done, above) = (self.way.pop(), self.way.last_mut());
        let (Some(Directory { fd: Some(done), .. }), Some(above)) = (done, above) else {
            return Ok(());
        };
        if above.fd.is_none() {
            let fd = match open(&done, c"..") {
                Err(Errno::NOENT) => return Err(WalkError::Changed),
                opened => opened?,
            };
            // A directory that was moved leads somewhere else, maybe out of the tree.
            if id_of(&rustix::fs::fstat(&fd)?) != above.id {
                return Err(WalkError::Changed);
            }
            above.fd = Some(fd);
        }
        Ok(())
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn measured(path: &Path) -> Result<u64, WalkError> {
        disk_bytes(&open_top(path).unwrap().unwrap(), &AtomicBool::new(false))
    }

    fn du(path: &Path) -> u64 {
        let output =
            std::process::Command::new("du").args(["-s", "--block-size=1"]).arg(path).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Directories below each other, more than any path may name.
    fn deep(top: &Path, depth: usize) {
        let mut at = open(CWD, top).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::from_raw_mode(0o700)).unwrap();
            at = open(&at, "d").unwrap();
        }
    }

    #[test]
    fn it_counts_as_du_does() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        let outside = dir.path().join("outside");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("large"), vec![1; 1 << 20]).unwrap();
        fs::write(top.join("a/file"), vec![1; 300_000]).unwrap();
        fs::hard_link(top.join("a/file"), top.join("a/b/same")).unwrap();
        fs::File::create(top.join("sparse")).unwrap().set_len(1 << 30).unwrap();
        symlink(&outside, top.join("a/link")).unwrap();
        symlink("/", top.join("root")).unwrap();
        let bytes = measured(&top).unwrap();
        assert_eq!(bytes, du(&top));
        assert!((300_000..1 << 20).contains(&bytes), "{bytes}");
        deep(&top, 3000);
        assert_eq!(measured(&top).unwrap(), du(&top));
        fs::rename(&top, dir.path().join("trash")).unwrap();
        assert!(open_top(&top).unwrap().is_none());
        symlink(&outside, &top).unwrap();
        assert!(open_top(&top).is_err(), "a link is no tree");
        crate::removal::empty(dir.path()).unwrap();
    }

    #[test]
    fn it_stops_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let top = open_top(dir.path()).unwrap().unwrap();
        assert_eq!(disk_bytes(&top, &AtomicBool::new(true)), Err(WalkError::Stopped));
    }
}
