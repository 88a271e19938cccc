//! Directories that are being walked, and what is opened in them ahead of its turn.
//!
//! A small file that is not in memory costs a turn of the disk. A walk that reads one after the other waits for each of them, so files
//! that come next are opened and the kernel is told that they will be read; directories on the way are listed for it. Nothing is opened
//! or listed twice for that. Whatever goes wrong ahead is left to be found out in its turn. Must never hold more than a fixed number
//! of descriptors, nor change the order of a walk.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::vec::IntoIter;

use rustix::fs::{Advice, AtFlags, Dir, FileType, Mode, OFlags, fadvise, openat, statat};

use super::error::PackError;

/// Files and directories that are open ahead, at the most.
const MOST: usize = 64;
/// Names that are passed in search of them, so that a directory of other things costs no more than it has names.
const SEARCHED: usize = 4 * MOST;
/// How much of a file is read ahead. Within a file that is read the kernel does so itself.
const BYTES: u64 = 256 << 10;

/// A directory that is being walked.
pub(super) struct Level {
    pub(super) fd: OwnedFd,
    /// Empty, or ending in `/`.
    pub(super) path: Vec<u8>,
    rest: IntoIter<Child>,
}

/// One name of a directory.
pub(super) struct Child {
    /// What it was when the directory was listed.
    pub(super) kind: FileType,
    pub(super) name: Vec<u8>,
    /// What was opened ahead.
    pub(super) opened: Option<Opened>,
}

/// What was opened ahead of its turn.
pub(super) enum Opened {
    File(OwnedFd),
    /// Its path is not known yet.
    Directory(Level),
}

impl Child {
    /// Whiteouts sort first, as the layer specification asks.
    fn order(&self) -> (bool, &[u8]) {
        (self.kind != FileType::CharacterDevice, &self.name)
    }

    fn open_ahead(&mut self, dir: &OwnedFd) -> Option<()> {
        let name = self.name.as_slice();
        self.opened = Some(match self.kind {
            FileType::RegularFile => {
                let fd = open(dir, name, OFlags::NONBLOCK, name).ok()?;
                let _ = fadvise(&fd, 0, NonZeroU64::new(BYTES), Advice::WillNeed);
                Opened::File(fd)
            }
            _ => {
                let fd = open(dir, name, OFlags::DIRECTORY, name).ok()?;
                Opened::Directory(Level::new(fd, Vec::new()).ok()?)
            }
        });
        Some(())
    }
}

impl Level {
    /// Lists a directory. `path` is empty, or ends in `/`.
    pub(super) fn new(fd: OwnedFd, path: Vec<u8>) -> Result<Self, PackError> {
        let rest = list(&fd, &path)?.into_iter();
        Ok(Self { fd, path, rest })
    }

    /// The next name.
    pub(super) fn next(&mut self) -> Option<Child> {
        self.rest.next()
    }
}

/// Opens what comes next.
#[derive(Default)]
pub(super) struct Ahead {
    open: usize,
}

impl Ahead {
    /// It is the turn of what was opened.
    pub(super) fn take(&mut self, opened: Option<Opened>) -> Option<Opened> {
        self.open -= usize::from(opened.is_some());
        opened
    }

    /// Opens what comes next in a walk that is at the last of these levels.
    pub(super) fn look(&mut self, levels: &mut [Level]) {
        // In batches: each look passes everything that is open already.
        if self.open > MOST / 2 {
            return;
        }
        let mut left = SEARCHED;
        for level in levels.iter_mut().rev() {
            if self.fill(level, 0, &mut left).is_none() {
                return;
            }
        }
    }

    /// `None` once enough is open or `left` names are passed, or when something could not be opened.
    fn fill(&mut self, level: &mut Level, depth: usize, left: &mut usize) -> Option<()> {
        for child in level.rest.as_mut_slice() {
            *left = left.checked_sub(1)?;
            let opens = matches!(child.kind, FileType::RegularFile | FileType::Directory);
            if opens && child.opened.is_none() {
                if self.open >= MOST {
                    return None;
                }
                child.open_ahead(&level.fd)?;
                self.open += 1;
            }
            if let Some(Opened::Directory(below)) = &mut child.opened {
                // No deeper than this many are open.
                (depth < MOST).then_some(())?;
                self.fill(below, depth + 1, left)?;
            }
        }
        Some(())
    }
}

/// Opens a name of a directory, unless it is a link. `path` is for the error.
pub(super) fn open(
    dir: &OwnedFd,
    name: &[u8],
    extra: OFlags,
    path: &[u8],
) -> Result<OwnedFd, PackError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
    openat(dir, name, flags, Mode::empty()).map_err(PackError::read("open", path))
}

fn list(dir: &OwnedFd, path: &[u8]) -> Result<Vec<Child>, PackError> {
    let mut children = Vec::new();
    for entry in Dir::read_from(dir).map_err(PackError::read("list", path))? {
        let entry = entry.map_err(PackError::read("list", path))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(PackError::read("examine", path))?;
                FileType::from_raw_mode(there.st_mode)
            }
            known => known,
        };
        children.push(Child { kind, name: name.to_vec(), opened: None });
    }
    children.sort_unstable_by(|left, right| left.order().cmp(&right.order()));
    Ok(children)
}
