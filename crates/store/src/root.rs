//! The store's directory: its parts as descriptors, its lock, and names below it.
//!
//! Names given to this module are made by this crate (numbers, digests); even so they are
//! resolved by the kernel beneath a part's descriptor and links are refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::OpenError;

/// `st_blocks` counts in these units whatever the file system's block size.
pub(crate) const STAT_BLOCK: u64 = 512;

/// The lock file holds a process id; more is not ours.
const LOCK_TEXT_MAX: u64 = 32;

/// The lock on a root, held for as long as this lives.
pub(crate) struct RootLock {
    file: File,
    /// Whether the last store here was closed with everything on disk.
    pub(crate) was_clean: bool,
}

impl RootLock {
    /// Notes that everything is on disk.
    pub(crate) fn mark_clean(&self) {
        let _ = self.file.set_len(0);
    }
}

impl Drop for RootLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that was just forked for something else holds the same
        // open file until it executes its program.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// The parts of the root directory. All are on one file system, so moves between them are
/// renames.
pub(crate) struct Root {
    path: PathBuf,
    /// The root itself.
    pub(crate) top: OwnedFd,
    /// Durable blobs by digest.
    pub(crate) content: OwnedFd,
    /// Complete blobs whose bytes may not have reached the disk yet.
    pub(crate) fresh: OwnedFd,
    /// Blobs under way.
    pub(crate) ingest: OwnedFd,
    /// Committed layers.
    pub(crate) layers: OwnedFd,
    /// Layers being made.
    pub(crate) active: OwnedFd,
    /// Cache mounts and mirrors.
    pub(crate) mutable: OwnedFd,
    /// What waits for deletion.
    pub(crate) trash: OwnedFd,
    /// Mount points of old kernels' fallback.
    pub(crate) mounts: OwnedFd,
    /// A directory that stays empty.
    pub(crate) empty: OwnedFd,
}

impl Root {
    /// Creates what is missing and takes the lock.
    pub(crate) fn prepare(path: &Path) -> Result<(Self, RootLock), OpenError> {
        let failed = |attempt| {
            move |source: io::Error| OpenError::Prepare { root: path.to_owned(), attempt, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("create it"))?;
        let path = path.canonicalize().map_err(failed("resolve its path"))?;
        let top = File::open(&path).map_err(failed("open it"))?;
        // An existing directory may be readable by others: layers hold files of step users.
        top.set_permissions(std::fs::Permissions::from_mode(0o700))
            .map_err(failed("make it private"))?;
        let top = OwnedFd::from(top);
        let lock = take_lock(&path, top.as_fd(), failed("lock it"))?;
        let part = |name: &str| part(top.as_fd(), name).map_err(failed("create its parts"));
        let root = Self {
            content: part("content")?,
            fresh: part("fresh")?,
            ingest: part("ingest")?,
            layers: part("layers")?,
            active: part("active")?,
            mutable: part("mutable")?,
            trash: part("trash")?,
            mounts: part("mounts")?,
            empty: part("empty")?,
            path,
            top,
        };
        Ok((root, lock))
    }

    /// The root's absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn part(top: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    make_directory(top, name)?;
    Ok(open_directory(top, name)?)
}

fn take_lock(
    path: &Path,
    top: BorrowedFd<'_>,
    failed: impl Fn(io::Error) -> OpenError,
) -> Result<RootLock, OpenError> {
    let flags = OFlags::RDWR | OFlags::CREATE;
    let file = File::from(open(top, "lock", flags).map_err(|errno| failed(errno.into()))?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let known = file.take(LOCK_TEXT_MAX).read_to_string(&mut holder).is_ok();
            if !known || holder.is_empty() {
                "unknown".clone_into(&mut holder);
            }
            return Err(OpenError::Locked { root: path.to_owned(), holder });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    let was_clean = file.metadata().is_ok_and(|lock| lock.len() == 0);
    // On a full disk the store opens without it, because nothing else could make room there.
    if let Err(error) = note_holder(&file) {
        tracing::warn!(%error, "cannot write who uses the store");
    }
    Ok(RootLock { file, was_clean })
}

/// Writes the process id over what is there, before anything is cut off: the file is empty only
/// while no store is open and the last one was closed in order.
fn note_holder(file: &File) -> io::Result<()> {
    let text = std::process::id().to_string();
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Opens the file `name` beneath `dir`; new files are private to the builder.
pub(crate) fn open(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, BENEATH)
}

/// Opens the directory `name` beneath `dir`.
pub(crate) fn open_directory(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    open(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Makes a directory that may exist already.
pub(crate) fn make_directory(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the directory `name` whose owner is `owner` on disk, mode 0755: what a container sees
/// as its root.
pub(crate) fn make_owned_directory(
    dir: BorrowedFd<'_>,
    name: &str,
    owner: u32,
) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    let fd = open_directory(dir, name)?;
    rustix::fs::fchown(
        &fd,
        Some(rustix::fs::Uid::from_raw(owner)),
        Some(rustix::fs::Gid::from_raw(owner)),
    )?;
    // After the change of owner and independent of the process's umask.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
    Ok(fd)
}

/// Moves an entry; the target must not exist.
pub(crate) fn rename_new(
    from: BorrowedFd<'_>,
    from_name: &str,
    to: BorrowedFd<'_>,
    to_name: &str,
) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(from, from_name, to, to_name, RenameFlags::NOREPLACE)
}

/// The size of the regular file `name`, if there is one.
pub(crate) fn file_size(dir: BorrowedFd<'_>, name: &str) -> Option<u64> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    (kind == rustix::fs::FileType::RegularFile).then_some(stat.st_size.unsigned_abs())
}

/// What the entry `name` itself takes on disk, in bytes; 0 when there is none.
pub(crate) fn disk_size(dir: BorrowedFd<'_>, name: &str) -> u64 {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.map_or(0, |stat| stat.st_blocks.unsigned_abs() * STAT_BLOCK)
}

/// Deletes the file `name`; it may be gone already.
pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Times this far ahead are of a clock that was set back since.
const AHEAD: std::time::Duration = std::time::Duration::from_secs(60 * 60);

/// How long ago the file `name` was last written; `None` when it is gone.
pub(crate) fn age(dir: BorrowedFd<'_>, name: &str) -> Option<std::time::Duration> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let written = std::time::Duration::from_secs(u64::try_from(stat.st_mtime).ok()?);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    if written > now + AHEAD {
        // From before the clock was set back. Nobody writes to it, and it would stay for years.
        return Some(std::time::Duration::MAX);
    }
    Some(now.saturating_sub(written))
}
