//! The walk over what selectors name.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::thread::Scope;

use cofferdam_digest::{Digest, Digester};
use cofferdam_session::patterns::{Matcher, PatternError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::readers::{Job, Readers, attributes, buffer, with};
use super::{ContentDigestError, Selector};
use crate::op::file::{expand_wildcard, has_wildcard, reopen};
use crate::rooted::{Root, clean, is_absent};

/// Deepest nesting that is walked, as for copies.
const MAX_DEPTH: usize = 1024;
/// Files that are read before a thread is worth its start.
const FEW: u64 = 16;

struct Filter {
    include: Option<Matcher>,
    exclude: Option<Matcher>,
}

impl Filter {
    fn new(selector: &Selector) -> Result<Self, PatternError> {
        let compile = |patterns: &[String]| {
            if patterns.is_empty() { Ok(None) } else { Matcher::new(patterns).map(Some) }
        };
        Ok(Self { include: compile(&selector.include)?, exclude: compile(&selector.exclude)? })
    }

    fn includes(&self, relative: &str) -> bool {
        self.include.as_ref().is_none_or(|matcher| matcher.matches(relative))
            && self.exclude.as_ref().is_none_or(|matcher| !matcher.matches(relative))
    }

    /// Whether directories are left out unless something in them is selected.
    fn is_partial(&self) -> bool {
        self.include.is_some()
    }
}

fn reading(path: &str) -> impl FnOnce(io::Error) -> ContentDigestError + '_ {
    move |source| ContentDigestError::Read { path: path.to_owned(), source }
}

/// Where the walk is, below the selected path.
#[derive(Clone, Copy)]
struct At<'a> {
    relative: &'a str,
    filter: &'a Filter,
    depth: usize,
}

/// A selected entry.
enum Found {
    Digest(Digest),
    /// A file that is being read.
    Awaited(u64),
}

/// One walk over a tree.
pub(super) struct Walk<'scope, 'env: 'scope> {
    scope: &'scope Scope<'scope, 'env>,
    readers: &'env Readers,
    helpers: usize,
    /// Files so far.
    files: u64,
    digester: Digester,
    buffer: Vec<u8>,
}

impl<'scope, 'env: 'scope> Walk<'scope, 'env> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, readers: &'env Readers) -> Self {
        let digester = Digester::new();
        Self { scope, readers, helpers: 0, files: 0, digester, buffer: buffer() }
    }

    /// The digest of everything so far.
    pub(super) fn finish(self) -> Digest {
        self.digester.finish()
    }

    /// Adds what a selector names.
    pub(super) fn selector(
        &mut self,
        root: &Root,
        selector: &Selector,
    ) -> Result<(), ContentDigestError> {
        let filter = Filter::new(selector)?;
        for path in &selector.required {
            let path = clean(path);
            if has_wildcard(&path) {
                continue;
            }
            if root.stat(&path, false).map_err(reading(&path))?.is_none() {
                return Err(ContentDigestError::NotFound(path));
            }
        }
        let paths = if selector.wildcard && has_wildcard(&selector.path) {
            expand_wildcard(root, &selector.path).map_err(reading(&selector.path))?
        } else {
            vec![selector.path.clone()]
        };
        for path in &paths {
            if selector.wildcard {
                // Matches keep their names at the destination, so the names are content.
                self.digester.field(path.rsplit('/').next().unwrap_or_default());
            }
            self.path(root, path, selector.follow, &filter)?;
        }
        Ok(())
    }

    fn path(
        &mut self,
        root: &Root,
        path: &str,
        follow: bool,
        filter: &Filter,
    ) -> Result<(), ContentDigestError> {
        let mut flags = OFlags::PATH;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let fd = root.open(path, flags, Mode::empty()).map_err(|source| {
            if is_absent(&source) {
                ContentDigestError::NotFound(path.to_owned())
            } else {
                ContentDigestError::Read { path: path.to_owned(), source }
            }
        })?;
        if let Some(digest) = self.top(&fd, filter).map_err(reading(path))? {
            self.digester.field(digest.as_bytes());
        }
        Ok(())
    }

    /// The selected path itself, which patterns say nothing of.
    fn top(&mut self, fd: &OwnedFd, filter: &Filter) -> io::Result<Option<Digest>> {
        let stat = rustix::fs::fstat(fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = Root::new(rustix::fs::openat(fd, ".", flags, Mode::empty())?);
                let at = At { relative: "", filter, depth: 0 };
                self.directory(directory, at, !filter.is_partial())
            }
            FileType::RegularFile => {
                if let Some(known) = self.readers.reading.known(&stat) {
                    return Ok(Some(known));
                }
                self.readers.reading.file(reopen(fd.as_fd())?, &mut self.buffer).map(Some)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, "", Vec::new())?;
                Ok(Some(self.without_data(&stat, target.as_bytes())))
            }
            _ => Ok(Some(self.without_data(&stat, &stat.st_rdev.to_le_bytes()))),
        }
    }

    /// A directory, unless neither it nor anything in it is selected.
    fn directory(
        &mut self,
        directory: Root,
        at: At<'_>,
        included: bool,
    ) -> io::Result<Option<Digest>> {
        let stat = rustix::fs::fstat(&directory)?;
        let directory = Arc::new(directory);
        let mut found = Vec::new();
        for (name, kind) in directory.entries()? {
            let relative = below(at.relative, &name);
            let child = At { relative: &relative, filter: at.filter, depth: at.depth + 1 };
            if let Some(entry) = self.child(&directory, &name, kind, child)? {
                found.push((name, entry));
            }
        }
        if !included && found.is_empty() {
            return Ok(None);
        }
        let mut content = Digester::new();
        for (name, entry) in found {
            content.field(name.as_bytes());
            let digest = match entry {
                Found::Digest(digest) => digest,
                Found::Awaited(ticket) => self.readers.collect(ticket, &mut self.buffer)?,
            };
            content.field(digest.as_bytes());
        }
        let mut out = Digester::new();
        self.readers.reading.header(&stat, &mut out);
        out.field(content.finish().as_bytes());
        let (attributes, _) = attributes(directory.as_fd(), &mut self.buffer);
        Ok(Some(with(attributes, out.finish())))
    }

    /// An entry of a directory, unless it is not selected.
    fn child(
        &mut self,
        parent: &Arc<Root>,
        name: &OsStr,
        listed: FileType,
        at: At<'_>,
    ) -> io::Result<Option<Found>> {
        if at.depth > MAX_DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        let look = || rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
        // Not every file system lists what its entries are.
        let kind = match listed {
            FileType::Unknown => FileType::from_raw_mode(look()?.st_mode),
            listed => listed,
        };
        let included = at.filter.includes(at.relative);
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty())?;
                let digest = self.directory(Root::new(fd), at, included)?;
                Ok(digest.map(Found::Digest))
            }
            _ if !included => Ok(None),
            FileType::RegularFile => {
                if self.readers.reading.remembers()
                    && let Some(known) = self.readers.reading.known(&look()?)
                {
                    return Ok(Some(Found::Digest(known)));
                }
                self.file(parent, name).map(Some)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent.as_fd(), name, Vec::new())?;
                let digest = self.without_data(&look()?, target.as_bytes());
                Ok(Some(Found::Digest(digest)))
            }
            _ => {
                let stat = look()?;
                let digest = self.without_data(&stat, &stat.st_rdev.to_le_bytes());
                Ok(Some(Found::Digest(digest)))
            }
        }
    }

    /// Reads a regular file or leaves it to a thread.
    fn file(&mut self, parent: &Arc<Root>, name: &OsStr) -> io::Result<Found> {
        let job = Job { directory: Arc::clone(parent), name: name.to_owned() };
        self.files += 1;
        if self.files == FEW {
            self.helpers = self.readers.start(self.scope);
        }
        let own = if self.helpers == 0 { Some(job) } else { self.readers.offer(self.files, job) };
        match own {
            Some(job) => job.run(&self.readers.reading, &mut self.buffer).map(Found::Digest),
            None => Ok(Found::Awaited(self.files)),
        }
    }

    /// An entry that has no data, but a link's target or a device's number.
    fn without_data(&self, stat: &Stat, instead: &[u8]) -> Digest {
        let mut out = Digester::new();
        self.readers.reading.header(stat, &mut out);
        out.field(instead);
        out.finish()
    }
}

fn below(relative: &str, name: &OsStr) -> String {
    let name = name.to_string_lossy();
    if relative.is_empty() { name.into_owned() } else { format!("{relative}/{name}") }
}
