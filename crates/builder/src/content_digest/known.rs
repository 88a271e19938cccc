//! Digests of files that were read before, for the mirrors of clients' directories.
//!
//! A mirror is looked at in every build and mostly has what it had. A file there is not read again
//! while its inode, size and both times are the same. No process can set the time at which an inode changed (`ctime`):
//! whoever writes to a file, or changes its mode, owner or attributes, gives it the present one. The
//! digest of a file is therefore remembered only when that time had certainly passed as its reading began:
//! a change in the same tick of the clock would not show. Never more than a fixed number is known; what is known
//! of a mirror is kept beside it for the next builder, see [`super::kept`].

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_store::IdRange;
use rustix::fs::Stat;
use rustix::time::{ClockId, clock_gettime};

use super::kept::{Entry, Kept};

/// Files of all mirrors together; each takes about 100 bytes.
const MAX_FILES: usize = 500_000;
/// Mirrors of which anything is known.
const MAX_MIRRORS: usize = 1024;
/// Selections of one mirror whose digests are known.
const MAX_SELECTIONS: usize = 256;
const SECOND: i128 = 1_000_000_000;
/// Longer than any tick of a clock that files get their times from (10 ms at most).
const TICK: i128 = SECOND / 10;
/// The same for file systems that keep whole seconds, or two.
const COARSE_TICK: i128 = 3 * SECOND;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The present in nanoseconds, by the clock that the kernel takes the times of files from.
pub(crate) fn now() -> i128 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec)
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    /// In bytes.
    pub(super) size: u64,
    /// Seconds and nanoseconds of the last change of the content, as somebody may have set it.
    pub(super) modified: (i64, u32),
    /// Those of the last change of anything.
    pub(super) changed: (i64, u32),
}

impl Stamp {
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "field types differ between architectures; nanoseconds are below a second"
    )]
    /// The present state.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            size: stat.st_size as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }

    /// Whether a change at `now` or later gives the file another stamp.
    pub(crate) fn has_passed(&self, now: i128) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let tick = if nanoseconds == 0 { COARSE_TICK } else { TICK };
        i128::from(seconds) * SECOND + i128::from(nanoseconds) + tick < now
    }
}

#[allow(clippy::unnecessary_cast, reason = "field types differ between architectures")]
fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// Digests of files by device and inode.
struct Table {
    files: Mutex<HashMap<(u64, u64), (Stamp, Digest)>>,
    /// Digests of what was selected of the mirror as it is, by the names of the selections.
    whole: Mutex<HashMap<Digest, Digest>>,
    /// Files of all mirrors, shared by these.
    total: Arc<AtomicUsize>,
    max: usize,
    /// Whether there was no room for one.
    overflowed: AtomicBool,
    /// Whether it has something that is not kept.
    changed: AtomicBool,
    /// Held by who keeps it.
    saving: Mutex<()>,
}

impl Table {
    fn insert(&self, inode: (u64, u64), stamp: Stamp, digest: Digest) {
        let mut files = lock(&self.files);
        if let Some(known) = files.get_mut(&inode) {
            *known = (stamp, digest);
        } else if self.total.fetch_add(1, Ordering::Relaxed) < self.max {
            files.insert(inode, (stamp, digest));
        } else {
            self.total.fetch_sub(1, Ordering::Relaxed);
            self.overflowed.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let count = lock(&self.files).len();
        self.total.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What is known of the files of one mirror. All digests are made with the ids of one store.
pub(crate) struct KnownFiles {
    table: Arc<Table>,
    /// Where it is kept for the next builder.
    kept: Option<Kept>,
}

impl KnownFiles {
    /// The digest of a file that is as it was.
    pub(super) fn digest(&self, stat: &Stat) -> Option<Digest> {
        let files = lock(&self.table.files);
        let (stamp, digest) = files.get(&inode(stat))?;
        (*stamp == Stamp::of(stat)).then_some(*digest)
    }

    /// Remembers the digest of a file that was `stat` before its content was read. `started` is [`now`] as it
    /// was before that.
    pub(super) fn remember(&self, stat: &Stat, started: i128, digest: Digest) {
        let stamp = Stamp::of(stat);
        if !stamp.has_passed(started) {
            return;
        }
        self.table.insert(inode(stat), stamp, digest);
        self.table.changed.store(true, Ordering::Relaxed);
    }

    /// The digest of a selection of the mirror, if nothing in it has changed since that was found out.
    pub(crate) fn whole(&self, selection: &Digest) -> Option<Digest> {
        lock(&self.table.whole).get(selection).copied()
    }

    /// Remembers that digest, until [`KnownFiles::forget_whole`].
    pub(crate) fn remember_whole(&self, selection: Digest, digest: Digest) {
        let mut whole = lock(&self.table.whole);
        if whole.len() < MAX_SELECTIONS {
            whole.insert(selection, digest);
        }
    }

    /// To be called when a transfer changed anything in the mirror, before anybody looks at it. Only transfers do.
    pub(crate) fn forget_whole(&self) {
        lock(&self.table.whole).clear();
    }

    /// Whether something was found out that is not kept for the next builder.
    pub(crate) fn has_news(&self) -> bool {
        self.kept.is_some() && self.table.changed.load(Ordering::Relaxed)
    }

    /// Keeps for the next builder what was found out since that was done last. All that is known is written: to be called
    /// once, when a build is done with the mirror, and while the store is open, before the next builder reads it. *Blocking.*
    pub(crate) fn save(&self) {
        let Some(kept) = &self.kept else { return };
        let _saving = lock(&self.table.saving);
        if !self.table.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let saved = kept.device().and_then(|device| {
            let files = lock(&self.table.files);
            let here = files.iter().filter(|((on, _), _)| *on == device);
            let entries: Vec<Entry> =
                here.map(|((_, inode), (stamp, digest))| (*inode, *stamp, *digest)).collect();
            drop(files);
            kept.save(&entries)
        });
        if let Err(error) = saved {
            tracing::debug!(%error, "digests of a mirror cannot be kept");
        }
    }
}

/// What is known of the files of all mirrors.
pub(crate) struct KnownMirrors {
    /// The one used last is the last.
    mirrors: Mutex<VecDeque<(String, Arc<Table>)>>,
    total: Arc<AtomicUsize>,
    max: usize,
}

impl Default for KnownMirrors {
    fn default() -> Self {
        Self::with_room_for(MAX_FILES)
    }
}

impl KnownMirrors {
    fn with_room_for(max: usize) -> Self {
        Self { mirrors: Mutex::default(), total: Arc::default(), max }
    }

    /// What is known of the mirror with this id, which never names another one. Those that were
    /// used longest ago make room.
    pub(crate) fn of(&self, id: &str) -> Arc<KnownFiles> {
        Arc::new(KnownFiles { table: self.table(id).0, kept: None })
    }

    /// The same with what an earlier builder knew, and kept for the next one. `state` is a directory that is the
    /// mirror's own, `ids` are those of its store. Nothing of it is believed after a builder that was killed: a write that failed
    /// while nobody ran would show in no time of a file. *Blocking.*
    pub(crate) fn of_kept(
        &self,
        id: &str,
        state: OwnedFd,
        ids: IdRange,
        believed: bool,
    ) -> Arc<KnownFiles> {
        let (table, is_new) = self.table(id);
        let kept = Kept::new(state, ids);
        if is_new
            && believed
            && let Ok(device) = kept.device()
        {
            for (inode, stamp, digest) in kept.load() {
                table.insert((device, inode), stamp, digest);
            }
        }
        Arc::new(KnownFiles { table, kept: Some(kept) })
    }

    /// The table of a mirror, and whether nothing was known of it.
    fn table(&self, id: &str) -> (Arc<Table>, bool) {
        let mut mirrors = lock(&self.mirrors);
        let place = mirrors.iter().position(|(known, _)| known == id);
        let known = place.and_then(|place| mirrors.remove(place)).map(|(_, known)| known);
        let is_new = known.is_none();
        // Where there was no room, most may be of files that are gone.
        let known = known.filter(|known| !known.overflowed.load(Ordering::Relaxed));
        let known = known.unwrap_or_else(|| {
            Arc::new(Table {
                files: Mutex::default(),
                whole: Mutex::default(),
                total: Arc::clone(&self.total),
                max: self.max,
                overflowed: AtomicBool::new(false),
                changed: AtomicBool::new(false),
                saving: Mutex::default(),
            })
        });
        mirrors.push_back((id.to_owned(), Arc::clone(&known)));
        let is_tight = || self.total.load(Ordering::Relaxed) > self.max - self.max / 4;
        while mirrors.len() > 1 && (is_tight() || mirrors.len() > MAX_MIRRORS) {
            mirrors.pop_front();
        }
        (known, is_new)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    /// As if the file had been made long ago.
    const LATER: i128 = i128::MAX;

    fn made(directory: &Path, name: &str) -> Stat {
        std::fs::write(directory.join(name), name).unwrap();
        rustix::fs::stat(directory.join(name)).unwrap()
    }

    #[test]
    fn a_file_that_changed_a_moment_ago_is_not_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let mirrors = KnownMirrors::default();
        let known = mirrors.of("a");
        let stat = made(directory.path(), "f");
        known.remember(&stat, now(), Digest::of("f"));
        assert_eq!(known.digest(&stat), None);
        known.remember(&stat, now() - 3600 * SECOND, Digest::of("f"));
        assert_eq!(known.digest(&stat), None, "a clock that was set back shows nothing");
        known.remember(&stat, LATER, Digest::of("f"));
        assert_eq!(known.digest(&stat), Some(Digest::of("f")));
    }

    #[test]
    fn whole_seconds_need_more_time() {
        let stamp = |nanoseconds| Stamp { size: 0, modified: (0, 0), changed: (10, nanoseconds) };
        assert!(!stamp(0).has_passed(12 * SECOND));
        assert!(stamp(0).has_passed(14 * SECOND));
        assert!(!stamp(1).has_passed(10 * SECOND + TICK));
        assert!(stamp(1).has_passed(11 * SECOND));
    }

    #[test]
    fn every_change_of_a_stamp_counts() {
        let directory = tempfile::tempdir().unwrap();
        let mirrors = KnownMirrors::default();
        let known = mirrors.of("a");
        let stat = made(directory.path(), "f");
        known.remember(&stat, LATER, Digest::of("f"));
        let changes: [fn(&mut Stat); 5] = [
            |stat| stat.st_size += 1,
            |stat| stat.st_mtime_nsec ^= 1,
            |stat| stat.st_ctime += 1,
            |stat| stat.st_ctime_nsec ^= 1,
            |stat| stat.st_ino += 1,
        ];
        for change in changes {
            let mut other = stat;
            change(&mut other);
            assert_eq!(known.digest(&other), None);
        }
        assert_eq!(known.digest(&stat), Some(Digest::of("f")));
    }

    #[test]
    fn the_next_builder_knows_what_this_one_knew() {
        let (directory, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ids = IdRange { first: 0, count: 65_536 };
        let open = || OwnedFd::from(std::fs::File::open(state.path()).unwrap());
        let stat = made(directory.path(), "f");
        let builder = || KnownMirrors::default().of_kept("a", open(), ids, true);
        let known = builder();
        known.remember(&stat, LATER, Digest::of("f"));
        assert_eq!(builder().digest(&stat), None, "it was not kept yet");
        assert!(known.has_news());
        known.save();
        assert!(!known.has_news());
        let next = builder();
        assert_eq!(next.digest(&stat), Some(Digest::of("f")));
        let doubting = KnownMirrors::default().of_kept("a", open(), ids, false);
        assert_eq!(doubting.digest(&stat), None, "the one before was killed");
        // What changes while no builder runs is read again.
        let mut changed = stat;
        changed.st_ctime_nsec ^= 1;
        assert_eq!(next.digest(&changed), None);
        // What is new is kept with what was.
        let other = made(directory.path(), "g");
        next.remember(&other, LATER, Digest::of("g"));
        next.save();
        let last = builder();
        let digests = [&stat, &other].map(|stat| last.digest(stat));
        assert_eq!(digests, [Some(Digest::of("f")), Some(Digest::of("g"))]);
        // What is not new is not written again.
        std::fs::remove_file(state.path().join("digests")).unwrap();
        last.save();
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn mirrors_of_long_ago_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<Stat> =
            (0..4).map(|index| made(directory.path(), &index.to_string())).collect();
        let mirrors = KnownMirrors::with_room_for(4);
        for (mirror, file) in ["a", "b", "c"].iter().zip(&files) {
            mirrors.of(mirror).remember(file, LATER, Digest::of(mirror));
        }
        // Used again, so "b" is the one that was used longest ago.
        mirrors.of("a").remember(&files[3], LATER, Digest::of("a"));
        let known = |mirror, file: usize| mirrors.of(mirror).digest(&files[file]);
        assert_eq!(known("c", 2), Some(Digest::of("c")));
        assert_eq!(known("a", 0), Some(Digest::of("a")));
        assert_eq!(known("b", 1), None);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let directory = tempfile::tempdir().unwrap();
        let mirrors = KnownMirrors::with_room_for(2);
        let known = mirrors.of("a");
        for index in 0..5 {
            let stat = made(directory.path(), &index.to_string());
            known.remember(&stat, LATER, Digest::of("x"));
            assert_eq!(known.digest(&stat).is_some(), index < 2);
        }
        drop(known);
        // It starts anew, and what it held is free again.
        let known = mirrors.of("a");
        assert_eq!(mirrors.total.load(Ordering::Relaxed), 0);
        let stat = made(directory.path(), "new");
        known.remember(&stat, LATER, Digest::of("x"));
        assert!(known.digest(&stat).is_some());
    }
}
