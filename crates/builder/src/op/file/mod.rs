//! The file operations of LLB: copy, mkdir, mkfile, rm, symlink.
//!
//! Semantics are those of BuildKit's file op (`pb.FileAction`). Every path is resolved beneath
//! the root it belongs to; error texts name paths as the build wrote them and never a host path.

mod copy;
mod crew;
mod difference;
mod earlier;
mod leaf;
mod mode;
mod select;
mod tree;
mod unpack;
mod wildcard;

use std::io;
use std::io::Write;
use std::os::fd::AsFd;

use cofferdam_session::patterns::PatternError;
use cofferdam_wire::pb;
use rustix::fs::{Mode, OFlags};

pub(crate) use self::copy::reopen;
use self::copy::{Copier, CopyOptions, require_parent};
pub(crate) use self::earlier::{Copying, EarlierCopies};
use self::mode::{ModeChange, ParseModeError};
use self::select::Selection;
pub(crate) use self::wildcard::{expand as expand_wildcard, has_wildcard};
use crate::rooted::{Ownership, Root, chmod, clean, is_absent, set_mtime};

/// Why a file action failed. Paths are those of the action.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileActionError {
    /// The path of a copy or removal is not there.
    #[error("{0} not found")]
    NotFound(String),
    /// A path without wildcards is not there.
    #[error("{0}: no such file or directory")]
    Absent(String),
    /// The destination's parent is missing and may not be created.
    #[error("failed to stat {0}: no such file or directory")]
    NoParent(String),
    /// A mode text that cannot be read.
    #[error(transparent)]
    Mode(#[from] ParseModeError),
    /// An include or exclude pattern that cannot be read.
    #[error("invalid pattern")]
    Pattern(#[from] PatternError),
    /// The action names no path.
    #[error("{0}: invalid empty path")]
    EmptyPath(&'static str),
    /// The system refused.
    #[error("failed to {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path of the root.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An archive could not be unpacked.
    #[error("failed to unpack {path}")]
    Unpack {
        /// The archive's path.
        path: String,
        /// Why.
        #[source]
        source: cofferdam_image::layer::ApplyError,
    },
}

fn failed<'a>(
    action: &'static str,
    path: &'a str,
) -> impl FnOnce(io::Error) -> FileActionError + 'a {
    move |source| {
        if is_absent(&source) && action == "copy" {
            FileActionError::Absent(path.to_owned())
        } else {
            FileActionError::Io { action, path: path.to_owned(), source }
        }
    }
}

/// Owner and time of what an action makes; ids on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maker {
    /// Owner; `None` means root of the step for new files and the source's owner for copies.
    pub(crate) owner: Option<(u32, u32)>,
    /// The step's root, as on disk.
    pub(crate) root: (u32, u32),
}

impl Maker {
    fn ownership(self, timestamp: i64) -> Ownership {
        let (uid, gid) = self.owner.unwrap_or(self.root);
        Ownership { uid, gid, mtime: time(timestamp) }
    }
}

/// LLB writes -1 for "the present".
fn time(timestamp: i64) -> Option<i64> {
    (timestamp != -1).then_some(timestamp)
}

/// Makes a directory.
pub(crate) fn mkdir(
    root: &Root,
    action: &pb::FileActionMkDir,
    maker: Maker,
) -> Result<(), FileActionError> {
    let owner = maker.ownership(action.timestamp);
    let mode = action.mode as u32 & 0o777;
    let path = clean(&action.path);
    if action.makeParents {
        root.create_directories(&path, mode, owner).map_err(failed("mkdir", &path))?;
        return Ok(());
    }
    if path == "/" {
        return Ok(());
    }
    let place = root.place(&path).map_err(failed("mkdir", &path))?;
    place.parent.create_directory(&place.name, mode, owner).map_err(failed("mkdir", &path))?;
    Ok(())
}

/// Writes a file, truncating what is there. A link at the end of the path is followed.
pub(crate) fn mkfile(
    root: &Root,
    action: &pb::FileActionMkFile,
    maker: Maker,
) -> Result<(), FileActionError> {
    let path = clean(&action.path);
    let write = || -> io::Result<()> {
        let mode = action.mode as u32 & 0o777;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        let fd = root.open(&path, flags, Mode::from_raw_mode(mode))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(&action.data)?;
        let owner = maker.ownership(action.timestamp);
        rustix::fs::fchown(
            &file,
            Some(rustix::fs::Uid::from_raw(owner.uid)),
            Some(rustix::fs::Gid::from_raw(owner.gid)),
        )?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        if let Some(nanoseconds) = owner.mtime {
            let stamp = std::time::UNIX_EPOCH
                + std::time::Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
            file.set_modified(stamp)?;
        }
        Ok(())
    };
    write().map_err(failed("write", &path))
}

/// Makes a symbolic link; fails when something is there.
pub(crate) fn symlink(
    root: &Root,
    action: &pb::FileActionSymlink,
    maker: Maker,
) -> Result<(), FileActionError> {
    let path = clean(&action.newpath);
    let make = || -> io::Result<()> {
        let place = root.place(&path)?;
        rustix::fs::symlinkat(action.oldpath.as_str(), place.parent.as_fd(), place.name.as_str())?;
        maker.ownership(action.timestamp).apply(place.parent.as_fd(), &place.name)
    };
    make().map_err(failed("symlink", &path))
}

/// Removes a path with everything below it. The last component is never followed.
pub(crate) fn remove(root: &Root, action: &pb::FileActionRm) -> Result<(), FileActionError> {
    let paths = if action.allowWildcard {
        wildcard::expand(root, &clean(&action.path)).map_err(failed("remove", &action.path))?
    } else {
        vec![clean(&action.path)]
    };
    for path in paths {
        if path == "/" {
            return Err(FileActionError::EmptyPath("rm"));
        }
        let place = match root.place(&path) {
            Ok(place) => place,
            Err(error) if is_absent(&error) && action.allowNotFound => continue,
            Err(error) => return Err(failed("remove", &path)(error)),
        };
        if !action.allowNotFound {
            let there = root.stat(&path, false).map_err(failed("remove", &path))?;
            if there.is_none() {
                let source = io::Error::from(io::ErrorKind::NotFound);
                return Err(FileActionError::Io { action: "remove", path, source });
            }
        }
        place.parent.remove(place.name.as_ref()).map_err(failed("remove", &path))?;
    }
    Ok(())
}

/// Copies from `source` to `target`, which takes over what it can of an earlier copy.
pub(crate) fn copy(
    source: &Root,
    target: &Root,
    action: &pb::FileActionCopy,
    maker: Maker,
    ids: cofferdam_store::IdRange,
    copying: Option<&Copying>,
) -> Result<(), FileActionError> {
    if !action.createDestPath
        && !require_parent(target, &action.dest).map_err(failed("stat", &action.dest))?
    {
        return Err(FileActionError::NoParent(action.dest.clone()));
    }
    let options = CopyOptions {
        owner: maker.owner,
        parents: maker.root,
        mtime: time(action.timestamp),
        mode: mode_of(action)?,
        selection: Selection::new(&action.include_patterns, &action.exclude_patterns)?,
        contents: action.dirCopyContents,
        follow: action.followSymlink,
        replace: action.alwaysReplaceExistingDestPaths,
    };
    let wanted = clean(&action.src);
    let paths = if action.allowWildcard {
        wildcard::expand(source, &wanted).map_err(failed("read", &wanted))?
    } else {
        vec![wanted.clone()]
    };
    if paths.is_empty() && !action.allowEmptyWildcard {
        return Err(FileActionError::NotFound(wanted));
    }
    for path in paths {
        if action.attemptUnpackDockerCompatibility
            && unpack::try_unpack(source, &path, target, &action.dest, &options, maker, ids)?
        {
            continue;
        }
        // Links are kept within one copy: the next may put something else where this one's files are.
        let mut copier = Copier::new(source, target, &options).noting(copying);
        copier.copy(&path, &action.dest).map_err(failed("copy", &path))?;
    }
    Ok(())
}

fn mode_of(action: &pb::FileActionCopy) -> Result<ModeChange, ParseModeError> {
    if !action.modeStr.is_empty() {
        ModeChange::parse(&action.modeStr)
    } else if action.mode == -1 {
        Ok(ModeChange::Keep)
    } else {
        Ok(ModeChange::Set(action.mode as u32 & 0o7777))
    }
}

/// Writes a new file from `content`.
pub(crate) fn mkfile_from(
    root: &Root,
    path: &str,
    content: &mut impl io::Read,
    mode: u32,
    timestamp: i64,
    maker: Maker,
) -> Result<(), FileActionError> {
    let path = clean(path);
    let mut write = || -> io::Result<()> {
        let place = root.place(&path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(
            place.parent.as_fd(),
            place.name.as_str(),
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?;
        io::copy(content, &mut std::fs::File::from(fd))?;
        maker.ownership(timestamp).apply(place.parent.as_fd(), &place.name)?;
        chmod(place.parent.as_fd(), &place.name, mode)?;
        maker.ownership(timestamp).apply_time(place.parent.as_fd(), &place.name)
    };
    write().map_err(failed("write", &path))
}

/// Copies the children of `source` into `target`, optionally under another owner (ids on disk) and
/// with another modification time (nanoseconds), which the target itself gets too.
pub(crate) fn copy_everything(
    source: &Root,
    target: &Root,
    owner: Option<(u32, u32)>,
    mtime: Option<i64>,
) -> io::Result<()> {
    let options = CopyOptions {
        owner,
        // Every directory comes from the source; none is made on the way.
        parents: owner.unwrap_or((0, 0)),
        mtime,
        replace: true,
        ..CopyOptions::everything()
    };
    Copier::new(source, target, &options).copy("/", "/")?;
    mtime.map_or(Ok(()), |time| set_mtime(target.as_fd(), ".", time))
}

/// The difference of two unrelated trees as one layer: what `upper` adds or changes, and
/// whiteouts of what it lacks.
pub(crate) fn difference(
    store: &std::sync::Arc<cofferdam_store::Store>,
    lower: &cofferdam_store::Tree,
    upper: &cofferdam_store::Tree,
) -> Result<cofferdam_store::Tree, crate::failure::Failure> {
    difference::make(store, lower, upper)
}

/// A layer that was made on `lower` in a form that can be put on other layers: without what is the
/// same in `lower`, and with whiteouts in place of directories that hide.
pub(crate) fn remake(
    store: &std::sync::Arc<cofferdam_store::Store>,
    lower: &cofferdam_store::Tree,
    layer: &cofferdam_store::Layer,
) -> Result<cofferdam_store::Tree, crate::failure::Failure> {
    difference::remake(store, lower, layer)
}

/// Whether a layer that was made on `lower` holds something that is the same there.
pub(crate) fn repeats(
    lower: &cofferdam_store::Tree,
    layer: &cofferdam_store::Layer,
) -> Result<bool, crate::failure::Failure> {
    difference::repeats(lower, layer)
}

/// Whether one path component matches a pattern component.
pub(crate) fn matches_name(pattern: &str, name: &str) -> bool {
    wildcard::matches_name(pattern.as_bytes(), name.as_bytes())
}
