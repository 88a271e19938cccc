//! What a step has written: the growth of the directories it may write to.
//!
//! Where the file system keeps no quota that an unprivileged builder could set, the directories are walked, again and again while
//! the step runs. The step changes them meanwhile and may be hostile: no link is followed, no path is used twice, descriptors and
//! time are bounded, and a tree that cannot be measured ends the step. Files that are deleted and still open are in no
//! directory; for those the builder's disk is watched as a whole.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::exec_limits::human_size;

/// Between two looks at least.
const INTERVAL: Duration = Duration::from_millis(200);
/// Between two looks at least so many times what the last one took: at most a twentieth of a processor is spent on it.
const REST: u32 = 20;
/// Directories below each other. Each costs a descriptor while it is walked; source trees have some dozen.
const MAX_DEPTH: usize = 400;
/// What a file costs besides its content: as much as a disk keeps about it.
const PER_FILE: u64 = 256;
/// `st_blocks` counts in these units whatever the file system's block size.
const STAT_BLOCK: u64 = 512;
/// Walks at the same time, all steps of this process together, for the sake of descriptors and the disk.
static WALKS: Semaphore = Semaphore::const_new(2);

/// Why a directory could not be measured.
#[derive(Debug, thiserror::Error)]
enum MeasureError {
    /// The step nests directories to escape being measured.
    #[error("directories are nested more than {MAX_DEPTH} deep")]
    Depth,
    /// The kernel refused.
    #[error("failed to read a directory")]
    Read(#[source] Errno),
}

/// A directory that a step may write to.
struct Place {
    directory: Arc<OwnedFd>,
    /// What was in it before.
    before: u64,
}

/// The directories a step may write to, and how much.
pub(super) struct Written {
    places: Vec<Place>,
    limit: Option<u64>,
}

impl Written {
    /// Begins to count at what is in `directories` now: `true` for those that are not empty. Blocking when there is a limit.
    pub(super) fn begin(limit: Option<u64>, directories: Vec<(OwnedFd, bool)>) -> Self {
        if limit.is_none() {
            return Self { places: Vec::new(), limit };
        }
        let places = directories.into_iter().map(|(directory, used)| {
            // What cannot be measured now will not be measurable later, and ends the step then.
            let before = if used { measure(&directory, u64::MAX).unwrap_or(0) } else { 0 };
            Place { directory: Arc::new(directory), before }
        });
        Self { places: places.collect(), limit }
    }

    /// Waits until more is written than may be, and says so; forever without a limit.
    pub(super) async fn too_much(&self) -> String {
        let Some(limit) = self.limit else { return std::future::pending().await };
        loop {
            let begun = Instant::now();
            if let Some(trouble) = self.look(limit).await {
                return trouble;
            }
            tokio::time::sleep((begun.elapsed() * REST).max(INTERVAL)).await;
        }
    }

    /// Whether the step has to be ended, and why. To be asked once more when it has ended by itself.
    pub(super) async fn trouble(&self) -> Option<String> {
        self.look(self.limit?).await
    }

    async fn look(&self, limit: u64) -> Option<String> {
        let mut total = 0_u64;
        for place in &self.places {
            let directory = Arc::clone(&place.directory);
            let enough = place.before.saturating_add(limit - total);
            // The semaphore is never closed.
            let walk = WALKS.acquire().await;
            let measured = tokio::task::spawn_blocking(move || measure(&directory, enough)).await;
            drop(walk);
            match measured {
                Ok(Ok(bytes)) => {
                    total = total.saturating_add(bytes.saturating_sub(place.before));
                }
                Ok(Err(error)) => {
                    return Some(format!(
                        "what the step writes cannot be measured, so it was ended: {error} (limits.step.disk)"
                    ));
                }
                // The builder is stopping.
                Err(_) => return None,
            }
            if total > limit {
                let limit = human_size(limit);
                return Some(format!(
                    "the step wrote more than {limit} to disk, which is its limit (limits.step.disk)"
                ));
            }
        }
        None
    }
}

/// Bytes on disk below `directory`, or a number above `enough` as soon as there are more.
fn measure(directory: &OwnedFd, enough: u64) -> Result<u64, MeasureError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(directory, c".", flags, Mode::empty());
    let mut levels = vec![Dir::new(top.map_err(MeasureError::Read)?).map_err(MeasureError::Read)?];
    let mut total = 0_u64;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.read() else {
            levels.pop();
            continue;
        };
        // A directory that was removed while it was read has no more entries.
        let Ok(entry) = entry else {
            levels.pop();
            continue;
        };
        let name: CString = entry.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let at = level.fd().map_err(MeasureError::Read)?;
        total = total.saturating_add(size(at, &name));
        if total > enough {
            return Ok(total);
        }
        if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            continue;
        }
        // What is gone or no directory any more is not there to be measured.
        if let Some(below) = enter(at, &name)? {
            if levels.len() >= MAX_DEPTH {
                return Err(MeasureError::Depth);
            }
            levels.push(Dir::new(below).map_err(MeasureError::Read)?);
        }
    }
    Ok(total)
}

/// What one entry takes. A file with several names counts as a part at each, so that all together count it once.
fn size(at: BorrowedFd<'_>, name: &CStr) -> u64 {
    let Ok(stat) = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) else { return 0 };
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK);
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    // Directories count their subdirectories among their names.
    #[allow(clippy::useless_conversion, reason = "narrower on other machines")]
    let names = if directory { 1 } else { u64::from(stat.st_nlink).max(1) };
    blocks.saturating_add(PER_FILE) / names
}

fn enter(at: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, MeasureError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(at, name, flags, Mode::empty(), resolve) {
        Ok(below) => Ok(Some(below)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::AGAIN) => Ok(None),
        Err(errno) => Err(MeasureError::Read(errno)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn content_counts_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("large"), vec![1; 4 << 20]).unwrap();
        let empty = measure(&open(&inside), u64::MAX).unwrap();
        fs::write(inside.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        for number in 0..3 {
            fs::hard_link(inside.join("a/b/file"), inside.join(format!("name{number}"))).unwrap();
        }
        symlink(&outside, inside.join("a/link")).unwrap();
        symlink(outside.join("large"), inside.join("link")).unwrap();
        let grown = measure(&open(&inside), u64::MAX).unwrap() - empty;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&grown), "{grown}");
    }

    #[test]
    fn a_sparse_file_is_small_and_many_empty_ones_are_not_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert!(measure(&open(dir.path()), u64::MAX).unwrap() < 64 << 10);
        for number in 0..1000 {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        assert!(measure(&open(dir.path()), u64::MAX).unwrap() >= 1000 * PER_FILE);
    }

    #[test]
    fn depth_is_bounded_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = open(dir.path());
        for _ in 0..MAX_DEPTH + 1 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(at.as_fd(), "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let error = measure(&open(dir.path()), u64::MAX).unwrap_err();
        assert!(error.to_string().contains("nested"), "{error}");
        assert!(measure(&open(dir.path()), 1).is_ok(), "there is enough long before");
    }

    #[tokio::test]
    async fn growth_beyond_the_limit_is_seen_and_what_was_there_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("old"), vec![1; 2 << 20]).unwrap();
        let written = Written::begin(Some(1 << 20), vec![(open(dir.path()), true)]);
        assert_eq!(written.trouble().await, None);
        fs::write(dir.path().join("new"), vec![1; 2 << 20]).unwrap();
        assert!(written.trouble().await.unwrap().contains("limits.step.disk"));
        assert!(written.too_much().await.contains("1 MiB"));
        let free = Written::begin(None, vec![(open(dir.path()), true)]);
        assert_eq!(free.trouble().await, None);
    }
}
