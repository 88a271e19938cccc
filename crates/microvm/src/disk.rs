//! The store's disk: a sparse file that holds an ext4 file system, which only the guest ever mounts.
//!
//! The host makes the file system once and from then on never reads what is in it: a file system that a tenant may have written
//! is for the guest's kernel alone.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
/// When it cannot be made, or the directory holds something else.
pub(crate) fn prepare(directory: &Path, size: u64) -> Result<PathBuf, DiskError> {
    let path = directory.join(NAME);
    let failed = |source| DiskError::File { path: path.clone(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != NAME && name != PART {
            let found = name.to_string_lossy().into_owned();
            return Err(DiskError::Foreign { directory: directory.to_owned(), found });
        }
    }
    match fs::metadata(&path) {
        Ok(found) if found.len() < size => {
            // The guest makes the file system larger when it mounts it.
            let file = File::options().write(true).open(&path).map_err(failed)?;
            file.set_len(size).map_err(failed)?;
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let part = directory.join(PART);
            make(&part, size)?;
            fs::rename(&part, &path).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(path)
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
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_disk_is_made_once_and_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = prepare(dir.path(), LEAST).unwrap();
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
    fn the_store_of_another_level_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("content")).unwrap();
        let error = prepare(dir.path(), LEAST).unwrap_err();
        assert!(matches!(error, DiskError::Foreign { .. }), "{error}");
        assert!(!dir.path().join(NAME).exists());
    }
}
