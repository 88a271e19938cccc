//! The difference of two trees whose layers have nothing in common, found by walking both.
//!
//! Reads both trees beneath directory descriptors and writes one layer in overlay form: copies
//! of what changed, character devices 0:0 for what is gone.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use cofferdam_store::{Store, Tree, mount_tree};
use rustix::fs::{AtFlags, FileType, Mode, Stat};

use super::copy::{Copier, CopyOptions, mtime_of};
use super::mode::ModeChange;
use super::select::Selection;
use crate::failure::Failure;
use crate::rooted::Root;
use crate::snapshot::Workspace;

/// Deepest nesting that is compared, as for copies.
const MAX_DEPTH: usize = 1024;

/// Makes the layer that turns `lower` into `upper`.
pub(super) fn make(store: &Arc<Store>, lower: &Tree, upper: &Tree) -> Result<Tree, Failure> {
    if upper.is_empty() && lower.is_empty() {
        return Ok(Tree::scratch());
    }
    let lower = Root::new(mount_tree(lower, None).map_err(Failure::store)?);
    let upper = Root::new(mount_tree(upper, None).map_err(Failure::store)?);
    let workspace = Workspace::new(store, Tree::scratch(), "difference of two trees")?;
    let mut walk = Walk { upper: &upper, target: workspace.root() };
    let readable = |root: &Root| root.directory(".").map_err(Failure::store);
    walk.directory(&readable(&lower)?, &readable(&upper)?, "", 0).map_err(Failure::store)?;
    workspace.commit()
}

struct Walk<'a> {
    upper: &'a Root,
    target: &'a Root,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        lower: &Root,
        upper: &Root,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        for name in upper.names()? {
            let Some(name) = name.to_str() else {
                return Err(io::Error::other(format!("name is not UTF-8: {}", name.display())));
            };
            let below = format!("{path}/{name}");
            let new = rustix::fs::statat(upper.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
            let old = rustix::fs::statat(lower.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok();
            let (Some(old), true) = (&old, is_directory(&new)) else {
                if old.is_none_or(|old| differs(&old, &new)) {
                    self.copy(&below)?;
                }
                continue;
            };
            if !is_directory(old) {
                self.copy(&below)?;
                continue;
            }
            if old.st_mode != new.st_mode || old.st_uid != new.st_uid || old.st_gid != new.st_gid {
                // A directory whose attributes changed is made as one above something is.
                self.parents(&format!("{below}/_"))?;
            }
            self.directory(&lower.directory(name)?, &upper.directory(name)?, &below, depth + 1)?;
        }
        for name in lower.names()? {
            if rustix::fs::statat(upper.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                self.whiteout(path, &name.to_string_lossy())?;
            }
        }
        Ok(())
    }

    /// Copies one path with its parents and with what is in it.
    fn copy(&self, path: &str) -> io::Result<()> {
        let options = CopyOptions {
            owner: None,
            // Parents are made first, with the attributes they have in the upper tree.
            parents: (0, 0),
            mtime: None,
            mode: ModeChange::Keep,
            selection: Selection::default(),
            contents: true,
            follow: false,
            replace: true,
        };
        // A directory is made as it is above: its copy only takes what is in it.
        match self.upper.stat(path, false)? {
            Some(stat) if is_directory(&stat) => self.parents(&format!("{path}/_"))?,
            _ => self.parents(path)?,
        }
        Copier::new(self.upper, self.target, &options).copy(path, path)
    }

    /// Makes the directories above `path` as they are in the upper tree.
    fn parents(&self, path: &str) -> io::Result<()> {
        let mut at = String::new();
        let parts = crate::rooted::components(path);
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            at = format!("{at}/{part}");
            if self.target.stat(&at, false)?.is_none() {
                let stat = self.upper.stat(&at, false)?.ok_or(io::ErrorKind::NotFound)?;
                let owner = crate::rooted::Ownership {
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                    mtime: Some(mtime_of(&stat)),
                };
                self.target.create_directories(&at, stat.st_mode & 0o7777, owner)?;
            }
        }
        Ok(())
    }

    fn whiteout(&self, directory: &str, name: &str) -> io::Result<()> {
        let path = format!("{directory}/{name}");
        self.parents(&path)?;
        let place = self.target.place(&path)?;
        Ok(rustix::fs::mknodat(
            place.parent.as_fd(),
            place.name.as_str(),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )?)
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// Whether two entries that are not both directories differ; size and time stand for content,
/// as they do for every tool that compares trees.
fn differs(old: &Stat, new: &Stat) -> bool {
    old.st_mode != new.st_mode
        || old.st_uid != new.st_uid
        || old.st_gid != new.st_gid
        || old.st_size != new.st_size
        || old.st_rdev != new.st_rdev
        || mtime_of(old) != mtime_of(new)
}
