//! What a received entry does to the directory.
//!
//! The only module of the receiving end that changes a file system. Single names go through the
//! descriptor of an open directory, paths through the root's; neither follows a link.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use cofferdam_wire::fsutil::types::StatView;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};

use super::state::kept_xattrs;
use super::{Ownership, ReceiveError};
use crate::fsutil::dir;
use crate::fsutil::mode::GoMode;
use crate::fsutil::order;

/// Mode of everything that is not finished: only its owner looks at it.
const UNFINISHED: Mode = Mode::from_raw_mode(0o600);

/// Mode of directories until the transfer ends.
const UNFINISHED_DIR: Mode = Mode::from_raw_mode(0o700);

pub(super) struct Attributes {
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    mtime: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// An entry that was there before.
pub(super) struct Existing {
    stat: Stat,
    kind: FileType,
}

impl Existing {
    pub(super) fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    pub(super) const fn inode(&self) -> u64 {
        self.stat.st_ino
    }

    pub(super) const fn size(&self) -> i64 {
        self.stat.st_size
    }

    #[allow(clippy::unnecessary_cast, reason = "field types differ between architectures")]
    pub(super) const fn has_links(&self) -> bool {
        self.stat.st_nlink as u64 > 1
    }

    /// Whether mode, owner and, where asked, time are the announced ones.
    pub(super) fn matches(&self, attributes: &Attributes, time: bool) -> bool {
        let owner = attributes.owner.is_none_or(|(uid, gid)| {
            uid.as_raw() == self.stat.st_uid && gid.as_raw() == self.stat.st_gid
        });
        owner
            && Mode::from_raw_mode(self.stat.st_mode) & Mode::from_raw_mode(0o7777)
                == attributes.mode
            && (!time || dir::mtime(&self.stat) == i128::from(attributes.mtime))
    }
}

fn failed(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> ReceiveError {
    let path = path.to_string();
    move |source| ReceiveError::Disk { action, path, source }
}

/// The directory received into.
pub(super) struct Disk {
    root: OwnedFd,
    ownership: Ownership,
}

impl Disk {
    pub(super) const fn new(root: OwnedFd, ownership: Ownership) -> Self {
        Self { root, ownership }
    }

    pub(super) fn open_root(&self) -> Result<OwnedFd, ReceiveError> {
        dir::open_dir(&self.root, "").map_err(failed("open", "."))
    }

    pub(super) fn names(
        &self,
        fd: impl AsFd,
        path: &str,
    ) -> Result<HashSet<Vec<u8>>, ReceiveError> {
        let entries = dir::list(fd).map_err(failed("list", path))?;
        Ok(entries.into_iter().map(|entry| entry.name.into_bytes()).collect())
    }

    pub(super) fn attributes(
        &self,
        stat: &StatView<'_>,
        mode: GoMode,
    ) -> Result<Attributes, ReceiveError> {
        let owner = match &self.ownership {
            Ownership::Process => None,
            Ownership::Mapped(map) => {
                let place = |id| {
                    // The kernel reads the highest id as "leave it alone".
                    map(id)
                        .filter(|mapped| *mapped != u32::MAX)
                        .ok_or_else(|| ReceiveError::Owner { id, path: stat.path.to_string() })
                };
                Some((Uid::from_raw(place(stat.uid)?), Gid::from_raw(place(stat.gid)?)))
            }
        };
        let xattrs = kept_xattrs(stat);
        Ok(Attributes { mode: mode.permissions(), owner, mtime: stat.modTime, xattrs })
    }

    pub(super) fn existing(
        &self,
        parent: impl AsFd,
        path: &str,
        name: &str,
    ) -> Result<Option<Existing>, ReceiveError> {
        let stat = dir::stat(parent, name).map_err(failed("look at", path))?;
        Ok(stat.map(|stat| Existing { stat, kind: FileType::from_raw_mode(stat.st_mode) }))
    }

    pub(super) fn remove_existing(
        &self,
        parent: impl AsFd,
        path: &str,
        name: &str,
        _existing: &Existing,
    ) -> Result<(), ReceiveError> {
        dir::remove(parent, name).map_err(failed("replace", path))
    }

    pub(super) fn remove_name(
        &self,
        parent: impl AsFd,
        path: &str,
        name: &[u8],
    ) -> Result<(), ReceiveError> {
        dir::remove(parent, name).map_err(|source| ReceiveError::Disk {
            action: "delete",
            path: format!("{path}/{}", String::from_utf8_lossy(name)),
            source,
        })
    }

    /// Opens directory `name`, making it when it is not there; says whether it is new.
    pub(super) fn directory(
        &self,
        parent: impl AsFd,
        path: &str,
        name: &str,
        existing: Option<&Existing>,
    ) -> Result<(OwnedFd, bool), ReceiveError> {
        let fresh = existing.is_none_or(|existing| existing.kind != FileType::Directory);
        if fresh {
            if existing.is_some() {
                dir::remove(&parent, name).map_err(failed("replace", path))?;
            }
            rustix::fs::mkdirat(&parent, name, UNFINISHED_DIR)
                .map_err(io::Error::from)
                .map_err(failed("create directory", path))?;
        }
        let fd = dir::open_child_dir(&parent, name).map_err(failed("open directory", path))?;
        Ok((fd, fresh))
    }

    pub(super) fn finish_directory(
        &self,
        path: &str,
        attributes: &Attributes,
    ) -> Result<(), ReceiveError> {
        let apply = || -> io::Result<()> {
            let fd = dir::open_dir(&self.root, path)?;
            apply_attributes(&fd, attributes)
        };
        apply().map_err(failed("set attributes of", path))
    }

    /// Makes the symlink unless it is there already; says whether it did.
    pub(super) fn symlink(
        &self,
        parent: impl AsFd,
        path: &str,
        name: &str,
        target: &str,
        attributes: &Attributes,
        existing: Option<Existing>,
    ) -> Result<bool, ReceiveError> {
        let apply = || -> io::Result<bool> {
            if let Some(existing) = existing {
                let same_owner = attributes.owner.is_none_or(|(uid, gid)| {
                    uid.as_raw() == existing.stat.st_uid && gid.as_raw() == existing.stat.st_gid
                });
                if existing.kind == FileType::Symlink
                    && same_owner
                    && dir::mtime(&existing.stat) == i128::from(attributes.mtime)
                    && rustix::fs::readlinkat(&parent, name, Vec::new())?.as_bytes()
                        == target.as_bytes()
                {
                    return Ok(false);
                }
                dir::remove(&parent, name)?;
            }
            rustix::fs::symlinkat(target, &parent, name)?;
            if let Some((uid, gid)) = attributes.owner {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags)?;
            }
            let times = dir::times(attributes.mtime);
            rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(true)
        };
        apply().map_err(failed("create symlink", path))
    }

    /// Makes the named pipe unless it is there already; says whether it did.
    pub(super) fn fifo(
        &self,
        parent: impl AsFd,
        path: &str,
        name: &str,
        attributes: &Attributes,
        existing: Option<Existing>,
    ) -> Result<bool, ReceiveError> {
        let apply = || -> io::Result<bool> {
            if let Some(existing) = existing {
                if existing.kind == FileType::Fifo && existing.matches(attributes, true) {
                    return Ok(false);
                }
                dir::remove(&parent, name)?;
            }
            rustix::fs::mknodat(&parent, name, FileType::Fifo, UNFINISHED, 0)?;
            if let Some((uid, gid)) = attributes.owner {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags)?;
            }
            // The name was made a moment ago in a directory nobody else writes to.
            rustix::fs::chmodat(&parent, name, attributes.mode, AtFlags::empty())?;
            let times = dir::times(attributes.mtime);
            rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(true)
        };
        apply().map_err(failed("create named pipe", path))
    }

    /// Replaces `path` by another name of `target`.
    pub(super) fn hard_link(&self, target: &str, path: &str) -> Result<(), ReceiveError> {
        let apply = || -> io::Result<()> {
            let (from, from_name) = order::split(target);
            let (to, to_name) = order::split(path);
            let from = dir::open_dir(&self.root, from)?;
            let to = dir::open_dir(&self.root, to)?;
            dir::remove(&to, to_name)?;
            Ok(rustix::fs::linkat(from, from_name, to, to_name, AtFlags::empty())?)
        };
        apply().map_err(failed("create hard link", path))
    }
}

fn apply_attributes(fd: impl AsFd, attributes: &Attributes) -> io::Result<()> {
    // The owner first: changing it clears the set-id bits.
    if let Some((uid, gid)) = attributes.owner {
        rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(&fd, attributes.mode)?;
    for (name, value) in &attributes.xattrs {
        // File systems without user attributes lose them, as every copy tool accepts.
        let _ = rustix::fs::fsetxattr(&fd, name.as_str(), value, XattrFlags::empty());
    }
    Ok(rustix::fs::futimens(&fd, &dir::times(attributes.mtime))?)
}

/// A file whose content was asked for.
pub(super) struct FileInProgress {
    path: String,
    attributes: Attributes,
    /// Name it has until it is complete, when its place is still taken.
    temporary: Option<String>,
    beside: bool,
    file: Option<File>,
}

impl FileInProgress {
    pub(super) fn new(path: &str, attributes: Attributes, beside: bool) -> Self {
        Self { path: path.to_string(), attributes, temporary: None, beside, file: None }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn open(&mut self, disk: &Disk, id: u32) -> Result<(), ReceiveError> {
        if self.beside {
            let (parent, _) = order::split(&self.path);
            let name = format!(".cofferdam-{id}-{}", std::process::id());
            let separator = if parent.is_empty() { "" } else { "/" };
            self.temporary = Some(format!("{parent}{separator}{name}"));
        }
        let path = self.temporary.as_ref().unwrap_or(&self.path);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fd = dir::open_beneath(&disk.root, path, flags, UNFINISHED)
            .map_err(failed("create", &self.path))?;
        self.file = Some(File::from(fd));
        Ok(())
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), ReceiveError> {
        match &mut self.file {
            Some(file) => file.write_all(data).map_err(failed("write", &self.path)),
            None => Ok(()),
        }
    }

    pub(super) fn finish(&mut self, disk: &Disk) -> Result<(), ReceiveError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let temporary = self.temporary.take();
        let apply = || -> io::Result<()> {
            apply_attributes(&file, &self.attributes)?;
            if let Some(temporary) = temporary {
                let (parent, from) = order::split(&temporary);
                let parent = dir::open_dir(&disk.root, parent)?;
                rustix::fs::renameat(&parent, from, &parent, order::split(&self.path).1)?;
            }
            Ok(())
        };
        apply().map_err(failed("finish", &self.path))
    }
}
