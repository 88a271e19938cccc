//! Threads that read the files of a tree while one thread walks its directories.
//!
//! The walking thread leaves a file behind and collects its digest when its directory is complete. What waits is
//! bounded; the walking thread reads too when there is too much, or when it would have to wait. The
//! digests do not depend on who read what.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope, available_parallelism};

use cofferdam_digest::{Digest, Digester};
use cofferdam_store::IdRange;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::known::{KnownFiles, now};
use crate::rooted::Root;
use crate::xattrs::{CAPABILITY, MAX_XATTR_BYTES, read_open_whole};

/// What is read at once; holds a list of attributes too.
const BUFFER_BYTES: usize = 128 << 10;
/// Most threads of one digest, the walking one included.
const MAX_THREADS: usize = 4;
/// Bytes of a capability up to the end of its sets.
const CAPABILITY_SETS: usize = 20;
/// Files that wait for a thread.
const MAX_WAITING: usize = 64;

/// Room for one thread's reading.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; BUFFER_BYTES]
}

/// What goes into the digest of one entry.
pub(super) struct Reading {
    ids: IdRange,
    known: Option<Arc<KnownFiles>>,
    /// When it began.
    started: i128,
}

impl Reading {
    pub(super) fn new(ids: IdRange, known: Option<Arc<KnownFiles>>) -> Self {
        Self { ids, known, started: now() }
    }

    /// Whether a look at a file may save its reading.
    pub(super) const fn remembers(&self) -> bool {
        self.known.is_some()
    }

    /// The digest of a regular file that was read before.
    pub(super) fn known(&self, stat: &Stat) -> Option<Digest> {
        self.known.as_ref()?.digest(stat)
    }

    /// Adds what every entry has.
    pub(super) fn header(&self, stat: &Stat, out: &mut Digester) {
        let id = |id: u32| self.ids.from_disk(id).unwrap_or(id);
        out.field(stat.st_mode.to_le_bytes());
        out.field(id(stat.st_uid).to_le_bytes());
        out.field(id(stat.st_gid).to_le_bytes());
    }

    /// The digest of an open regular file with its attributes.
    #[allow(clippy::unnecessary_cast, reason = "field types differ between architectures")]
    #[allow(clippy::cast_sign_loss, reason = "sizes are not negative")]
    pub(super) fn file(&self, mut file: File, buffer: &mut [u8]) -> io::Result<Digest> {
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("a file became something else"));
        }
        let mut out = Digester::new();
        self.header(&stat, &mut out);
        let (attributes, whole) = attributes(file.as_fd(), buffer);
        let mut left = stat.st_size as u64;
        // One call less for each file than asking for its end.
        while left > 0 {
            let count = file.read(buffer)?;
            if count == 0 {
                break;
            }
            out.update(&buffer[..count]);
            left = left.saturating_sub(count as u64);
        }
        let digest = with(attributes, out.finish());
        // A file that became shorter meanwhile is another one than `stat` tells of, and an attribute that could not be read
        // may be readable the next time, without the file having changed.
        if let Some(known) = &self.known
            && left == 0
            && whole
        {
            known.remember(&stat, self.started, digest);
        }
        Ok(digest)
    }
}

/// The digest of the content attributes of an open file or directory, if it has any, and whether all could be read: those
/// that could not are not in it, as they are not in a copy. `buffer` is room for their names.
pub(super) fn attributes(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> (Option<Digest>, bool) {
    let (found, whole) = read_open_whole(fd, &mut buffer[..MAX_XATTR_BYTES]);
    if found.is_empty() {
        return (None, whole);
    }
    let mut out = Digester::new();
    for (name, value) in found {
        // Of a capability the version and the root id depend on the id range, the sets do not.
        let counted = if name == CAPABILITY { CAPABILITY_SETS } else { value.len() };
        out.field(name);
        out.field(&value[..value.len().min(counted)]);
    }
    (Some(out.finish()), whole)
}

/// The digest of an entry with its attributes. No entry without any has the same: its first field is a mode, of four bytes.
pub(super) fn with(attributes: Option<Digest>, entry: Digest) -> Digest {
    let Some(attributes) = attributes else { return entry };
    let mut out = Digester::new();
    out.field("attributes");
    out.field(attributes.as_bytes());
    out.field(entry.as_bytes());
    out.finish()
}

/// A regular file that is to be read.
pub(super) struct Job {
    pub(super) directory: Arc<Root>,
    pub(super) name: OsString,
}

impl Job {
    pub(super) fn run(&self, reading: &Reading, buffer: &mut [u8]) -> io::Result<Digest> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.directory.as_fd(), &self.name, flags, Mode::empty())?;
        reading.file(File::from(fd), buffer)
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Job)>,
    results: HashMap<u64, io::Result<Digest>>,
    /// Threads with nothing to do.
    idle: usize,
    walker_waits: bool,
    closed: bool,
}

/// What the threads of one digest share.
pub(super) struct Readers {
    pub(super) reading: Reading,
    state: Mutex<State>,
    /// There is something to do for a thread.
    work: Condvar,
    /// There is a result.
    done: Condvar,
}

impl Readers {
    pub(super) fn new(reading: Reading) -> Self {
        Self { reading, state: Mutex::default(), work: Condvar::new(), done: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts as many threads as the machine has a use for, and says how many. Where there can be none, the
    /// walking thread does it all.
    pub(super) fn start<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>) -> usize {
        let threads = available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        let mut started = 0;
        for _ in 1..threads {
            let work = move || self.serve();
            if Builder::new().name("digest".to_owned()).spawn_scoped(scope, work).is_err() {
                break;
            }
            started += 1;
        }
        started
    }

    /// Lets the threads end when it is dropped, however the walk ends: the scope waits for them.
    pub(super) const fn closing(&self) -> Closing<'_> {
        Closing(self)
    }

    /// Leaves a file for a thread; gives it back where too many wait already.
    pub(super) fn offer(&self, ticket: u64, job: Job) -> Option<Job> {
        let mut state = self.lock();
        if state.waiting.len() >= MAX_WAITING {
            return Some(job);
        }
        state.waiting.push_back((ticket, job));
        let is_awaited = state.idle > 0;
        drop(state);
        if is_awaited {
            self.work.notify_one();
        }
        None
    }

    /// The digest of a file that was left. For the walking thread only.
    pub(super) fn collect(&self, ticket: u64, buffer: &mut [u8]) -> io::Result<Digest> {
        let mut state = self.lock();
        loop {
            if let Some(result) = state.results.remove(&ticket) {
                return result;
            }
            if let Some((other, job)) = state.waiting.pop_front() {
                drop(state);
                let result = job.run(&self.reading, buffer);
                state = self.lock();
                state.results.insert(other, result);
            } else {
                state.walker_waits = true;
                state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.walker_waits = false;
            }
        }
    }

    /// What each thread does.
    fn serve(&self) {
        let mut buffer = buffer();
        let mut state = self.lock();
        loop {
            let Some((ticket, job)) = state.waiting.pop_front() else {
                if state.closed {
                    return;
                }
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            // Whoever collects this would wait for ever if the thread just ended.
            let run = AssertUnwindSafe(|| job.run(&self.reading, &mut buffer));
            let result = catch_unwind(run)
                .unwrap_or_else(|_| Err(io::Error::other("a thread that read files ended")));
            state = self.lock();
            state.results.insert(ticket, result);
            if state.walker_waits {
                self.done.notify_one();
            }
        }
    }
}

/// See [`Readers::closing`].
pub(super) struct Closing<'a>(&'a Readers);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.0.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::content_digest::KnownMirrors;

    #[test]
    fn a_file_whose_attributes_cannot_be_read_is_not_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "").unwrap();
        let stat = rustix::fs::stat(&path).unwrap();
        let ids = IdRange { first: 0, count: 65_536 };
        let known = KnownMirrors::default().of("m");
        // As if the file had been made long ago.
        let reading = Reading { ids, known: Some(Arc::clone(&known)), started: i128::MAX };
        let open = |flags| File::from(rustix::fs::open(&path, flags, Mode::empty()).unwrap());
        let mut room = buffer();
        // Such a descriptor gives no attributes; of an empty file nothing else is read.
        let unread = reading.file(open(OFlags::PATH), &mut room).unwrap();
        assert_eq!(known.digest(&stat), None);
        let digest = reading.file(open(OFlags::RDONLY), &mut room).unwrap();
        assert_eq!(known.digest(&stat), Some(digest));
        assert_eq!(digest, unread, "control: it has none");
    }
}
