//! Copies one entry that is no directory: a regular file, a link, a special file.
//!
//! Several threads do so at once, each with its own [`Buffers`]. Everything is done to open files,
//! or to one name in an open directory: the only path resolved here is that of the first copy of a
//! file with several names. Whoever calls this walks the directories and knows what is selected.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::copy::{CopyOptions, kind, reopen, stat_in};
use super::earlier::Copying;
use crate::rooted::{Root, chmod};
use crate::xattrs::{MAX_XATTR_BYTES, read_open};

/// Files up to this size are read and written piece by piece: for the kernel to move the content
/// itself costs more calls than such a file takes.
const SMALL: usize = 128 << 10;

/// What one thread copies with.
pub(super) struct Buffers {
    content: Vec<u8>,
    names: Vec<u8>,
}

impl Buffers {
    /// Room for one file's content and attribute names.
    pub(super) fn new() -> Self {
        Self { content: vec![0; SMALL], names: vec![0; MAX_XATTR_BYTES] }
    }
}

/// Where a copy goes.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// The directory.
    pub(super) parent: &'a Root,
    /// The name in it.
    pub(super) name: &'a str,
    /// The same as a path of the target.
    pub(super) path: &'a str,
}

/// Copies of entries into one target.
pub(super) struct Leaves<'a> {
    target: &'a Root,
    options: &'a CopyOptions,
    /// What is taken over of an earlier copy, and noted for the next.
    pub(super) copying: Option<&'a Copying>,
    /// First copied path of each multiply linked inode, so that links stay links.
    inodes: Mutex<HashMap<(u64, u64), FirstPath>>,
}

/// The first copied path of a file, once it is copied.
type FirstPath = Arc<Mutex<Option<String>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Leaves<'a> {
    /// For copies into `target`.
    pub(super) fn new(target: &'a Root, options: &'a CopyOptions) -> Self {
        Self { target, options, copying: None, inodes: Mutex::default() }
    }

    /// Copies what the `O_PATH` descriptor `source` names and `stat` describes.
    pub(super) fn copy(
        &self,
        source: BorrowedFd<'_>,
        stat: &Stat,
        spot: Spot<'_>,
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        let parent = spot.parent.as_fd();
        let ownership = self.options.ownership(stat);
        match kind(stat) {
            FileType::RegularFile => self.regular(&reopen(source)?, stat, spot, buffers),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, "", Vec::new())?;
                self.make(spot, || rustix::fs::symlinkat(link.as_c_str(), parent, spot.name))?;
                ownership.apply(parent, spot.name)
            }
            // In a layer this says that a name is gone. An overlay lets nobody make one, and not every
            // target is an overlay.
            FileType::CharacterDevice if stat.st_rdev == 0 => Err(Errno::PERM.into()),
            other => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                self.make(spot, || {
                    rustix::fs::mknodat(parent, spot.name, other, mode, stat.st_rdev)
                })?;
                ownership.apply(parent, spot.name)?;
                chmod(parent, spot.name, self.options.mode.apply(stat.st_mode, false))?;
                ownership.apply_time(parent, spot.name)
            }
        }
    }

    /// Copies the regular file of `directory` that has the name of `spot`, or takes it over from `earlier`, which an
    /// earlier copy made of the same directory.
    pub(super) fn named(
        &self,
        directory: &Root,
        earlier: Option<&Root>,
        spot: Spot<'_>,
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        let Some(copying) = self.copying else {
            return self.opened(directory, spot, buffers).map(drop);
        };
        if let Some(earlier) = earlier
            && let Some(stat) = stat_in(directory.as_fd(), spot.name)?
            && let Some(mark) = copying.mark(&stat, spot.path)
            && copying.take_over(mark, earlier, spot)
        {
            copying.note(mark);
            return Ok(());
        }
        let stat = self.opened(directory, spot, buffers)?;
        copying.mark(&stat, spot.path).into_iter().for_each(|mark| copying.note(mark));
        Ok(())
    }

    /// Copies the regular file of `directory` that has the name of `spot`. Gives what it was when it was opened.
    fn opened(&self, directory: &Root, spot: Spot<'_>, buffers: &mut Buffers) -> io::Result<Stat> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(directory.as_fd(), spot.name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&source)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(io::Error::other(format!("{} changed while it was copied", spot.path)));
        }
        self.regular(&File::from(source), &stat, spot, buffers)?;
        Ok(stat)
    }

    /// Of a file with several names the first one is copied and the others are made links to it.
    /// Whoever comes upon another one meanwhile waits, and nobody else: names of most such files are elsewhere.
    fn regular(
        &self,
        source: &File,
        stat: &Stat,
        spot: Spot<'_>,
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        if stat.st_nlink < 2 {
            return self.content(source, stat, spot, buffers);
        }
        let inode = (stat.st_dev, stat.st_ino);
        let first = Arc::clone(lock(&self.inodes).entry(inode).or_default());
        let mut first = lock(&first);
        let Some(first) = first.as_ref() else {
            self.content(source, stat, spot, buffers)?;
            *first = Some(spot.path.to_owned());
            return Ok(());
        };
        let first = self.target.place(first)?;
        let (parent, flags) = (spot.parent.as_fd(), AtFlags::empty());
        self.make(spot, || {
            rustix::fs::linkat(first.parent.as_fd(), first.name.as_str(), parent, spot.name, flags)
        })
    }

    fn content(
        &self,
        source: &File,
        stat: &Stat,
        spot: Spot<'_>,
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        let mode = self.options.mode.apply(stat.st_mode, false);
        // Most files get their final bits at once. Never set-id bits: whoever writes loses them.
        let first = Mode::from_raw_mode(mode & 0o777 | 0o600);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let target: OwnedFd = self.make(spot, || {
            rustix::fs::openat(spot.parent.as_fd(), spot.name, flags | OFlags::CLOEXEC, first)
        })?;
        let target = File::from(target);
        copy_content(source, stat.st_size, &target, &mut buffers.content)?;
        // Owner and mode first: a new owner takes set-id bits and capabilities away. Time last.
        let ownership = self.options.ownership(stat);
        ownership.settle(target.as_fd(), mode)?;
        copy_attributes(source.as_fd(), target.as_fd(), buffers);
        ownership.settle_time(target.as_fd())
    }

    /// Runs `make`, which makes the name of `spot` and fails when there is one. What is there goes,
    /// and then it runs again: in most directories nothing is, so nobody looks before.
    fn make<T>(&self, spot: Spot<'_>, make: impl Fn() -> rustix::io::Result<T>) -> io::Result<T> {
        match make() {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
        let existing = stat_in(spot.parent.as_fd(), spot.name)?;
        if existing.is_some_and(|stat| kind(&stat).is_dir()) && !self.options.replace {
            return Err(io::Error::other(format!(
                "cannot replace to directory {} with file",
                spot.path
            )));
        }
        spot.parent.remove(spot.name.as_ref())?;
        Ok(make()?)
    }
}

/// Copies what is in `source`, which had `size` bytes when it was looked at.
fn copy_content(
    mut source: &File,
    size: i64,
    mut target: &File,
    buffer: &mut [u8],
) -> io::Result<()> {
    if usize::try_from(size).is_ok_and(|size| size > buffer.len()) {
        io::copy(&mut source, &mut target)?;
        return Ok(());
    }
    loop {
        match source.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => target.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies the attributes that belong to content from one open file or directory to another.
pub(super) fn copy_attributes(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    buffers: &mut Buffers,
) {
    for (key, value) in read_open(source, &mut buffers.names) {
        // Losing an attribute that the destination cannot hold is what cp does too.
        let _ = rustix::fs::fsetxattr(target, key.as_str(), &value, XattrFlags::empty());
    }
}
