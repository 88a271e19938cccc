//! Copies a directory with what is below it.
//!
//! Walks the source and makes directories; files go to the [`Crew`]. Each directory of both sides is
//! opened once, for as long as it is walked or filled, and everything in it is named relative to that:
//! no name read from the source is ever part of a path that is resolved. Depth is bounded. The walk is
//! a loop, so that the depth costs no stack.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::vec::IntoIter;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::copy::{CopyOptions, kind, stat_in};
use super::crew::{BATCH, Crew, Folder};
use super::leaf::{Spot, copy_attributes};
use crate::rooted::Root;

/// Deepest directory nesting that is copied; twice what a 4096-byte path of two-byte
/// components could name is never reached by real trees.
const MAX_DEPTH: usize = 1024;

/// The copy of one directory.
pub(super) struct Tree<'a, 'c> {
    target: &'a Root,
    options: &'a CopyOptions,
    crew: &'a mut Crew<'c>,
    /// From the starting point to where the walk is.
    levels: Vec<Level>,
}

/// A directory that is being walked.
struct Level {
    source: Arc<Root>,
    stat: Stat,
    /// Its path below the starting point, for the selection.
    relative: String,
    /// Its path in the target.
    path: String,
    /// Whether it was selected itself. Otherwise it is made once something in it is.
    included: bool,
    /// Its counterpart in the target, once there is one.
    folder: Option<Arc<Folder>>,
    /// What is in it and still to be visited.
    rest: IntoIter<(String, FileType)>,
}

impl<'a, 'c> Tree<'a, 'c> {
    /// A copy into `target`.
    pub(super) const fn new(
        target: &'a Root,
        options: &'a CopyOptions,
        crew: &'a mut Crew<'c>,
    ) -> Self {
        Self { target, options, crew, levels: Vec::new() }
    }

    /// Copies the directory `fd` to `path`. Directories on the way to `path` exist.
    pub(super) fn copy(mut self, fd: OwnedFd, stat: Stat, path: String) -> io::Result<()> {
        self.enter(opened(&fd)?, stat, String::new(), path)?;
        drop(fd);
        while let Some(level) = self.levels.last_mut() {
            match level.rest.next() {
                Some((name, kind)) => self.visit(&name, kind)?,
                None => {
                    if let Some(folder) = self.levels.pop().and_then(|level| level.folder) {
                        folder.release()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn includes(&self, relative: &str) -> bool {
        relative.is_empty() || self.options.selection.includes(relative)
    }

    /// Begins with a directory: makes it, and hands over its files.
    fn enter(
        &mut self,
        source: Root,
        stat: Stat,
        relative: String,
        path: String,
    ) -> io::Result<()> {
        let included = self.includes(&relative);
        let descends = included || self.options.selection.may_include_below(&relative);
        let source = Arc::new(source);
        self.levels.push(Level {
            source: Arc::clone(&source),
            stat,
            relative: relative.clone(),
            path,
            included,
            folder: None,
            rest: Vec::new().into_iter(),
        });
        if included {
            self.folder()?;
        }
        if descends {
            let rest = self.files(&source, &relative)?;
            if let Some(level) = self.levels.last_mut() {
                level.rest = rest.into_iter();
            }
        }
        Ok(())
    }

    /// Hands over the regular files in the last directory and returns what else is in it.
    fn files(&mut self, source: &Root, relative: &str) -> io::Result<Vec<(String, FileType)>> {
        let entries = source.entries()?;
        if self.levels.len() > MAX_DEPTH && !entries.is_empty() {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        let mut rest = Vec::new();
        let mut names = Vec::new();
        for (name, kind) in entries {
            let name = name.into_string().map_err(|name| {
                io::Error::other(format!("name is not UTF-8: {}", name.display()))
            })?;
            if kind != FileType::RegularFile {
                rest.push((name, kind));
            } else if self.includes(&below(relative, &name)) {
                names.push(name);
            }
            if names.len() == BATCH {
                let folder = self.folder()?;
                self.crew.copy(folder, std::mem::take(&mut names))?;
            }
        }
        if !names.is_empty() {
            let folder = self.folder()?;
            self.crew.copy(folder, names)?;
        }
        Ok(rest)
    }

    /// Copies what is no regular file, or enters it when it is a directory.
    fn visit(&mut self, name: &str, found: FileType) -> io::Result<()> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let relative = below(&level.relative, name);
        let path = format!("{}/{name}", level.path);
        // Nothing but a directory is opened before it is known what it is.
        let mut flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        flags |= if found.is_dir() { OFlags::RDONLY | OFlags::DIRECTORY } else { OFlags::PATH };
        let fd = rustix::fs::openat(level.source.as_fd(), name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if found.is_dir() {
            return self.enter(Root::new(fd), stat, relative, path);
        }
        if kind(&stat).is_dir() {
            // Not every file system says what a name is before one looks.
            return self.enter(opened(&fd)?, stat, relative, path);
        }
        if !self.includes(&relative) {
            return Ok(());
        }
        let folder = self.folder()?;
        let spot = Spot { parent: &folder.target, name, path: &path };
        self.crew.single(fd.as_fd(), &stat, spot)
    }

    /// The directory that is being filled, made together with those above it which were not selected
    /// themselves.
    fn folder(&mut self) -> io::Result<Arc<Folder>> {
        let mut above: Option<Arc<Folder>> = None;
        for index in 0..self.levels.len() {
            let made = if let Some(made) = &self.levels[index].folder {
                Arc::clone(made)
            } else {
                let made = Arc::new(self.make(index, above.as_deref())?);
                self.levels[index].folder = Some(Arc::clone(&made));
                made
            };
            above = Some(made);
        }
        above.ok_or_else(|| Errno::INVAL.into())
    }

    fn make(&mut self, index: usize, above: Option<&Folder>) -> io::Result<Folder> {
        let level = &self.levels[index];
        let (directory, name) = split_last_keeping_dot(&level.path).ok_or(Errno::INVAL)?;
        let start;
        let parent = if let Some(above) = above {
            &above.target
        } else {
            start = self.target.directory(&directory)?;
            &start
        };
        let (target, created) = self.directory(parent, &name, &level.path)?;
        let owner = self.options.ownership(&level.stat);
        // The starting point leaves a directory that exists as it is.
        let changes = created || index > 0;
        if changes {
            owner.settle(target.as_fd(), self.options.mode.apply(level.stat.st_mode, true))?;
            copy_attributes(level.source.as_fd(), target.as_fd(), self.crew.buffers);
            if !level.included {
                owner.settle_time(target.as_fd())?;
            }
        }
        Ok(Folder {
            source: Arc::clone(&level.source),
            earlier: self.crew.earlier(above, &name, &level.path),
            target,
            path: level.path.clone(),
            restore: (changes && level.included).then_some(owner),
        })
    }

    /// Opens the directory `name` in `parent`, and says whether it had to be made.
    fn directory(&self, parent: &Root, name: &str, path: &str) -> io::Result<(Root, bool)> {
        let make = || rustix::fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(0o700));
        let created = match make() {
            Ok(()) => true,
            Err(Errno::EXIST) => {
                let existing = stat_in(parent.as_fd(), name)?;
                let there = existing.is_some_and(|stat| kind(&stat).is_dir());
                if !there {
                    if !self.options.replace {
                        let text = format!("cannot copy to non-directory: {path}");
                        return Err(io::Error::other(text));
                    }
                    parent.remove(name.as_ref())?;
                    make()?;
                }
                !there
            }
            Err(error) => return Err(error.into()),
        };
        Ok((parent.child(name)?, created))
    }
}

/// Opens the directory that an `O_PATH` descriptor names for reading.
fn opened(fd: &OwnedFd) -> io::Result<Root> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Root::new(rustix::fs::openat(fd, ".", flags, Mode::empty())?))
}

fn below(relative: &str, name: &str) -> String {
    if relative.is_empty() { name.to_owned() } else { format!("{relative}/{name}") }
}

/// Parent and last component, but a path ending in `/.` (a followed link) keeps the dot as its name.
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
