//! System calls on entries of one directory, each through its descriptor.
//!
//! Names here are single components and never followed; whole paths resolve beneath a root and
//! through no symlink at all. Nothing in this module joins paths.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::UTIME_OMIT;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

/// Opens `path` beneath `root`; a symlink anywhere in it is an error. The empty path is `root`.
pub(super) fn open_beneath(
    root: impl AsFd,
    path: &str,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            // The kernel asks for another try when a rename raced with the resolution.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Opens the directory `path` beneath `root`.
pub(super) fn open_dir(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens the directory `name` in `dir`.
pub(super) fn open_child_dir(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens the directory `path` beneath `root` as a place to make and rename entries in, for which it need not be readable.
pub(super) fn open_place(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    open_beneath(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Makes the file `name` in `dir`, where nothing of that name may be, and opens it for writing.
pub(super) fn create_child_file(dir: impl AsFd, name: &str, mode: Mode) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(&dir, name, flags, mode))?)
}

/// The entry `name` of `dir`, or `None`.
pub(super) fn stat(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An entry as a directory lists it.
pub(super) struct Listed {
    pub(super) name: CString,
    pub(super) kind: FileType,
}

/// Every entry of `dir` except the dots, in no order.
pub(super) fn list(dir: impl AsFd) -> io::Result<Vec<Listed>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            entries.push(Listed { name: entry.file_name().to_owned(), kind: entry.file_type() });
        }
    }
    Ok(entries)
}

/// Deletes `name` in `dir` with everything below it; absent is fine.
pub(super) fn remove(dir: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<()> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let child = open_child_dir(&dir, name)?;
    for entry in list(&child)? {
        remove(&child, entry.name.as_c_str())?;
    }
    Ok(rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?)
}

/// Modification time in nanoseconds since 1970.
#[allow(clippy::unnecessary_cast, reason = "field types differ between architectures")]
pub(super) fn mtime(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + stat.st_mtime_nsec as i128
}

/// Times that set the modification and leave the access time alone.
pub(super) fn times(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime.div_euclid(1_000_000_000),
            tv_nsec: mtime.rem_euclid(1_000_000_000),
        },
    }
}

/// Whether an extended attribute may be kept: user data only, and none that an overlay reads.
pub(super) fn is_portable_xattr(name: &str) -> bool {
    name.starts_with("user.") && !name.starts_with("user.overlay.") && name.len() <= 255
}
