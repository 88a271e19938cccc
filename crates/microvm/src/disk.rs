//! The store's disk: a sparse file that holds an ext4 file system, which only the guest ever mounts.
//!
//! The host makes the file system once and from then on never reads what is in it: a file system that a tenant may have written
//! is for the guest's kernel alone.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The name of the disk in the store's directory.
pub(crate) const NAME: &str = "disk";
/// A disk in the making.
const PART: &str = "disk.part";

/// Smallest disk: a file system with a journal, a kernel's worth of layers and little more.
pub const LEAST: u64 = 256 << 20;
/// Size when nothing is said. It is a bound: blocks that were never written take no space on the host.
pub const DEFAULT: u64 = 64 << 30;

/// Makes file systems.
pub(crate) const MKFS: &str = "mkfs.ext4";
/// Where it is looked for.
pub(crate) const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin";
/// Longest message of mkfs that is passed on.
const MAX_MESSAGE: u64 = 2000;

/// How long a machine that was killed may still have the disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The disk of one machine. No other machine can have it until this is dropped: a file system that two kernels mount is lost.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    _held: File,
}

/// The disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be made or changed.
    #[error("make the disk {path}")]
    File {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another machine has it.
    #[error("{path} belongs to a virtual machine that runs: use another root directory")]
    Busy {
        /// The disk.
        path: PathBuf,
    },
    /// mkfs.ext4 is missing.
    #[error("run {MKFS}: install e2fsprogs")]
    Program(#[source] std::io::Error),
    /// mkfs.ext4 failed.
    #[error("make a file system on {path}: {message}")]
    FileSystem {
        /// The disk.
        path: PathBuf,
        /// What mkfs.ext4 said.
        message: String,
    },
    /// The directory has been used without a virtual machine.
    #[error(
        "{directory} holds the store of a builder without a virtual machine ({found}): use another root directory"
    )]
    Foreign {
        /// The store's directory.
        directory: PathBuf,
        /// What is there.
        found: String,
    },
}

/// The disk in `directory`, made when there is none and grown when it is smaller than `size`; it never shrinks.
///
/// # Errors
///
/// When it cannot be made, another machine has it, or the directory holds something else.
pub(crate) fn prepare(directory: &Path, size: u64) -> Result<Disk, DiskError> {
    let path = directory.join(NAME);
    let failed = |source| DiskError::File { path: path.clone(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != NAME && name != PART {
            let found = name.to_string_lossy().into_owned();
            return Err(DiskError::Foreign { directory: directory.to_owned(), found });
        }
    }
    let file = match open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let part = directory.join(PART);
            make(&part, size)?;
            fs::rename(&part, &path).map_err(failed)?;
            // What a guest will soon rely on keeps its name whatever happens to this machine.
            File::open(directory).and_then(|dir| dir.sync_all()).map_err(failed)?;
            open(&path)
        }
        found => found,
    }
    .map_err(failed)?;
    match hold(&file, PATIENCE) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(DiskError::Busy { path }),
        Err(error) => return Err(failed(error.into())),
    }
    if file.metadata().map_err(failed)?.len() < size {
        // The guest makes the file system larger when it mounts it.
        file.set_len(size).map_err(failed)?;
    }
    Ok(Disk { path, _held: file })
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Takes a disk for this process alone, waiting a while for another to let it go. Monitors have locks of their own kind or none.
fn hold(file: &File, patience: Duration) -> Result<(), Errno> {
    let deadline = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn make(path: &Path, size: u64) -> Result<(), DiskError> {
    let failed = |source| DiskError::File { path: path.to_owned(), source };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    let mut child = Command::new(MKFS)
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-L",
            "store",
            "-E",
            "nodiscard,lazy_itable_init=1,root_owner=0:0",
        ])
        .arg(path)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(DiskError::Program)?;
    let mut message = String::new();
    if let Some(said) = child.stderr.take() {
        said.take(MAX_MESSAGE).read_to_string(&mut message).ok();
    }
    let status = child.wait().map_err(DiskError::Program)?;
    if !status.success() {
        let message = message.trim().to_owned();
        return Err(DiskError::FileSystem { path: path.to_owned(), message });
    }
    file.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_disk_is_made_once_and_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = prepare(dir.path(), LEAST).unwrap().path;
        let magic = |path: &Path| fs::read(path).map(|bytes| bytes[1024 + 56..1024 + 58].to_vec());
        assert_eq!(magic(&path).unwrap(), [0x53, 0xef]);
        let found = fs::metadata(&path).unwrap();
        assert!(found.blocks() * 512 < LEAST / 8, "the file is not sparse");
        assert_eq!(found.mode() & 0o777, 0o600);
        prepare(dir.path(), 2 * LEAST).unwrap();
        prepare(dir.path(), LEAST).unwrap();
        let grown = fs::metadata(&path).unwrap();
        assert_eq!((grown.len(), grown.ino()), (2 * LEAST, found.ino()));
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [NAME]);
    }

    #[test]
    fn a_disk_has_one_machine() {
        let dir = tempfile::tempdir().unwrap();
        let disk = prepare(dir.path(), LEAST).unwrap();
        let other = open(&disk.path).unwrap();
        assert_eq!(hold(&other, Duration::ZERO), Err(Errno::WOULDBLOCK));
        drop(disk);
        assert_eq!(hold(&other, Duration::ZERO), Ok(()));
    }

    #[test]
    fn the_store_of_another_level_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("content")).unwrap();
        let error = prepare(dir.path(), LEAST).unwrap_err();
        assert!(matches!(error, DiskError::Foreign { .. }), "{error}");
        assert!(!dir.path().join(NAME).exists());
    }
}
