//! What one tree has that another has not, as one layer.
//!
//! Of trees whose layers have nothing in common it is found by walking both; of a layer and what it
//! was made on by walking the layer, so that its price follows the layer's size. Reads beneath
//! directory descriptors and writes overlay form: copies of what changed, character devices 0:0 for
//! what is gone. It must never change what it reads, nor hide by a whole directory what it did not see.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use cofferdam_store::{Layer, Store, Tree, mount_tree};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::copy::{Copier, CopyOptions, copy_xattrs, mtime_of, reopen};
use crate::failure::Failure;
use crate::rooted::{Root, set_mtime};
use crate::snapshot::Workspace;

/// Deepest nesting that is compared, as for copies.
const MAX_DEPTH: usize = 1024;
/// Largest file whose content is compared; a larger one that was written counts as changed.
const MAX_COMPARED: i64 = 4 << 30;
/// How much of a file is compared at a time.
const CHUNK: usize = 64 << 10;
/// Set to `y` on directories of layers that hide what is below them.
const OPAQUE: &str = "user.overlay.opaque";

/// Makes the layer that turns `lower` into `upper`.
pub(super) fn make(store: &Arc<Store>, lower: &Tree, upper: &Tree) -> Result<Tree, Failure> {
    if upper.is_empty() && lower.is_empty() {
        return Ok(Tree::scratch());
    }
    let lower = Root::new(mount_tree(lower, None).map_err(Failure::store)?);
    let upper = Root::new(mount_tree(upper, None).map_err(Failure::store)?);
    let workspace = Workspace::new(store, Tree::scratch(), "difference of two trees")?;
    let readable = |root: &Root| root.directory(".").map_err(Failure::store);
    let (below, above) = (readable(&lower)?, readable(&upper)?);
    let options = as_it_is();
    {
        let mut walk = Walk::new(&upper, workspace.root(), &options, false);
        walk.directory(&below, &above, "", 0).map_err(Failure::store)?;
    }
    workspace.commit()
}

/// Makes `layer`, which was made on `lower`, again as what it changed there: without what is the same
/// below, and with single names taken away where it hides a directory.
pub(super) fn remake(store: &Arc<Store>, lower: &Tree, layer: &Layer) -> Result<Tree, Failure> {
    let upper = lower.with(layer.clone());
    let lower = Root::new(mount_tree(lower, None).map_err(Failure::store)?);
    let upper = Root::new(mount_tree(&upper, None).map_err(Failure::store)?);
    let own = Root::new(layer.open().map_err(Failure::store)?);
    let workspace = Workspace::new(store, Tree::scratch(), "what a step changed")?;
    let readable = |root: &Root| root.directory(".").map_err(Failure::store);
    let (below, above) = (readable(&lower)?, readable(&upper)?);
    let options = as_it_is();
    {
        let mut walk = Walk::new(&upper, workspace.root(), &options, true);
        walk.layer(&own, &below, &above, "", 0).map_err(Failure::store)?;
    }
    workspace.commit()
}

/// Whether `layer`, which was made on `lower`, holds something that is the same there, and can be made again without it: a step that
/// moves a file away and back leaves a copy of it.
pub(super) fn repeats(lower: &Tree, layer: &Layer) -> Result<bool, Failure> {
    if lower.is_empty() {
        return Ok(false);
    }
    let lower = Root::new(mount_tree(lower, None).map_err(Failure::store)?);
    let below = lower.directory(".").map_err(Failure::store)?;
    let own = Root::new(layer.open().map_err(Failure::store)?);
    let repeated = repeats_in(&own, &below, 0).and_then(|found| Ok(found && is_named(&own, 0)?));
    repeated.map_err(Failure::store)
}

/// Whether every name in a layer is text, as far as a copy of it can be made.
fn is_named(own: &Root, depth: usize) -> io::Result<bool> {
    bounded(depth)?;
    for name in own.names()? {
        let Some(name) = name.to_str() else { return Ok(false) };
        let stat = rustix::fs::statat(own.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_directory(&stat) && !is_named(&own.directory(name)?, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn repeats_in(own: &Root, lower: &Root, depth: usize) -> io::Result<bool> {
    bounded(depth)?;
    for name in own.names()? {
        // What cannot be named cannot be left out either.
        let Some(name) = name.to_str() else { continue };
        let made = rustix::fs::statat(own.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        let old = rustix::fs::statat(lower.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let Some(old) = old.filter(|_| !is_whiteout(&made)) else { continue };
        let repeated = if is_directory(&old) && is_directory(&made) {
            repeats_in(&own.directory(name)?, &lower.directory(name)?, depth + 1)?
        } else {
            !differs(&old, &made) && same(lower, own, name, &made)?
        };
        if repeated {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies everything as it is. Parents are made before, with the attributes they have above.
fn as_it_is() -> CopyOptions {
    CopyOptions { replace: true, ..CopyOptions::everything() }
}

fn bounded(depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("directories are nested too deeply"));
    }
    Ok(())
}

struct Walk<'a> {
    upper: &'a Root,
    target: &'a Root,
    /// One for the whole walk: it knows which names are links to one file.
    copier: Copier<'a>,
    /// Whether files with equal attributes are read too.
    exact: bool,
}

impl<'a> Walk<'a> {
    fn new(upper: &'a Root, target: &'a Root, options: &'a CopyOptions, exact: bool) -> Self {
        Self { upper, target, copier: Copier::new(upper, target, options), exact }
    }

    /// Takes over what the directory `own` of a layer changed of `lower`; `upper` is what both make.
    fn layer(
        &mut self,
        own: &Root,
        lower: &Root,
        upper: &Root,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        bounded(depth)?;
        for name in own.names()? {
            let (name, made, old) = entry(&name, own, lower)?;
            let below = format!("{path}/{name}");
            match old {
                None if is_whiteout(&made) => {}
                Some(_) if is_whiteout(&made) => self.whiteout(path, name)?,
                Some(old) if is_directory(&old) && is_directory(&made) => {
                    let inside = own.directory(name)?;
                    let (before, after) = (lower.directory(name)?, upper.directory(name)?);
                    if differs_as_directory(&old, &made)
                        || attributes(&before) != attributes(&inside)
                    {
                        self.parents(&format!("{below}/_"))?;
                    }
                    if hides(&inside)? {
                        self.directory(&before, &after, &below, depth + 1)?;
                    } else {
                        self.layer(&inside, &before, &after, &below, depth + 1)?;
                    }
                    self.settle(&below, &made)?;
                }
                Some(old) if !differs(&old, &made) && same(lower, own, name, &made)? => {}
                _ => self.copy(&below)?,
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        lower: &Root,
        upper: &Root,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        bounded(depth)?;
        for name in upper.names()? {
            let (name, new, old) = entry(&name, upper, lower)?;
            let below = format!("{path}/{name}");
            let (Some(old), true) = (&old, is_directory(&new)) else {
                let unchanged = match &old {
                    Some(old) if differs(old, &new) => false,
                    Some(_) => !self.exact || same(lower, upper, name, &new)?,
                    None => false,
                };
                if !unchanged {
                    self.copy(&below)?;
                }
                continue;
            };
            if !is_directory(old) {
                self.copy(&below)?;
                continue;
            }
            if differs_as_directory(old, &new) {
                // A directory whose attributes changed is made as one above something is.
                self.parents(&format!("{below}/_"))?;
            }
            self.directory(&lower.directory(name)?, &upper.directory(name)?, &below, depth + 1)?;
            self.settle(&below, &new)?;
        }
        for name in lower.names()? {
            if rustix::fs::statat(upper.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                self.whiteout(path, &name.to_string_lossy())?;
            }
        }
        Ok(())
    }

    /// Copies one path with its parents and with what is in it.
    fn copy(&mut self, path: &str) -> io::Result<()> {
        // A directory is made as it is above: its copy only takes what is in it.
        let directory = self.upper.stat(path, false)?.filter(is_directory);
        if directory.is_some() {
            self.parents(&format!("{path}/_"))?;
        } else {
            self.parents(path)?;
        }
        self.copier.copy(path, path)?;
        directory.map_or(Ok(()), |stat| self.settle(path, &stat))
    }

    /// Gives a directory that was made its time back, which changed with every name put into it.
    fn settle(&self, path: &str, stat: &Stat) -> io::Result<()> {
        if self.target.stat(path, false)?.is_some() {
            let place = self.target.place(path)?;
            set_mtime(place.parent.as_fd(), &place.name, mtime_of(stat))?;
        }
        Ok(())
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
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let source = self.upper.open(&at, flags, Mode::empty())?;
                let place = self.target.place(&at)?;
                copy_xattrs(source.as_fd(), place.parent.as_fd(), &place.name);
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

/// A name in a directory as text, what it is there, and what it is in another if it is there too.
fn entry<'n>(
    name: &'n OsStr,
    upper: &Root,
    lower: &Root,
) -> io::Result<(&'n str, Stat, Option<Stat>)> {
    let Some(text) = name.to_str() else {
        return Err(io::Error::other(format!("name is not UTF-8: {}", name.display())));
    };
    let new = rustix::fs::statat(upper.as_fd(), text, AtFlags::SYMLINK_NOFOLLOW)?;
    let old = rustix::fs::statat(lower.as_fd(), text, AtFlags::SYMLINK_NOFOLLOW).ok();
    Ok((text, new, old))
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// What takes a name of a lower layer away.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory of a layer hides what is below it.
fn hides(directory: &Root) -> io::Result<bool> {
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(directory.as_fd(), OPAQUE, &mut value[..]) {
        Ok(_) => Ok(value[0] == b'y'),
        // A longer value is none of the overlay's.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether two directories differ by themselves. Their sizes and times say only that something was in them.
fn differs_as_directory(old: &Stat, new: &Stat) -> bool {
    old.st_mode != new.st_mode || old.st_uid != new.st_uid || old.st_gid != new.st_gid
}

/// Whether two entries that are not both directories differ; size and time stand for content,
/// as they do for every tool that compares trees.
fn differs(old: &Stat, new: &Stat) -> bool {
    differs_as_directory(old, new)
        || old.st_size != new.st_size
        || old.st_rdev != new.st_rdev
        || mtime_of(old) != mtime_of(new)
}

/// Extended attributes that belong to content.
fn attributes(fd: impl AsFd) -> Vec<(String, Vec<u8>)> {
    crate::xattrs::read(&format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Whether `name` has the same content in both directories, where its attributes, which are `stat`, are
/// the same and it is no directory.
fn same(old: &Root, new: &Root, name: &str, stat: &Stat) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let old = old.open(name, flags, Mode::empty())?;
    let new = new.open(name, flags, Mode::empty())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            if stat.st_size > MAX_COMPARED || attributes(&old) != attributes(&new) {
                return Ok(false);
            }
            equal(reopen(old.as_fd())?, reopen(new.as_fd())?)
        }
        FileType::Symlink => {
            let old = rustix::fs::readlinkat(&old, "", Vec::new())?;
            Ok(old == rustix::fs::readlinkat(&new, "", Vec::new())?)
        }
        _ => Ok(true),
    }
}

fn equal(old: File, new: File) -> io::Result<bool> {
    let mut old = BufReader::with_capacity(CHUNK, old);
    let mut new = BufReader::with_capacity(CHUNK, new);
    loop {
        let (left, right) = (old.fill_buf()?, new.fill_buf()?);
        let count = left.len().min(right.len());
        if count == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left[..count] != right[..count] {
            return Ok(false);
        }
        old.consume(count);
        new.consume(count);
    }
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
