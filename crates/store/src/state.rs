//! What an open store holds in memory: the truth about everything but cache records, and what
//! is on its way to disk.
//!
//! The state's lock is held for work in memory and for making or renaming single directories,
//! never for walks, syncs or database work.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;

use crate::clock::Jump;
use crate::content::PinnedBlob;
use crate::directory::DirectoryEntry;
use crate::document::Document;
use crate::ids::LayerId;
use crate::layer::{LayerInfo, Pinned};
use crate::record::{ContentKey, Record};

/// Locks whatever happened to other holders: all changes under these locks are complete when a
/// panic could happen.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A committed layer.
pub(crate) struct LayerEntry {
    pub(crate) info: LayerInfo,
    pub(crate) pinned: Weak<Pinned>,
    /// Whether its files and its row are known to be on disk.
    pub(crate) durable: bool,
}

impl LayerEntry {
    pub(crate) const fn new(info: LayerInfo) -> Self {
        Self { info, pinned: Weak::new(), durable: false }
    }

    /// A layer that a row tells of.
    pub(crate) const fn stored(info: LayerInfo) -> Self {
        Self { info, pinned: Weak::new(), durable: true }
    }

    pub(crate) fn in_use(&self) -> bool {
        self.pinned.strong_count() > 0
    }
}

/// Everything in memory.
#[derive(Default)]
pub(crate) struct State {
    /// Ids below this were given out.
    pub(crate) next_id: u64,
    pub(crate) layers: BTreeMap<LayerId, LayerEntry>,
    /// Layers of which nobody knows yet what they take on disk.
    pub(crate) uncounted: BTreeSet<LayerId>,
    pub(crate) chains: HashMap<Digest, LayerId>,
    /// Cache mounts and mirrors by id.
    pub(crate) directories: BTreeMap<u64, DirectoryEntry>,
    pub(crate) blobs: HashMap<Digest, Weak<PinnedBlob>>,
    /// Blobs with a resumable download under way.
    pub(crate) ingesting: HashSet<Digest>,
    /// Blobs that records keep.
    pub(crate) record_blobs: HashMap<Digest, Vec<Digest>>,
    /// Blobs that documents keep.
    pub(crate) document_blobs: HashMap<(String, String), Vec<Digest>>,
    /// Not yet on disk.
    pub(crate) pending: Pending,
    /// Being written to disk right now; lookups still need it.
    pub(crate) writing: Pending,
    /// How many batches were begun.
    pub(crate) batches: u64,
    /// How often the disk lost something that was written: what was begun before is not to be
    /// trusted.
    pub(crate) losses: u64,
    /// Layers that the disk lost while somebody held them; deleted when nobody does.
    pub(crate) lost_layers: Vec<(LayerId, Weak<Pinned>)>,
    /// Blobs whose bytes this process wrote or read and found right.
    pub(crate) proven: HashSet<Digest>,
    /// Kinds of documents that go by age, with how many of each are kept.
    pub(crate) aging: HashMap<String, usize>,
    /// When documents of such kinds were used, as far as that is not in the database yet.
    pub(crate) document_uses: HashMap<(String, String), DateTime<Utc>>,
    /// Jumps of the clock that the uses in the database have not followed yet.
    pub(crate) document_jumps: Vec<Jump>,
    /// Documents that are on their way to the database and survive this process before.
    pub(crate) promised: BTreeMap<(String, String), Document>,
}

/// Changes for the database.
#[derive(Default, Clone)]
pub(crate) struct Pending {
    /// Layers whose rows changed.
    pub(crate) layers: HashSet<LayerId>,
    /// Layers of which only the use changed.
    pub(crate) touched: HashSet<LayerId>,
    pub(crate) removed_layers: HashSet<LayerId>,
    pub(crate) directories: HashSet<u64>,
    pub(crate) removed_directories: HashSet<u64>,
    pub(crate) records: HashMap<Digest, Record>,
    pub(crate) removed_records: HashSet<Digest>,
    pub(crate) aliases: HashMap<Digest, Digest>,
    pub(crate) contents: HashMap<ContentKey, Digest>,
    /// Blobs to move from `fresh/` to `content/`.
    pub(crate) fresh: HashSet<Digest>,
}

impl Pending {
    /// Whether data must be made durable before this may be written. Mutable directories are
    /// not: one that a crash took is swept together with its row.
    pub(crate) fn names_data(&self) -> bool {
        !(self.layers.is_empty() && self.records.is_empty() && self.fresh.is_empty())
    }

    /// Whether a crash before the batch would take work that somebody was told is done. Notes of
    /// use, digests that can be computed again and removals are nothing of the kind.
    pub(crate) fn is_work(&self) -> bool {
        self.names_data() || !self.directories.is_empty() || !self.aliases.is_empty()
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        !self.names_data()
            && self.directories.is_empty()
            && self.touched.is_empty()
            && self.removed_layers.is_empty()
            && self.removed_directories.is_empty()
            && self.removed_records.is_empty()
            && self.aliases.is_empty()
            && self.contents.is_empty()
    }

    /// Puts back what could not be written; newer changes win.
    pub(crate) fn restore(&mut self, older: Self) {
        self.layers.extend(older.layers);
        self.touched.extend(older.touched);
        self.removed_layers.extend(older.removed_layers);
        self.directories.extend(older.directories);
        self.removed_directories.extend(older.removed_directories);
        for identity in older.removed_records {
            if !self.records.contains_key(&identity) {
                self.removed_records.insert(identity);
            }
        }
        for (identity, record) in older.records {
            if !self.removed_records.contains(&identity) {
                self.records.entry(identity).or_insert(record);
            }
        }
        for (alias, identity) in older.aliases {
            self.aliases.entry(alias).or_insert(identity);
        }
        for (key, digest) in older.contents {
            self.contents.entry(key).or_insert(digest);
        }
        self.fresh.extend(older.fresh);
    }
}

impl State {
    /// A record that is not in the database yet, by identity or alias.
    pub(crate) fn unwritten_record(&self, key: &Digest) -> Option<&Record> {
        [&self.pending, &self.writing].into_iter().find_map(|changes| {
            let identity = changes.aliases.get(key).unwrap_or(key);
            changes.records.get(identity)
        })
    }
}
