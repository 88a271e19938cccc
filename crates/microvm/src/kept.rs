//! Files that are made for machines and kept in a directory, by a digest of what they were made of.
//!
//! It knows nothing of what is in them, and never leaves one under its name that is not whole.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;

/// Characters of a digest that tell files apart.
const NAME: usize = 24;
/// Age of an unfinished file that nobody writes any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The file of `identity` in `directory`, made by `make` when it is not there; files of other identities are removed, and what
/// killed processes left of them.
pub(crate) fn keep<E>(
    directory: &Path,
    prefix: &str,
    identity: &str,
    make: impl FnOnce(&Path) -> Result<(), E>,
    failed: impl FnOnce(PathBuf, io::Error) -> E,
) -> Result<PathBuf, E> {
    let name = format!("{prefix}{}", identity.get(..NAME).unwrap_or(identity));
    let path = directory.join(&name);
    if !path.is_file() {
        let part = directory.join(format!(".{name}.{}", std::process::id()));
        let made = make(&part)
            .and_then(|()| fs::rename(&part, &path).map_err(|error| failed(path.clone(), error)));
        if made.is_err() {
            fs::remove_file(&part).ok();
        }
        made?;
    }
    sweep(directory, prefix, &name);
    Ok(path)
}

/// An empty file that the machine's process, which has ids of its own, can read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    // Whatever mask this process was started with.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    Ok(file)
}

fn sweep(directory: &Path, prefix: &str, kept: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let other = name.starts_with(prefix) && name != kept;
        let part = name.strip_prefix('.').is_some_and(|rest| rest.starts_with(prefix));
        if other || (part && is_abandoned(&entry)) {
            // The next start tries again.
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Whether nothing was written to a file for long: another supervisor may be at work on it.
fn is_abandoned(entry: &fs::DirEntry) -> bool {
    let written = entry.metadata().and_then(|found| found.modified());
    written.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;

    fn kept(directory: &Path, identity: &str) -> Result<PathBuf, io::Error> {
        let make = |part: &Path| fs::write(part, identity);
        keep(directory, "file-", identity, make, |_, error| error)
    }

    #[test]
    fn what_killed_processes_left_is_swept_and_what_is_being_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        let old = File::create(dir.path().join(".file-old.1")).unwrap();
        old.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        let foreign = File::create(dir.path().join(".other-old.1")).unwrap();
        foreign.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        fs::write(dir.path().join(".file-new.2"), "").unwrap();
        fs::write(dir.path().join("file-other"), "").unwrap();
        let path = kept(dir.path(), "identity").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "identity");
        assert!(!there(".file-old.1") && !there("file-other"));
        assert!(there(".file-new.2") && there(".other-old.1"));
    }

    #[test]
    fn others_can_read_what_is_made() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // As one that another mask had narrowed.
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        let made = create(&path).unwrap();
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let make = |part: &Path| {
            fs::write(part, "half").unwrap();
            Err(io::ErrorKind::StorageFull.into())
        };
        let made: Result<PathBuf, io::Error> =
            keep(dir.path(), "file-", "identity", make, |_, error| error);
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
