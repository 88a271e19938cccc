//! What the store takes on disk, by layer and directory.
//!
//! Bytes are counted once, when a layer is committed, and per directory after each use. A
//! layer's size includes its packed forms; a blob of several layers counts for the oldest.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;

use crate::content;
use crate::directory::Hold;
use crate::flush::measure_new_layers;
use crate::ids::{LayerId, name_of};
use crate::layer::RecordType;
use crate::root::open_directory;
use crate::state::{State, lock};
use crate::store::Store;
use crate::walk;
use std::os::fd::AsFd;

/// One line of disk usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Names the layer or directory.
    pub id: String,
    /// Whether it is a directory that changes.
    pub mutable: bool,
    /// Whether something holds it.
    pub in_use: bool,
    /// Bytes on disk; 0 for a directory in use.
    pub size: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used.
    pub last_used_at: Option<DateTime<Utc>>,
    /// How often it was used.
    pub usage_count: u32,
    /// What made it.
    pub description: String,
    /// What it is for.
    pub record_type: RecordType,
    /// Whether something outside the store shares its bytes. Nothing does so far.
    pub shared: bool,
    /// The ids it lies on.
    pub parents: Vec<String>,
}

/// What an entry is, for those who act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    Layer(LayerId),
    Directory(u64),
}

impl Store {
    /// What is stored, oldest first. *Blocking*: counts what was not counted yet.
    #[must_use]
    pub fn usage(&self) -> Vec<UsageRecord> {
        self.measure();
        let blobs = self.blob_names();
        let state = lock(&self.state);
        list(&state, &blobs).into_iter().map(|(_, record)| record).collect()
    }

    /// Counts layers and free directories that changed since they were counted.
    pub(crate) fn measure(&self) {
        measure_new_layers(self);
        let uncounted: Vec<u64> = {
            let state = lock(&self.state);
            let entries = state.directories.iter();
            entries
                .filter(|(_, entry)| entry.hold == Hold::Free && entry.row.usage.is_none())
                .map(|(id, _)| *id)
                .collect()
        };
        for id in uncounted {
            let parent = open_directory(self.root.mutable.as_fd(), &name_of(id));
            let Ok(usage) = parent.map_err(Into::into).and_then(walk::measure) else { continue };
            let mut state = lock(&self.state);
            // Taken meanwhile: it is counted after that use.
            if let Some(entry) = state.directories.get_mut(&id)
                && entry.hold == Hold::Free
            {
                self.came_in(usage.bytes.saturating_sub(entry.counted.bytes));
                entry.row.usage = Some(usage);
                entry.counted = usage;
                state.pending.directories.insert(id);
            }
        }
    }

    pub(crate) fn blob_names(&self) -> HashSet<Digest> {
        content::stored(&self.root).unwrap_or_default().into_iter().collect()
    }
}

/// All entries with their usage; `blobs` are the blobs that exist.
pub(crate) fn list(state: &State, blobs: &HashSet<Digest>) -> Vec<(Subject, UsageRecord)> {
    let mut counted = HashSet::new();
    let layers = state.layers.iter().map(|(id, entry)| {
        let info = &entry.info;
        let packed: u64 = info
            .blobs
            .iter()
            .filter(|blob| blobs.contains(&blob.digest) && counted.insert(blob.digest))
            .map(|blob| blob.size)
            .sum();
        let record = UsageRecord {
            id: id.to_string(),
            mutable: false,
            in_use: entry.in_use(),
            size: info.usage.map_or(0, |usage| usage.bytes).saturating_add(packed),
            created_at: info.created_at,
            last_used_at: info.last_used_at,
            usage_count: info.usage_count,
            description: info.description.clone(),
            record_type: info.record_type,
            shared: false,
            parents: info.parents.iter().map(ToString::to_string).collect(),
        };
        (Subject::Layer(*id), record)
    });
    let directories = state.directories.iter().map(|(id, entry)| {
        let row = &entry.row;
        let in_use = entry.hold != Hold::Free;
        let record = UsageRecord {
            id: name_of(*id),
            mutable: true,
            in_use,
            size: row.usage.filter(|_| !in_use).map_or(0, |usage| usage.bytes),
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            usage_count: row.usage_count,
            description: row.description(),
            record_type: row.record_type(),
            shared: false,
            parents: row.base.last().iter().map(ToString::to_string).collect(),
        };
        (Subject::Directory(*id), record)
    });
    let mut records: Vec<_> = layers.chain(directories).collect();
    records.sort_by(|(a, left), (b, right)| left.created_at.cmp(&right.created_at).then(a.cmp(b)));
    records
}
