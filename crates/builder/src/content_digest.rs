//! Digests of file trees, for content-based cache keys.
//!
//! A digest covers what a copy would carry: names below the selected path, types, permission
//! bits, owners, link targets, device numbers, content attributes and data, but no times and no
//! name of the selected path itself (the operation that selects it holds that). Two trees with
//! equal digests are interchangeable to every consumer; nothing that a tenant writes (a digest
//! in a file, a label) may stand in for reading the bytes.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cofferdam_digest::{Digest, Digester};
use cofferdam_session::patterns::{Matcher, PatternError};
use cofferdam_store::IdRange;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::op::file::{expand_wildcard, has_wildcard};
use crate::rooted::{Root, clean, is_absent};

/// Deepest nesting that is walked, as for copies.
const MAX_DEPTH: usize = 1024;
const BUFFER_BYTES: usize = 128 << 10;

/// What part of a tree a consumer looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Selector {
    /// Path, absolute within the tree.
    pub(crate) path: String,
    /// Whether the path may have wildcards.
    pub(crate) wildcard: bool,
    /// Whether a link at the end of the path is followed.
    pub(crate) follow: bool,
    /// Include patterns, relative to the path.
    pub(crate) include: Vec<String>,
    /// Exclude patterns, relative to the path.
    pub(crate) exclude: Vec<String>,
    /// Paths, absolute within the tree, that must exist: patterns that stand in for plain paths.
    pub(crate) required: Vec<String>,
}

/// Why a tree could not be digested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentDigestError {
    /// The selected path is not there.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// A pattern that cannot be read.
    #[error("invalid pattern")]
    Pattern(#[from] PatternError),
    /// The system refused.
    #[error("failed to read {path:?}")]
    Read {
        /// Path within the tree.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Selector {
    /// Selects the whole tree.
    pub(crate) fn whole() -> Self {
        Self::path("/")
    }

    /// Selects one path, following a link at its end.
    pub(crate) fn path(path: &str) -> Self {
        Self { path: clean(path), follow: true, ..Self::default() }
    }

    /// A digest that names this selection.
    pub(crate) fn digest(&self) -> Digest {
        let mut digester = Digester::new();
        digester.field(&self.path);
        digester.field([u8::from(self.wildcard), u8::from(self.follow)]);
        for list in [&self.include, &self.exclude, &self.required] {
            digester.field((list.len() as u64).to_le_bytes());
            for pattern in list {
                digester.field(pattern);
            }
        }
        digester.finish()
    }
}

/// Digests what `selectors` name in `root`. Ids are taken as the step sees them, so that the
/// same tree has the same digest under every id range.
pub(crate) fn digest(
    root: &Root,
    ids: IdRange,
    selectors: &[Selector],
) -> Result<Digest, ContentDigestError> {
    let mut walk = Walk { ids, digester: Digester::new(), buffer: vec![0; BUFFER_BYTES] };
    for selector in selectors {
        walk.selector(root, selector)?;
    }
    Ok(walk.digester.finish())
}

struct Walk {
    ids: IdRange,
    digester: Digester,
    buffer: Vec<u8>,
}

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

impl Walk {
    fn selector(&mut self, root: &Root, selector: &Selector) -> Result<(), ContentDigestError> {
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
        let mut entry = Digester::new();
        if self.entry(fd, "", filter, 0, &mut entry).map_err(reading(path))? {
            self.digester.field(entry.finish().as_bytes());
        }
        Ok(())
    }

    /// Adds one entry to `out`; says whether it, or anything below it, was selected.
    fn entry(
        &mut self,
        fd: OwnedFd,
        relative: &str,
        filter: &Filter,
        depth: usize,
        out: &mut Digester,
    ) -> io::Result<bool> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        let stat = rustix::fs::fstat(&fd)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let included = relative.is_empty() && !(kind.is_dir() && filter.is_partial())
            || !relative.is_empty() && filter.includes(relative);
        if kind.is_dir() {
            return self.directory(fd.as_fd(), &stat, relative, filter, included, depth, out);
        }
        if !included {
            return Ok(false);
        }
        self.header(&stat, out);
        match kind {
            FileType::RegularFile => {
                self.attributes(fd.as_fd(), out);
                self.data(fd.as_fd(), out)?;
            }
            FileType::Symlink => {
                out.field(rustix::fs::readlinkat(&fd, "", Vec::new())?.as_bytes());
            }
            _ => out.field(stat.st_rdev.to_le_bytes()),
        }
        Ok(true)
    }

    #[allow(clippy::too_many_arguments)] // one call site; the values are one recursion frame
    fn directory(
        &mut self,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        relative: &str,
        filter: &Filter,
        included: bool,
        depth: usize,
        out: &mut Digester,
    ) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = Root::new(rustix::fs::openat(fd, ".", flags, Mode::empty())?);
        let mut content = Digester::new();
        let mut selected = included;
        for name in directory.names()? {
            let text = name.to_string_lossy();
            let below =
                if relative.is_empty() { text.into_owned() } else { format!("{relative}/{text}") };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = rustix::fs::openat(directory.as_fd(), &name, flags, Mode::empty())?;
            let mut entry = Digester::new();
            if self.entry(child, &below, filter, depth + 1, &mut entry)? {
                content.field(std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()));
                content.field(entry.finish().as_bytes());
                selected = true;
            }
        }
        if selected {
            self.header(stat, out);
            self.attributes(directory.as_fd(), out);
            out.field(content.finish().as_bytes());
        }
        Ok(selected)
    }

    fn header(&self, stat: &Stat, out: &mut Digester) {
        let id = |id: u32| self.ids.from_disk(id).unwrap_or(id);
        out.field(stat.st_mode.to_le_bytes());
        out.field(id(stat.st_uid).to_le_bytes());
        out.field(id(stat.st_gid).to_le_bytes());
    }

    fn attributes(&self, fd: BorrowedFd<'_>, out: &mut Digester) {
        for (name, value) in crate::xattrs::read(&format!("/proc/self/fd/{}", fd.as_raw_fd())) {
            out.field(name);
            // A capability's version and root id depend on the id range, its sets do not.
            out.field(&value[..value.len().min(20)]);
        }
    }

    fn data(&mut self, fd: BorrowedFd<'_>, out: &mut Digester) -> io::Result<()> {
        let mut file = crate::op::file::reopen(fd)?;
        loop {
            let count = file.read(&mut self.buffer)?;
            if count == 0 {
                return Ok(());
            }
            out.update(&self.buffer[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const IDS: IdRange = IdRange { first: 0, count: 65536 };

    fn tree() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in [("a/one", "1"), ("a/two", "2"), ("b/one", "1"), ("b/two", "2")] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let fd = rustix::fs::open(directory.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        (directory, Root::new(fd))
    }

    fn of(root: &Root, selector: Selector) -> Digest {
        digest(root, IDS, &[selector]).unwrap()
    }

    #[test]
    fn equal_content_is_equal_whatever_its_name_and_time() {
        let (directory, root) = tree();
        assert_eq!(of(&root, Selector::path("/a")), of(&root, Selector::path("/b")));
        let before = of(&root, Selector::path("/a"));
        let file =
            std::fs::File::options().append(true).open(directory.path().join("a/one")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(of(&root, Selector::path("/a")), before);
        let path = directory.path().join("a/one");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_ne!(of(&root, Selector::path("/a")), before);
    }

    #[test]
    fn patterns_limit_what_is_digested() {
        let (directory, root) = tree();
        let only_one = || Selector { include: vec!["one".into()], ..Selector::path("/a") };
        let before = of(&root, only_one());
        std::fs::write(directory.path().join("a/two"), "changed").unwrap();
        assert_eq!(of(&root, only_one()), before);
        std::fs::write(directory.path().join("a/one"), "changed").unwrap();
        assert_ne!(of(&root, only_one()), before);
    }

    #[test]
    fn missing_paths_are_named() {
        let (_directory, root) = tree();
        let error = digest(&root, IDS, &[Selector::path("/nope")]).unwrap_err();
        assert_eq!(error.to_string(), "\"/nope\": not found");
        let required = Selector { required: vec!["/a/gone".into()], ..Selector::path("/a") };
        assert!(digest(&root, IDS, &[required]).is_err());
    }
}
