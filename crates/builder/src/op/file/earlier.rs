//! Files of a layer that a copy made before, taken over as further names by the next copy of the same kind.
//!
//! A client's directory is copied in build after build and hardly changes. What was copied of it once lies in a layer, and no
//! file of a layer is ever written to, so another layer may have the same file under the same path: neither bytes nor an inode
//! are made. A file is taken over only by the same action on the same mirror, when it was copied to the same path and its
//! original has been the same inode with the same size and times ever since; [`Stamp`] says why that is enough. As one path of
//! one tree shows one layer's file, no step ever sees two names of it.
//!
//! Never takes a file of a mirror itself, which the next transfer may change, and never decides that something need not be
//! copied: whatever cannot be taken over is. What is known is in memory only, a bounded number of files.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_store::{LayerId, Store};
use rustix::fs::{AtFlags, Stat};

use super::leaf::Spot;
use crate::content_digest::{Stamp, now};
use crate::rooted::Root;

/// Files of all copies together; each takes eight bytes.
const MAX_FILES: usize = 1_000_000;
/// Copies of which anything is known.
const MAX_COPIES: usize = 256;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of the copies that were made.
#[derive(Default)]
pub(crate) struct EarlierCopies {
    /// The one made last is the last.
    copies: Mutex<VecDeque<(Digest, Arc<EarlierCopy>)>>,
    /// Keyed by chance, so that nobody can make two files that look like one.
    hasher: RandomState,
}

/// A copy that was made.
struct EarlierCopy {
    layer: LayerId,
    /// Marks of its files, sorted.
    files: Vec<u64>,
}

impl EarlierCopies {
    /// Begins a copy. `name` stands for all that decides what becomes of a file: the mirror, the action, its owner.
    pub(crate) fn begin(self: &Arc<Self>, store: &Arc<Store>, name: Digest) -> Copying {
        let known = lock(&self.copies)
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, copy)| Arc::clone(copy));
        // Held by its descriptor from here on: files keep what they hold also when the layer goes.
        let earlier = known.and_then(|copy| {
            let directory = store.layer(copy.layer)?.open().ok()?;
            Some((copy, Root::new(directory)))
        });
        Copying { all: Arc::clone(self), name, started: now(), earlier, made: Mutex::default() }
    }

    fn remember(&self, name: Digest, copy: EarlierCopy) {
        let mut copies = lock(&self.copies);
        copies.retain(|(known, _)| *known != name);
        copies.push_back((name, Arc::new(copy)));
        let files = |copies: &VecDeque<(Digest, Arc<EarlierCopy>)>| {
            copies.iter().map(|(_, copy)| copy.files.len()).sum::<usize>()
        };
        while copies.len() > MAX_COPIES || files(&copies) > MAX_FILES {
            copies.pop_front();
        }
    }
}

/// A copy that is being made.
pub(crate) struct Copying {
    all: Arc<EarlierCopies>,
    name: Digest,
    started: i128,
    earlier: Option<(Arc<EarlierCopy>, Root)>,
    made: Mutex<Vec<u64>>,
}

/// Stands for a file as it was copied: its path in the layer, and its original's inode and [`Stamp`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

impl Copying {
    /// The directory of the earlier copy that is what `path` is in this one, if there is one.
    pub(super) fn directory(&self, path: &str) -> Option<Root> {
        self.earlier.as_ref()?.1.directory(path).ok()
    }

    /// The mark of the file `stat` that goes to `path`; `None` when a change of it might not show.
    #[allow(clippy::unnecessary_cast, reason = "field types differ between architectures")]
    pub(super) fn mark(&self, stat: &Stat, path: &str) -> Option<Mark> {
        let stamp = Stamp::of(stat);
        // A file of several names is copied together with these.
        let fits = stat.st_nlink == 1 && stamp.has_passed(self.started);
        let inode = (stat.st_dev as u64, stat.st_ino as u64);
        fits.then(|| Mark(self.all.hasher.hash_one((path, inode, stamp))))
    }

    /// Gives the earlier copy's file the name of `spot` as well. `false`: it is to be copied.
    pub(super) fn take_over(&self, mark: Mark, earlier: &Root, spot: Spot<'_>) -> bool {
        let known = self
            .earlier
            .as_ref()
            .is_some_and(|(copy, _)| copy.files.binary_search(&mark.0).is_ok());
        // The number of names of a file is limited, and something may be in the way.
        known
            && rustix::fs::linkat(
                earlier.as_fd(),
                spot.name,
                spot.parent.as_fd(),
                spot.name,
                AtFlags::empty(),
            )
            .is_ok()
    }

    /// Notes that the file with this mark is in its place.
    pub(super) fn note(&self, mark: Mark) {
        lock(&self.made).push(mark.0);
    }

    /// Everything was copied, and is now the layer `layer`.
    pub(crate) fn end(self, layer: LayerId) {
        let mut files = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        files.sort_unstable();
        files.shrink_to_fit();
        if !files.is_empty() {
            self.all.remember(self.name, EarlierCopy { layer, files });
        }
    }
}

#[cfg(test)]
#[path = "earlier_tests.rs"]
mod tests;
