//! Walks of directories made by tenants: counting and deleting.
//!
//! A walk holds one descriptor at a time however deep the tree is, so depth costs neither
//! descriptors nor stack. It goes up through `..` and checks that it arrives where it came
//! from: trees that are walked must be quiet. It must never follow a link.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::root::STAT_BLOCK;

/// The xattr that makes a directory hide what is below it; `y` hides, `x` announces xattr
/// whiteouts.
const OPAQUE: &CStr = c"user.overlay.opaque";

/// What a layer's directory takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerUsage {
    /// Bytes on disk, each hard linked file once.
    pub bytes: u64,
    /// Files, directories, links and so on, the top directory included.
    pub inodes: u64,
    /// Whether there is no whiteout and no opaque directory: such a layer alone looks the same
    /// with and without overlay. `false` is always a safe answer.
    pub plain: bool,
}

/// Opens the directory `name` in `dir` without following links.
pub(crate) fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// What a walk does where it passes.
trait Visitor {
    /// Called once for each directory when it is entered.
    fn enter(&mut self, dir: BorrowedFd<'_>) -> io::Result<()>;
    /// Called for each entry that is not a directory.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> io::Result<()>;
    /// Called in `dir` after everything below `name` was visited.
    fn leave(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()>;
    /// Whether entries may vanish during the walk.
    fn is_live(&self) -> bool {
        false
    }
}

/// A directory on the way down.
struct Level {
    identity: (u64, u64),
    name: CString,
    pending: Vec<CString>,
}

fn identity(dir: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Visits everything below `top`.
fn walk(top: OwnedFd, visitor: &mut dyn Visitor) -> io::Result<()> {
    let mut current = top;
    let mut levels = vec![scan(current.as_fd(), CString::default(), visitor)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            current = match open_directory(current.as_fd(), &name) {
                Err(error) if visitor.is_live() && error.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                opened => opened?,
            };
            levels.push(scan(current.as_fd(), name, visitor)?);
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let Some(above) = levels.last() else { break };
        let up = rustix::fs::openat(
            &current,
            c"..",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if identity(up.as_fd())? != above.identity {
            return Err(io::Error::other("directory was moved during a walk"));
        }
        current = up;
        visitor.leave(current.as_fd(), &done.name)?;
    }
    Ok(())
}

/// Visits the entries of one directory and remembers its subdirectories.
fn scan(dir: BorrowedFd<'_>, name: CString, visitor: &mut dyn Visitor) -> io::Result<Level> {
    visitor.enter(dir)?;
    let mut pending = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let entry_name = entry.file_name();
        if entry_name == c"." || entry_name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, entry_name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        if kind == FileType::Directory {
            pending.push(entry_name.to_owned());
        } else {
            visitor.entry(dir, entry_name, kind)?;
        }
    }
    Ok(Level { identity: identity(dir)?, name, pending })
}

/// The overlay's mark of a directory, if it has one.
fn marked(dir: BorrowedFd<'_>) -> io::Result<Option<u8>> {
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(_) => Ok(Some(value[0])),
        Err(Errno::RANGE) => Ok(Some(0)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Looks for a directory that hides what is below it.
struct FindOpaque(bool);

impl Visitor for FindOpaque {
    fn enter(&mut self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.0 |= marked(dir)? == Some(b'y');
        Ok(())
    }

    fn entry(&mut self, _dir: BorrowedFd<'_>, _name: &CStr, _kind: FileType) -> io::Result<()> {
        Ok(())
    }

    fn leave(&mut self, _dir: BorrowedFd<'_>, _name: &CStr) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a directory in a layer hides what is below it.
pub(crate) fn has_opaque(layer: OwnedFd) -> io::Result<bool> {
    let mut visitor = FindOpaque(false);
    walk(layer, &mut visitor)?;
    Ok(visitor.0)
}

#[derive(Default)]
struct Measure {
    usage: LayerUsage,
    hidden: bool,
    linked: HashSet<u64>,
    live: bool,
}

impl Visitor for Measure {
    fn is_live(&self) -> bool {
        self.live
    }

    fn enter(&mut self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let stat = rustix::fs::fstat(dir)?;
        self.usage.inodes += 1;
        self.usage.bytes += stat.st_blocks.unsigned_abs() * STAT_BLOCK;
        self.hidden |= marked(dir)?.is_some();
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> io::Result<()> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if self.live => return Ok(()),
            stat => stat?,
        };
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            self.hidden = true;
        }
        if stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return Ok(());
        }
        self.usage.inodes += 1;
        self.usage.bytes += stat.st_blocks.unsigned_abs() * STAT_BLOCK;
        Ok(())
    }

    fn leave(&mut self, _dir: BorrowedFd<'_>, _name: &CStr) -> io::Result<()> {
        Ok(())
    }
}

/// Counts what a directory takes that somebody changes at this moment, as far as can be seen; and
/// whether all of it was.
pub(crate) fn measure_live(directory: OwnedFd) -> (LayerUsage, bool) {
    let mut visitor = Measure { live: true, ..Measure::default() };
    let complete = walk(directory, &mut visitor).is_ok();
    (visitor.usage, complete)
}

/// Counts what the directory takes on disk.
pub(crate) fn measure(directory: OwnedFd) -> io::Result<LayerUsage> {
    let mut visitor = Measure::default();
    walk(directory, &mut visitor)?;
    visitor.usage.plain = !visitor.hidden;
    Ok(visitor.usage)
}

struct Remove<'a> {
    stop: &'a AtomicBool,
}

impl Visitor for Remove<'_> {
    fn enter(&mut self, _dir: BorrowedFd<'_>) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, _kind: FileType) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    fn leave(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
    }
}

/// Deletes `name` in `parent` with everything below it. Ends early with
/// [`io::ErrorKind::Interrupted`] once `stop` is set; what is left can be deleted later.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &CStr, stop: &AtomicBool) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    walk(open_directory(parent, name)?, &mut Remove { stop })?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// The names in a directory. Entries that are not UTF-8 are left out: no name of ours is like
/// that.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Names at a layer's root that are remembered while it is held: a root file system has some twenty.
const FEW_NAMES: usize = 32;

/// The names in a directory, if they are few.
pub(crate) fn few_names(directory: &OwnedFd) -> io::Result<Option<Vec<CString>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() == FEW_NAMES {
            return Ok(None);
        }
        names.push(entry.file_name().to_owned());
    }
    Ok(Some(names))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_measured_and_removed() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = open(temp.path());
        let name = c"a-directory-name-of-some-length-to-pass-the-longest-path";
        for _ in 0..500 {
            rustix::fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
            dir = open_directory(dir.as_fd(), name).unwrap();
        }
        drop(dir);
        assert_eq!(measure(open(temp.path())).unwrap().inodes, 501);
        let stop = AtomicBool::new(false);
        remove(open(temp.path()).as_fd(), name, &stop).unwrap();
        assert_eq!(names(open(temp.path()).as_fd()).unwrap().len(), 0);
    }

    #[test]
    fn links_are_neither_followed_nor_counted_twice() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), b"kept").unwrap();
        let inside = temp.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("file"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(inside.join("file"), inside.join("same")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let usage = measure(open(&inside)).unwrap();
        assert_eq!(usage.inodes, 3);
        assert!(usage.bytes >= 100_000 && usage.bytes < 150_000, "{usage:?}");
        assert!(usage.plain);
        let stop = AtomicBool::new(false);
        remove(open(temp.path()).as_fd(), c"inside", &stop).unwrap();
        assert!(!inside.exists());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn a_stopped_removal_can_be_taken_up_again() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b/c")).unwrap();
        let dir = open(temp.path());
        let error = remove(dir.as_fd(), c"a", &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        remove(dir.as_fd(), c"a", &AtomicBool::new(false)).unwrap();
        assert!(!temp.path().join("a").exists());
    }
}
