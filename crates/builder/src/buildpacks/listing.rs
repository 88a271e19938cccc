//! What the frontend may see of a directory: names and kinds.
//!
//! The directory is written by foreign code: every listing is bounded and no link is followed.

use std::os::fd::AsFd;

use cofferdam_buildpacks::{Entry, EntryKind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::failure::Failure;
use crate::rooted::{Root, is_absent};

/// Most entries one call lists.
const MAX_ENTRIES: usize = 100_000;
/// Paths that a walk gives: those of a large application.
const MAX_PATHS: usize = 2_000_000;
/// Directories below each other in a walk.
const MAX_DEPTH: usize = 256;

fn kind_of(mode: u32) -> EntryKind {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    }
}

/// The entries of a directory; none when it is absent.
pub(super) fn entries(view: &Root, path: &str) -> Result<Option<Vec<Entry>>, Failure> {
    let directory = match view.directory(path) {
        Ok(directory) => directory,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(Failure::store(error)),
    };
    let names = directory.names().map_err(Failure::store)?;
    if names.len() > MAX_ENTRIES {
        return Err(Failure::invalid(format!("{path:?} has more than {MAX_ENTRIES} entries")));
    }
    let mut entries = Vec::with_capacity(names.len());
    for name in names.iter().filter_map(|name| name.to_str()) {
        let stat = rustix::fs::statat(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Failure::of)?;
        let mode = stat.st_mode & 0o7777;
        entries.push(Entry { name: name.to_owned(), kind: kind_of(stat.st_mode), mode });
    }
    Ok(Some(entries))
}

/// Adds every path beneath a directory to what was found; those of directories end in `/`.
pub(super) fn walk(
    directory: &Root,
    prefix: &str,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<(), Failure> {
    for name in directory.names().map_err(Failure::store)? {
        if depth > MAX_DEPTH || found.len() >= MAX_PATHS {
            return Err(Failure::invalid("the directory is too deep or has too many files"));
        }
        let path = format!("{prefix}{}", name.to_string_lossy());
        let stat = rustix::fs::statat(directory.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Failure::of)?;
        if kind_of(stat.st_mode) == EntryKind::Directory {
            let prefix = format!("{path}/");
            found.push(prefix.clone());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(directory.as_fd(), &name, flags, Mode::empty())
                .map_err(Failure::of)?;
            walk(&Root::new(fd), &prefix, depth + 1, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
