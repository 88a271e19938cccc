//! Copies a path of one root to another, with `cp -a` semantics as LLB's copy action has them.
//!
//! This finds the starting point and where it goes; [`super::tree`] copies what is below it, and
//! [`super::leaf`] single entries. All work on directory descriptors only: names read from the source
//! are single components, links are copied and never followed below the starting point, and
//! destinations that are links are replaced. Nothing here decides what to copy; [`super`] does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::crew::with_crew;
use super::earlier::Copying;
use super::leaf::{Buffers, Leaves, Spot};
use super::mode::ModeChange;
use super::select::Selection;
use super::tree::Tree;
use super::wildcard::base_name;
use crate::rooted::{Ownership, Root, clean, is_absent, split_last};

/// How a copy treats what it finds.
pub(super) struct CopyOptions {
    /// New owner, ids on disk; `None` keeps the source's.
    pub(super) owner: Option<(u32, u32)>,
    /// Owner of directories made on the way when `owner` is `None`; ids on disk.
    pub(super) parents: (u32, u32),
    /// New modification time in nanoseconds; `None` keeps the source's.
    pub(super) mtime: Option<i64>,
    /// New permission bits.
    pub(super) mode: ModeChange,
    /// Which entries below the source take part.
    pub(super) selection: Selection,
    /// Copy a directory's children instead of the directory.
    pub(super) contents: bool,
    /// Follow the source itself when it is a link.
    pub(super) follow: bool,
    /// Replace destinations of another type.
    pub(super) replace: bool,
}

/// Copies from one root to another.
pub(super) struct Copier<'a> {
    source: &'a Root,
    target: &'a Root,
    options: &'a CopyOptions,
    leaves: Leaves<'a>,
    buffers: Buffers,
}

impl CopyOptions {
    /// Everything that is in a directory, as it is; what is in the way is replaced by its own kind only.
    pub(super) fn everything() -> Self {
        Self {
            owner: None,
            parents: (0, 0),
            mtime: None,
            mode: ModeChange::Keep,
            selection: Selection::default(),
            contents: true,
            follow: false,
            replace: false,
        }
    }

    fn parent_owner(&self) -> Ownership {
        let (uid, gid) = self.owner.unwrap_or(self.parents);
        Ownership { uid, gid, mtime: self.mtime }
    }

    /// Ids and time for the copy of what has the attributes `stat`.
    pub(super) fn ownership(&self, stat: &Stat) -> Ownership {
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        Ownership { uid, gid, mtime: Some(self.mtime.unwrap_or_else(|| mtime_of(stat))) }
    }
}

/// Modification time in nanoseconds since the epoch.
pub(super) fn mtime_of(stat: &Stat) -> i64 {
    stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64
}

/// What it is.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl<'a> Copier<'a> {
    /// A copier from `source` to `target`.
    pub(super) fn new(source: &'a Root, target: &'a Root, options: &'a CopyOptions) -> Self {
        let leaves = Leaves::new(target, options);
        Self { source, target, options, leaves, buffers: Buffers::new() }
    }

    /// Takes over what it can of an earlier copy, and notes what is there for the next one.
    pub(super) fn noting(mut self, copying: Option<&'a Copying>) -> Self {
        self.leaves.copying = copying;
        self
    }

    /// Copies `path` to `destination`. A destination with a trailing slash, or one that is a
    /// directory, receives the source under its own name.
    pub(super) fn copy(&mut self, path: &str, destination: &str) -> io::Result<()> {
        let (fd, stat) = self.open_source(path)?;
        let parents = self.options.mode.for_new_parents();
        let owner = self.options.parent_owner();
        let directory_wanted = destination.ends_with('/') || destination.ends_with("/.");
        let mut target_path = clean(destination);
        if directory_wanted {
            self.target.create_directories(&target_path, parents, owner)?;
        }
        let existing = self.target.stat(&target_path, true)?;
        let is_directory = kind(&stat).is_dir();
        let goes_inside = match &existing {
            Some(existing) if is_directory => {
                let _ = existing;
                !self.options.contents
            }
            Some(existing) => kind(existing).is_dir(),
            None => false,
        };
        if goes_inside {
            target_path = clean(&format!("{target_path}/{}", base_name(path)));
        }
        if is_directory && self.options.contents && existing.is_none() {
            self.target.create_directories(&target_path, parents, owner)?;
        } else if let Some((parent, _)) = split_last(&target_path) {
            self.target.create_directories(&parent, parents, owner)?;
        }
        // A destination that is a link to a directory names that directory.
        let target_path = self.followed(target_path)?;
        if is_directory {
            return with_crew(&self.leaves, &mut self.buffers, |crew| {
                Tree::new(self.target, self.options, crew).copy(fd, stat, target_path)
            });
        }
        let place = self.target.place(&target_path)?;
        let spot = Spot { parent: &place.parent, name: &place.name, path: &target_path };
        self.leaves.copy(fd.as_fd(), &stat, spot, &mut self.buffers)
    }

    fn open_source(&self, path: &str) -> io::Result<(OwnedFd, Stat)> {
        let mut flags = OFlags::PATH;
        if !self.options.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let fd = self.source.open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok((fd, stat))
    }

    /// The path itself, or with a trailing `/.` when it is a link to a directory, which makes
    /// the kernel resolve it inside the root from here on.
    fn followed(&self, path: String) -> io::Result<String> {
        let Some(stat) = self.target.stat(&path, false)? else { return Ok(path) };
        if !kind(&stat).is_symlink() {
            return Ok(path);
        }
        match self.target.stat(&path, true)? {
            Some(stat) if kind(&stat).is_dir() => Ok(format!("{path}/.")),
            _ => Ok(path),
        }
    }
}

/// The attributes of `name`, itself when it is a link, or `None` when there is nothing.
pub(super) fn stat_in(parent: BorrowedFd<'_>, name: &str) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reopens an `O_PATH` descriptor of a regular file for reading.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> io::Result<std::fs::File> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Copies what may be copied: user attributes other than the overlay's own, and file
/// capabilities. A filesystem without them loses them, as with `cp -a`.
pub(super) fn copy_xattrs(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &str) {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(target) = rustix::fs::openat(parent, name, flags, Mode::empty()) else { return };
    let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&source));
    let to = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&target));
    for (key, value) in crate::xattrs::read(&from) {
        // Losing an attribute that the destination cannot hold is what cp does too.
        let _ = rustix::fs::setxattr(&to, key.as_str(), &value, rustix::fs::XattrFlags::empty());
    }
}

/// The destination's parent must exist when it may not be created.
pub(super) fn require_parent(target: &Root, destination: &str) -> io::Result<bool> {
    let Some((parent, _)) = split_last(destination) else { return Ok(true) };
    match target.stat(&parent, true) {
        Ok(found) => Ok(found.is_some()),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
