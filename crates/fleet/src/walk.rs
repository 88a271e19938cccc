//! What a tree takes of the disk, as `du` counts it: its blocks, those of hard links once.
//!
//! The tree is a tenant's: no path into it is ever formed and no link followed. Directories are opened by descriptor, entry by
//! entry; few are open at once however deep it is. How much is looked at and remembered, and for how long, is bounded: who puts more
//! there than that has at least what was counted. Changes nothing, not even times of access.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Directories that are open at once.
const MOST_OPEN: usize = 32;
/// `st_blocks` counts in these units whatever the file system's block size.
const STAT_BLOCK: u64 = 512;
/// After so many entries it is looked how late it is.
const LOOK_AT_CLOCK: u64 = 1024;

/// How much of a tree is looked at.
const MOST: Bounds = Bounds {
    // Stores have some thousand for each layer.
    entries: 50_000_000,
    linked: 4_000_000,
    waiting: 64 << 20,
    time: Duration::from_secs(10 * 60),
};

#[derive(Debug, Clone, Copy)]
struct Bounds {
    entries: u64,
    /// Files that have several names: they are remembered.
    linked: usize,
    /// Bytes of directories that are on the way or wait to be looked at.
    waiting: usize,
    time: Duration,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Bytes of disk.
    pub(crate) bytes: u64,
    /// Why there may be more, if the end was not reached.
    pub(crate) cut: Option<Cut>,
}

/// Why not all of a tree was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// There is too much in it.
    #[error("there are too many files to count")]
    Files,
    /// There is too much to come back to.
    #[error("there are too many directories to remember")]
    Directories,
    /// It is late.
    #[error("it takes too long to count all of it")]
    Time,
    /// A directory was moved while it was looked at.
    #[error("it changed meanwhile")]
    Changed,
}

/// Why a tree could not be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WalkError {
    /// Nobody wants to know any more.
    #[error("the server is stopping")]
    Stopped,
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

/// Bytes of disk that the tree below `top` takes, with `top` itself. Blocks, for as long as it takes, ten minutes at most, or until
/// `stop` is set.
pub(crate) fn disk_bytes(top: &OwnedFd, stop: &AtomicBool) -> Result<Counted, WalkError> {
    within(&MOST, top, stop)
}

fn within(most: &Bounds, top: &OwnedFd, stop: &AtomicBool) -> Result<Counted, WalkError> {
    let stat = rustix::fs::fstat(top)?;
    let mut walk = Walk {
        stop,
        most,
        begun: Instant::now(),
        device: stat.st_dev,
        bytes: 0,
        entries: 0,
        waiting: 0,
        linked: HashSet::new(),
        way: Vec::new(),
        cut: None,
    };
    walk.count(&stat)?;
    walk.enter(open(top, c".")?, id_of(&stat))?;
    while walk.cut.is_none() {
        let Some(directory) = walk.way.last_mut() else { break };
        match directory.left.pop() {
            Some(name) => walk.down(&name)?,
            None => walk.up()?,
        }
    }
    Ok(Counted { bytes: walk.bytes, cut: walk.cut })
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

/// What a name that waits takes of the memory.
fn held(name: &CStr) -> usize {
    size_of::<CString>() + name.count_bytes() + 1
}

struct Walk<'a> {
    stop: &'a AtomicBool,
    most: &'a Bounds,
    begun: Instant,
    device: u64,
    bytes: u64,
    entries: u64,
    /// Bytes of memory of what is on the way and of the names that are left there.
    waiting: usize,
    /// Files with several names that were counted.
    linked: HashSet<u64>,
    /// The last one is always open.
    way: Vec<Directory>,
    /// Which bound was reached.
    cut: Option<Cut>,
}

impl Walk<'_> {
    fn count(&mut self, stat: &Stat) -> Result<(), WalkError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(WalkError::Stopped);
        }
        self.entries += 1;
        let late =
            self.entries.is_multiple_of(LOOK_AT_CLOCK) && self.begun.elapsed() >= self.most.time;
        if self.entries > self.most.entries || self.linked.len() >= self.most.linked {
            self.cut = Some(Cut::Files);
        } else if self.waiting > self.most.waiting {
            self.cut = Some(Cut::Directories);
        } else if late {
            self.cut = Some(Cut::Time);
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
        self.waiting += size_of::<Directory>();
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
            if self.cut.is_some() {
                break;
            }
            if is_directory(&stat) {
                self.waiting += held(name);
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
        self.waiting = self.waiting.saturating_sub(held(name));
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
        self.waiting = self.waiting.saturating_sub(size_of::<Directory>());
        let (done, above) = (self.way.pop(), self.way.last_mut());
        let (Some(Directory { fd: Some(done), .. }), Some(above)) = (done, above) else {
            return Ok(());
        };
        if above.fd.is_none() {
            let fd = match open(&done, c"..") {
                Err(Errno::NOENT) => None,
                opened => Some(opened?),
            };
            // A directory that was moved leads somewhere else, maybe out of the tree.
            match fd {
                Some(fd) if id_of(&rustix::fs::fstat(&fd)?) == above.id => above.fd = Some(fd),
                _ => self.cut = Some(Cut::Changed),
            }
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

    fn counted(most: &Bounds, path: &Path) -> Counted {
        within(most, &open_top(path).unwrap().unwrap(), &AtomicBool::new(false)).unwrap()
    }

    /// All of it.
    fn measured(path: &Path) -> u64 {
        let Counted { bytes, cut } = counted(&MOST, path);
        assert_eq!(cut, None);
        bytes
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
        let bytes = measured(&top);
        assert_eq!(bytes, du(&top));
        assert!((300_000..1 << 20).contains(&bytes), "{bytes}");
        deep(&top, 3000);
        assert_eq!(measured(&top), du(&top));
        fs::rename(&top, dir.path().join("trash")).unwrap();
        assert!(open_top(&top).unwrap().is_none());
        symlink(&outside, &top).unwrap();
        assert!(open_top(&top).is_err(), "a link is no tree");
        crate::removal::empty(dir.path()).unwrap();
    }

    #[test]
    fn at_a_bound_there_is_what_was_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (wide, far) = (dir.path().join("wide"), dir.path().join("far"));
        fs::create_dir_all(&far).unwrap();
        for number in 0..2000 {
            fs::create_dir_all(wide.join(format!("{number:0200}"))).unwrap();
        }
        deep(&far, 1000);
        let all = du(dir.path());
        for path in [&wide, &far] {
            let cut = counted(&Bounds { waiting: 16 << 10, ..MOST }, path);
            assert_eq!(cut.cut, Some(Cut::Directories));
            assert!(cut.bytes <= all, "{cut:?} of {all}");
        }
        let few = counted(&Bounds { entries: 100, ..MOST }, dir.path());
        assert_eq!(few.cut, Some(Cut::Files));
        let late = counted(&Bounds { time: Duration::ZERO, ..MOST }, dir.path());
        assert_eq!(late.cut, Some(Cut::Time));
        assert_eq!(measured(dir.path()), all);
        crate::removal::empty(dir.path()).unwrap();
    }

    #[test]
    fn it_stops_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let top = open_top(dir.path()).unwrap().unwrap();
        assert_eq!(disk_bytes(&top, &AtomicBool::new(true)), Err(WalkError::Stopped));
    }
}
