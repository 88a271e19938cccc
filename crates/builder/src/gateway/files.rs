//! Reading files of a result: for frontends, and for clients that look into a build.
//!
//! Only regular files are read, through the kernel's own resolution beneath the result's root,
//! and never more than a bound.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_wire::fsutil::types::Stat;
use connectrpc::ErrorCode;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::blocking::blocking;
use crate::failure::Failure;
use crate::rooted::{Root, clean, is_absent};
use crate::snapshot::Snapshot;

/// Largest file content one call returns; messages are limited to 16 MiB.
pub(super) const MAX_READ: usize = 15 << 20;
/// Most entries one call lists.
const MAX_ENTRIES: usize = 100_000;
/// What an entry takes on the wire besides its texts, at most: seven numbers and the lengths.
const ENTRY: usize = 96;

fn opened(path: &str) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |error| {
        if is_absent(&error) {
            Failure::not_found(format!("open {path}: no such file or directory"))
        } else {
            Failure::of(error).during(&format!("open {path}"))
        }
    }
}

/// The first `max` bytes of a file; `None` when there is none.
pub(crate) async fn read_optional(
    snapshot: &Snapshot,
    path: &str,
    max: usize,
) -> Result<Option<Bytes>, Failure> {
    let view = snapshot.view().await?;
    let path = clean(path);
    blocking(move || match view.stat(&path, true) {
        Ok(None) => Ok(None),
        Ok(Some(_)) => read(&view, &path, 0, max).map(Some),
        Err(error) => Err(opened(&path)(error)),
    })
    .await?
}

/// A range of a file's bytes.
pub(super) async fn read_range(
    snapshot: &Snapshot,
    path: &str,
    offset: u64,
    length: usize,
) -> Result<Bytes, Failure> {
    range_of(snapshot.view().await?, path, offset, length).await
}

/// A range of a file's bytes, below a directory that is open.
pub(super) async fn range_of(
    view: Arc<Root>,
    path: &str,
    offset: u64,
    length: usize,
) -> Result<Bytes, Failure> {
    let path = clean(path);
    blocking(move || read(&view, &path, offset, length)).await?
}

fn read(view: &Arc<Root>, path: &str, offset: u64, length: usize) -> Result<Bytes, Failure> {
    let fd =
        view.open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(opened(path))?;
    let stat = rustix::fs::fstat(&fd).map_err(Failure::of)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => {
            return Err(
                Failure::of(std::io::Error::from(Errno::ISDIR)).during(&format!("read {path}"))
            );
        }
        _ => return Err(Failure::invalid(format!("{path} is not a regular file"))),
    }
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(offset))
        .and_then(|_| file.take(length.min(MAX_READ) as u64).read_to_end(&mut bytes));
    read.map_err(|error| Failure::of(error).during(&format!("read {path}")))?;
    Ok(bytes.into())
}

/// The entries of a directory whose names match `pattern` (all, when it is empty).
pub(super) async fn list(
    snapshot: &Snapshot,
    path: &str,
    pattern: &str,
    ids: cofferdam_store::IdRange,
) -> Result<Vec<Stat>, Failure> {
    entries_of(snapshot.view().await?, path, pattern, ids).await
}

/// The entries of a directory below one that is open.
pub(super) async fn entries_of(
    view: Arc<Root>,
    path: &str,
    pattern: &str,
    ids: cofferdam_store::IdRange,
) -> Result<Vec<Stat>, Failure> {
    let path = clean(path);
    let pattern = pattern.to_owned();
    blocking(move || entries_within(&view, &path, &pattern, ids, MAX_READ)).await?
}

/// The entries of a directory, when an answer of `room` bytes holds them all.
fn entries_within(
    view: &Root,
    path: &str,
    pattern: &str,
    ids: cofferdam_store::IdRange,
    mut room: usize,
) -> Result<Vec<Stat>, Failure> {
    let directory = view.directory(path).map_err(opened(path))?;
    let names = directory.names().map_err(opened(path))?;
    let wanted = names
        .iter()
        .filter_map(|name| name.to_str())
        .filter(|name| pattern.is_empty() || crate::op::file::matches_name(pattern, name));
    let mut entries = Vec::new();
    for name in wanted {
        let entry = stat_of(&directory, name, ids)?;
        let size = entry.path.len() + entry.linkname.len() + ENTRY;
        let left = room.checked_sub(size).filter(|_| entries.len() < MAX_ENTRIES);
        let Some(left) = left else {
            let message = format!("{path} has more entries than one answer holds: ask by pattern");
            return Err(Failure::new(ErrorCode::ResourceExhausted, message));
        };
        room = left;
        entries.push(entry);
    }
    Ok(entries)
}

/// The attributes of one path, links followed within the root.
pub(super) async fn stat(
    snapshot: &Snapshot,
    path: &str,
    ids: cofferdam_store::IdRange,
) -> Result<Stat, Failure> {
    stat_in(snapshot.view().await?, path, ids).await
}

/// The attributes of one path below a directory that is open.
pub(super) async fn stat_in(
    view: Arc<Root>,
    path: &str,
    ids: cofferdam_store::IdRange,
) -> Result<Stat, Failure> {
    let path = clean(path);
    blocking(move || {
        let stat = view.stat(&path, true).map_err(opened(&path))?;
        let stat = stat
            .ok_or_else(|| Failure::not_found(format!("stat {path}: no such file or directory")))?;
        Ok(wire(path.rsplit('/').next().unwrap_or_default(), &stat, String::new(), ids))
    })
    .await?
}

fn stat_of(directory: &Root, name: &str, ids: cofferdam_store::IdRange) -> Result<Stat, Failure> {
    let stat = rustix::fs::statat(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Failure::of)?;
    let link = if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        let target = rustix::fs::readlinkat(directory.as_fd(), name, Vec::new());
        target.map_err(Failure::of)?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(wire(name, &stat, link, ids))
}

/// Mode bits as Go's `os.FileMode` has them, which is what the wire carries.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => (1 << 26) | (1 << 21),
        FileType::Fifo => 1 << 25,
        // The format has no sockets: senders of files leave the bit out, and so does this.
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum::<u32>();
    kind | special | (mode & 0o777)
}

fn wire(name: &str, stat: &rustix::fs::Stat, link: String, ids: cofferdam_store::IdRange) -> Stat {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let device = match kind {
        FileType::BlockDevice | FileType::CharacterDevice => stat.st_rdev,
        _ => 0,
    };
    Stat {
        path: name.to_owned(),
        mode: go_mode(stat.st_mode),
        uid: ids.from_disk(stat.st_uid).unwrap_or(stat.st_uid),
        gid: ids.from_disk(stat.st_gid).unwrap_or(stat.st_gid),
        // What a directory takes depends on the file system below it and says nothing of what is in it.
        size: if kind.is_dir() { 0 } else { stat.st_size },
        devmajor: i64::from(rustix::fs::major(device)),
        devminor: i64::from(rustix::fs::minor(device)),
        modTime: stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64,
        linkname: link,
        ..Stat::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_listing_is_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let view = Root::new(std::fs::File::open(dir.path()).unwrap().into());
        let list = |pattern: &str, room: usize| {
            entries_within(&view, "/", pattern, cofferdam_store::IdRange::IDENTITY, room)
        };
        let all = list("", 3 * (ENTRY + 1)).unwrap();
        assert_eq!(
            all.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
        let refused = list("", 3 * (ENTRY + 1) - 1).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
        assert_eq!(list("b", ENTRY + 1).unwrap().len(), 1, "a pattern asks for less");
    }

    #[test]
    fn directories_have_no_size_and_files_have_theirs() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::fs::write(dir.path().join("file"), "four").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let view = Root::new(std::fs::File::open(dir.path()).unwrap().into());
        let ids = cofferdam_store::IdRange::IDENTITY;
        let entries = entries_within(&view, "/", "", ids, MAX_READ).unwrap();
        let seen: Vec<(&str, i64, &str)> = entries
            .iter()
            .map(|entry| (entry.path.as_str(), entry.size, entry.linkname.as_str()))
            .collect();
        assert_eq!(seen, [("directory", 0, ""), ("file", 4, ""), ("link", 4, "file")]);
        assert!(entries.iter().all(|entry| (entry.devmajor, entry.devminor) == (0, 0)));
    }

    #[test]
    fn sockets_have_no_kind_of_their_own() {
        assert_eq!(go_mode(0o140_644), 0o644);
        assert_eq!(go_mode(0o010_644), (1 << 25) | 0o644);
    }
}
