//! Copies a path of one root to another, with `cp -a` semantics as LLB's copy action has them.
//!
//! Works on directory descriptors only: names read from the source are single components,
//! links are copied and never followed below the starting point, and destinations that are
//! links are replaced. Depth is bounded. Nothing here decides what to copy; [`super`] does.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::mode::ModeChange;
use super::select::Selection;
use super::wildcard::base_name;
use crate::rooted::{Ownership, Root, chmod, clean, is_absent, split_last};

/// Deepest directory nesting that is copied; twice what a 4096-byte path of two-byte
/// components could name is never reached by real trees.
const MAX_DEPTH: usize = 1024;

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

/// One copy in progress.
pub(super) struct Copier<'a> {
    source: &'a Root,
    target: &'a Root,
    options: &'a CopyOptions,
    /// First copied path of each multiply linked inode, so that links stay links.
    inodes: HashMap<(u64, u64), String>,
    /// Directories entered but not yet created, because nothing in them was selected so far.
    pending: Vec<Pending>,
}

struct Pending {
    path: String,
    stat: Stat,
    fd: OwnedFd,
    done: bool,
}

impl CopyOptions {
    fn parent_owner(&self) -> Ownership {
        let (uid, gid) = self.owner.unwrap_or(self.parents);
        Ownership { uid, gid, mtime: self.mtime }
    }

    fn ownership(&self, stat: &Stat) -> Ownership {
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        Ownership { uid, gid, mtime: Some(self.mtime.unwrap_or_else(|| mtime_of(stat))) }
    }
}

/// Modification time in nanoseconds since the epoch.
pub(super) fn mtime_of(stat: &Stat) -> i64 {
    stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl<'a> Copier<'a> {
    /// A copier from `source` to `target`.
    pub(super) fn new(source: &'a Root, target: &'a Root, options: &'a CopyOptions) -> Self {
        Self { source, target, options, inodes: HashMap::new(), pending: Vec::new() }
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
        self.entry(fd, &stat, "", &target_path, false, 0)
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

    /// Copies one entry. `relative` is its path below the starting point, for the selection.
    fn entry(
        &mut self,
        fd: OwnedFd,
        stat: &Stat,
        relative: &str,
        path: &str,
        overwrite_metadata: bool,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        let included = relative.is_empty() || self.options.selection.includes(relative);
        if kind(stat).is_dir() {
            return self.directory(fd, stat, relative, path, included, overwrite_metadata, depth);
        }
        if !included {
            return Ok(());
        }
        self.create_pending()?;
        self.file(fd.as_fd(), stat, path)
    }

    #[allow(clippy::too_many_arguments)] // one call site; the values are one recursion frame
    fn directory(
        &mut self,
        fd: OwnedFd,
        stat: &Stat,
        relative: &str,
        path: &str,
        included: bool,
        overwrite_metadata: bool,
        depth: usize,
    ) -> io::Result<()> {
        let source = Root::new(rustix::fs::openat(
            &fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        let mut created = false;
        if included {
            self.create_pending()?;
            created = self.make_directory(source.as_fd(), stat, path, overwrite_metadata)?;
        }
        if !included && !relative.is_empty() && !self.options.selection.may_include_below(relative)
        {
            return Ok(());
        }
        self.pending.push(Pending { path: path.to_owned(), stat: *stat, fd, done: included });
        for name in source.names()? {
            let Some(name) = name.to_str() else {
                return Err(io::Error::other(format!("name is not UTF-8: {}", name.display())));
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = rustix::fs::openat(source.as_fd(), name, flags, Mode::empty())?;
            let child_stat = rustix::fs::fstat(&child)?;
            let below =
                if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") };
            self.entry(child, &child_stat, &below, &format!("{path}/{name}"), true, depth + 1)?;
        }
        self.pending.pop();
        if included && (created || overwrite_metadata) {
            self.restore_time(stat, path)?;
        }
        Ok(())
    }

    /// Creates the directories that were entered without being selected themselves.
    fn create_pending(&mut self) -> io::Result<()> {
        for index in 0..self.pending.len() {
            if self.pending[index].done {
                continue;
            }
            let path = self.pending[index].path.clone();
            let stat = self.pending[index].stat;
            let fd = self.pending[index].fd.try_clone()?;
            self.make_directory(fd.as_fd(), &stat, &path, true)?;
            self.pending[index].done = true;
        }
        Ok(())
    }

    fn make_directory(
        &self,
        source: BorrowedFd<'_>,
        stat: &Stat,
        path: &str,
        overwrite_metadata: bool,
    ) -> io::Result<bool> {
        let Some((parent, name)) = split_last_keeping_dot(path) else { return Ok(false) };
        let parent = self.target.directory(&parent)?;
        let mode = self.options.mode.apply(stat.st_mode, true);
        let existing = stat_in(parent.as_fd(), &name)?;
        let created = match existing {
            Some(existing) if kind(&existing).is_dir() => false,
            Some(_) if self.options.replace => {
                parent.remove(name.as_ref())?;
                true
            }
            Some(_) => {
                return Err(io::Error::other(format!("cannot copy to non-directory: {path}")));
            }
            None => true,
        };
        if created {
            rustix::fs::mkdirat(parent.as_fd(), name.as_str(), Mode::from_raw_mode(0o700))?;
        } else if !overwrite_metadata {
            return Ok(false);
        }
        self.options.ownership(stat).apply(parent.as_fd(), &name)?;
        chmod(parent.as_fd(), &name, mode)?;
        copy_xattrs(source, parent.as_fd(), &name);
        Ok(created)
    }

    fn restore_time(&self, stat: &Stat, path: &str) -> io::Result<()> {
        let Some((parent, name)) = split_last_keeping_dot(path) else { return Ok(()) };
        let parent = self.target.directory(&parent)?;
        self.options.ownership(stat).apply_time(parent.as_fd(), &name)
    }

    fn file(&mut self, source: BorrowedFd<'_>, stat: &Stat, path: &str) -> io::Result<()> {
        let place = self.target.place(path)?;
        let parent = place.parent.as_fd();
        match stat_in(parent, &place.name)? {
            Some(existing) if kind(&existing).is_dir() && !self.options.replace => {
                return Err(io::Error::other(format!(
                    "cannot replace to directory {path} with file"
                )));
            }
            Some(_) => place.parent.remove(place.name.as_ref())?,
            None => {}
        }
        match kind(stat) {
            FileType::RegularFile => {
                if self.link_known(stat, path, parent, &place.name)? {
                    return Ok(());
                }
                copy_content(source, parent, &place.name)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, "", Vec::new())?;
                rustix::fs::symlinkat(link.as_c_str(), parent, place.name.as_str())?;
                return self.options.ownership(stat).apply(parent, &place.name);
            }
            other => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(parent, place.name.as_str(), other, mode, stat.st_rdev)?;
            }
        }
        self.finish_file(source, stat, parent, &place.name)
    }

    /// Owner first: changing it clears set-id bits and capabilities, which the mode and the
    /// extended attributes bring back.
    fn finish_file(
        &self,
        source: BorrowedFd<'_>,
        stat: &Stat,
        parent: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let ownership = self.options.ownership(stat);
        ownership.apply(parent, name)?;
        chmod(parent, name, self.options.mode.apply(stat.st_mode, false))?;
        if kind(stat).is_file() {
            copy_xattrs(source, parent, name);
        }
        ownership.apply_time(parent, name)
    }

    fn link_known(
        &mut self,
        stat: &Stat,
        path: &str,
        parent: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        let Some(first) = self.inodes.get(&key) else {
            self.inodes.insert(key, path.to_owned());
            return Ok(false);
        };
        let first = self.target.place(first)?;
        rustix::fs::linkat(
            first.parent.as_fd(),
            first.name.as_str(),
            parent,
            name,
            AtFlags::empty(),
        )?;
        Ok(true)
    }
}

/// As [`split_last`], but a path ending in `/.` (a followed link) keeps the dot as its name.
fn split_last_keeping_dot(path: &str) -> Option<(String, String)> {
    match path.strip_suffix("/.") {
        Some(directory) => Some((directory.to_owned(), ".".to_owned())),
        None => split_last_in(path),
    }
}

fn split_last_in(path: &str) -> Option<(String, String)> {
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() {
        return Some(("/".to_owned(), ".".to_owned()));
    }
    Some((if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }, name.to_owned()))
}

fn stat_in(parent: BorrowedFd<'_>, name: &str) -> io::Result<Option<Stat>> {
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

fn copy_content(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut source = reopen(source)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
    io::copy(&mut source, &mut std::fs::File::from(target))?;
    Ok(())
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
