//! Reading a backup: every file's digest is computed, and what was wanted of it is written into a data directory of its own.
//!
//! No server takes a directory that was not filled to the end: its layout says so until then. What a failed restore wrote is
//! removed again, since the directory was empty before; while any of it stays, so does the mark.

use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::files::{Beneath, LOGS, RECORDS, REGISTRY, pour};
use super::manifest::{Entry, List, Manifest};
use super::{BackupError, Summary, failed, is_empty};
use crate::layout::SERVER;
use crate::start::DataDir;

/// The lock of a data directory: all that an empty one may have.
const LOCK: &str = "lock";
/// The version of a data directory, which says that one is being filled.
const MARK: &str = "layout";

/// Reads all of a backup and tells what it is.
///
/// # Errors
/// It is none, is damaged, or a newer program made it.
pub fn verify(backup: &Path) -> Result<Summary, BackupError> {
    let opened = Opened::open(backup)?;
    opened.read(None)?;
    Ok(opened.manifest.summary())
}

/// Restores a backup into a data directory that is empty or not there yet.
///
/// # Errors
/// The backup is none, is damaged, or a newer program made it; the directory has something in it, or a server has it. Then the
/// directory is as empty as it was, or marked as unfinished where something cannot be removed.
pub fn restore(backup: &Path, data_dir: &Path) -> Result<Summary, BackupError> {
    let opened = Opened::open(backup)?;
    // One with a lock may be a running server's, which is said instead.
    if data_dir.join(LOCK).exists() || is_empty(data_dir, &[])? {
        let _taken = DataDir::take(data_dir)?;
        if is_empty(data_dir, &[LOCK])? {
            opened.fill(data_dir)?;
            return Ok(opened.manifest.summary());
        }
    }
    Err(BackupError::NotEmpty { path: data_dir.to_owned() })
}

/// A backup that this program can read.
struct Opened<'a> {
    path: &'a Path,
    beneath: Beneath,
    manifest: Manifest,
}

impl<'a> Opened<'a> {
    fn open(path: &'a Path) -> Result<Self, BackupError> {
        let beneath = Beneath::open(path).map_err(failed("open the backup", path))?;
        let manifest = Manifest::read(path, &beneath)?;
        Ok(Self { path, beneath, manifest })
    }

    fn fill(&self, data_dir: &Path) -> Result<(), BackupError> {
        SERVER.filling(data_dir)?;
        let filled = self.fill_marked(data_dir);
        if filled.is_err() {
            // The first error is the one that matters.
            clear(data_dir);
        }
        filled
    }

    fn fill_marked(&self, data_dir: &Path) -> Result<(), BackupError> {
        let to = Beneath::open(data_dir).map_err(failed("open", data_dir))?;
        self.read(Some((data_dir, &to)))?;
        // A server's data has it also when no build has written anything.
        let logs = data_dir.join(LOGS);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&logs);
        made.map_err(failed("create", &logs))?;
        to.sync().map_err(failed("write to the disk", data_dir))?;
        Ok(SERVER.filled(data_dir, self.manifest.layout)?)
    }

    /// Reads every file, into a directory where there is one.
    fn read(&self, to: Option<(&Path, &Beneath)>) -> Result<(), BackupError> {
        let (mut files, mut bytes) = (0_u64, 0_u64);
        let mut records = false;
        for entry in List::open(self.path, &self.beneath, &self.manifest)? {
            let entry = entry?;
            match to {
                None => self.read_one(&entry, &mut io::sink())?,
                Some((path, to)) => {
                    let write = failed("write in", path);
                    self.read_one(&entry, &mut to.create(&entry.path).map_err(write)?)?;
                }
            }
            files += 1;
            bytes = bytes.saturating_add(entry.bytes);
            records |= entry.path == RECORDS;
        }
        let whole = records && (files, bytes) == (self.manifest.files, self.manifest.bytes);
        let why = "does not name what the manifest says";
        if whole { Ok(()) } else { Err(BackupError::Damaged { file: "files".to_owned(), why }) }
    }

    fn read_one(&self, entry: &Entry, to: &mut dyn Write) -> Result<(), BackupError> {
        let damaged = |why| BackupError::Damaged { file: entry.path.clone(), why };
        let place = self.path.join(&entry.path);
        let opened = self.beneath.file(&entry.path).map_err(failed("open", &place))?;
        let file = opened.ok_or_else(|| damaged("is missing"))?;
        // One more than there should be is enough to tell.
        let most = entry.bytes.saturating_add(1);
        let (digest, bytes) =
            pour(file.take(most), to, entry.digest.algorithm()).map_err(failed("copy", &place))?;
        if digest != entry.digest || bytes != entry.bytes {
            return Err(damaged("has other content than its digest says"));
        }
        Ok(())
    }
}

/// Removes what a failed restore wrote. While anything stays, so does the mark that no server passes.
fn clear(data_dir: &Path) {
    // The last that a restore does may have taken it away already.
    SERVER.filling(data_dir).ok();
    for place in [LOGS, REGISTRY] {
        std::fs::remove_dir_all(data_dir.join(place)).ok();
    }
    for file in [RECORDS, "layout.part"] {
        std::fs::remove_file(data_dir.join(file)).ok();
    }
    if matches!(is_empty(data_dir, &[LOCK, MARK]), Ok(true)) {
        std::fs::remove_file(data_dir.join(MARK)).ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::layout::LayoutError;

    #[test]
    fn what_stays_of_a_failed_restore_is_nobodys_data() {
        let dir = tempfile::tempdir().unwrap();
        SERVER.filled(dir.path(), SERVER.known()).unwrap();
        // A directory cannot be removed as the file that was meant.
        std::fs::create_dir(dir.path().join(RECORDS)).unwrap();
        std::fs::create_dir(dir.path().join(LOGS)).unwrap();
        clear(dir.path());
        assert!(!dir.path().join(LOGS).exists());
        let left = SERVER.expect(dir.path()).unwrap_err();
        assert!(matches!(left, LayoutError::Unfinished { .. }), "{left}");
        std::fs::remove_dir(dir.path().join(RECORDS)).unwrap();
        clear(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
