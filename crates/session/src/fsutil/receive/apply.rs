//! What a received entry does to the directory.
//!
//! With [`super::file`] all of the receiving end that changes a file system. Single names go through the
//! descriptor of an open directory, paths through the root's; neither follows a link.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cofferdam_wire::fsutil::types::StatView;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Uid, XattrFlags};

use super::state::kept_xattrs;
use super::{Ownership, ReceiveError};
use crate::fsutil::dir;
use crate::fsutil::mode::GoMode;
use crate::fsutil::order;

/// Mode of everything that is not finished: only its owner looks at it.
pub(super) const UNFINISHED: Mode = Mode::from_raw_mode(0o600);

/// Mode of directories until the transfer ends.
const UNFINISHED_DIR: Mode = Mode::from_raw_mode(0o700);

/// Bits that a change of owner may take away.
const SET_ID: Mode = Mode::SUID.union(Mode::SGID);

pub(super) struct Attributes {
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    mtime: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    /// The mode to make a file with that is finished at once: no special bit before the owner is right, and
    /// nothing that is in the way of its attributes.
    pub(super) fn mode_at_once(&self) -> Mode {
        if self.xattrs.is_empty() { self.mode & Mode::from_raw_mode(0o777) } else { UNFINISHED }
    }
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

pub(super) fn failed(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> ReceiveError {
    move |source| ReceiveError::Disk { action, path: path.to_string(), source }
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

    /// Opens the directory that `path` is in, to make `path` there.
    pub(super) fn open_parent(&self, path: &str) -> Result<OwnedFd, ReceiveError> {
        dir::open_place(&self.root, order::split(path).0).map_err(failed("create", path))
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

/// Makes an entry what was announced, with as few calls as that takes.
pub(super) fn apply_attributes(fd: impl AsFd, attributes: &Attributes) -> io::Result<()> {
    let now = rustix::fs::fstat(&fd)?;
    let mut mode_is_right =
        Mode::from_raw_mode(now.st_mode) & Mode::from_raw_mode(0o7777) == attributes.mode;
    if let Some((uid, gid)) = attributes.owner
        && (uid.as_raw() != now.st_uid || gid.as_raw() != now.st_gid)
    {
        // The owner first: changing it clears the set-id bits.
        rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
        mode_is_right &= !attributes.mode.intersects(SET_ID);
    }
    if !attributes.xattrs.is_empty() {
        // The mode last: only those who may write to an entry may set its attributes, whatever it was opened for.
        if !Mode::from_raw_mode(now.st_mode).contains(Mode::WUSR) {
            rustix::fs::fchmod(&fd, attributes.mode | Mode::WUSR)?;
            mode_is_right = false;
        }
        for (name, value) in &attributes.xattrs {
            // File systems without user attributes lose them, as every copy tool accepts.
            let _ = rustix::fs::fsetxattr(&fd, name.as_str(), value, XattrFlags::empty());
        }
    }
    if !mode_is_right {
        rustix::fs::fchmod(&fd, attributes.mode)?;
    }
    Ok(rustix::fs::futimens(&fd, &dir::times(attributes.mtime))?)
}
