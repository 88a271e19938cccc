//! Cache records: which layers a key leads to, and digests of parts of trees.
//!
//! A record is visible at once and reaches the disk after the layers it names. It dies with the uppermost layer of any output:
//! those below are not evicted before it. Where one was lost, or layers lie on each other in both orders, a record that names a
//! layer which is gone leads nowhere and is removed when somebody asks for it. Lookups note the use of every layer they lead to.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;
use serde::{Deserialize, Serialize};

use crate::error::RecordError;
use crate::ids::LayerId;
use crate::state::{Pending, State, lock};
use crate::store::Store;
use crate::tree::Tree;

/// Other keys of one record. Keys that lead here by content grow with every way of getting the
/// same files; the oldest are the least likely to be asked for.
const MAX_ALIASES: usize = 64;

/// A cache record: what the work named by a key gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The canonical key.
    pub identity: Digest,
    /// Other keys that lead here. Only the newest 64 are kept.
    #[serde(default)]
    pub aliases: Vec<Digest>,
    /// The layers of each output, bottom first.
    #[serde(with = "crate::ids::runs")]
    pub outputs: Vec<Vec<LayerId>>,
    /// Blobs that are kept as long as the record, for instance an image's configuration.
    #[serde(default)]
    pub blobs: Vec<Digest>,
    /// What was done, for people.
    #[serde(default)]
    pub description: String,
    /// How long it took: what a hit saves.
    #[serde(default)]
    pub duration: Duration,
    /// The bytes of the layers it added.
    #[serde(default)]
    pub size: u64,
    /// When it was stored.
    #[serde(default = "Utc::now")]
    pub created_at: DateTime<Utc>,
}

impl Record {
    /// A record without aliases, blobs and description.
    #[must_use]
    pub fn new(identity: Digest, outputs: &[Tree]) -> Self {
        Self {
            identity,
            aliases: Vec::new(),
            outputs: outputs.iter().map(Tree::ids).collect(),
            blobs: Vec::new(),
            description: String::new(),
            duration: Duration::ZERO,
            size: 0,
            created_at: Utc::now(),
        }
    }

    /// All layers of all outputs.
    pub(crate) fn layers(&self) -> impl Iterator<Item = LayerId> + '_ {
        self.outputs.iter().flatten().copied()
    }

    /// The uppermost layer of each output.
    pub(crate) fn tops(&self) -> impl Iterator<Item = LayerId> + '_ {
        self.outputs.iter().filter_map(|output| output.last().copied())
    }
}

/// Names the digest of a part of a tree. Rows die with the uppermost layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ContentKey {
    top: u64,
    tree: Digest,
    selector: Digest,
}

impl ContentKey {
    fn new(tree: &Tree, selector: &Digest) -> Self {
        Self {
            // Ids begin at 1: scratch has a place of its own and is never evicted.
            top: tree.top().map_or(0, |layer| layer.id().0),
            tree: tree.identity(),
            selector: *selector,
        }
    }

    pub(crate) fn row(&self) -> (u64, &[u8], &[u8]) {
        (self.top, self.tree.as_bytes(), self.selector.as_bytes())
    }

    pub(crate) const fn top(&self) -> LayerId {
        LayerId(self.top)
    }
}

impl Store {
    /// Stores a record. The caller holds its layers and blobs. An older record with the same
    /// identity is replaced; its aliases stay when it has the same outputs.
    ///
    /// # Errors
    /// A layer does not exist.
    pub fn put_record(&self, mut record: Record) -> Result<(), RecordError> {
        let known = self.read_record(&record.identity);
        if let Some(known) = known
            && known.identity == record.identity
            && known.outputs == record.outputs
        {
            let mut aliases = known.aliases;
            aliases.retain(|alias| !record.aliases.contains(alias));
            aliases.append(&mut record.aliases);
            record.aliases = aliases;
        }
        record.aliases.retain(|alias| *alias != record.identity);
        let excess = record.aliases.len().saturating_sub(MAX_ALIASES);
        record.aliases.drain(..excess);

        let mut state = lock(&self.state);
        if let Some(layer) = record.layers().find(|layer| !state.layers.contains_key(layer)) {
            return Err(RecordError::UnknownLayer { identity: record.identity, layer });
        }
        learn_parents(&mut state, &record);
        if record.blobs.is_empty() {
            state.record_blobs.remove(&record.identity);
        } else {
            state.record_blobs.insert(record.identity, record.blobs.clone());
        }
        for alias in &record.aliases {
            state.pending.aliases.insert(*alias, record.identity);
        }
        state.pending.removed_records.remove(&record.identity);
        state.pending.records.insert(record.identity, record);
        drop(state);
        self.schedule_flush();
        Ok(())
    }

    /// Lets another key lead to the record that `key` (identity or alias) leads to. Nothing
    /// happens when there is none.
    ///
    /// # Errors
    /// A layer of the record no longer exists.
    pub fn add_alias(&self, key: &Digest, alias: Digest) -> Result<(), RecordError> {
        let Some(mut record) = self.read_record(key) else { return Ok(()) };
        if record.identity == alias || record.aliases.last() == Some(&alias) {
            return Ok(());
        }
        record.aliases.retain(|known| *known != alias);
        record.aliases.push(alias);
        self.put_record(record)
    }

    /// The record behind a key (identity or alias) with its trees, one for each output. Counts
    /// as a use of their layers. `None` also on any trouble, or when a layer is gone: the record goes then, too.
    #[must_use]
    pub fn record(self: &Arc<Self>, key: &Digest) -> Option<(Record, Vec<Tree>)> {
        let record = self.read_record(key)?;
        let mut state = lock(&self.state);
        let mut trees = Vec::with_capacity(record.outputs.len());
        for output in &record.outputs {
            let layers: Option<Vec<_>> =
                output.iter().map(|id| self.pin(&mut state, *id)).collect();
            let Some(layers) = layers else {
                let replaced = state.unwritten_record(&record.identity).is_some();
                drop(state);
                if !replaced {
                    self.remove_record(&record.identity);
                }
                return None;
            };
            trees.push(Tree::new(layers));
        }
        let mut layers: Vec<LayerId> = record.layers().collect();
        layers.sort_unstable();
        layers.dedup();
        let now = self.now();
        for id in layers {
            self.touch(&mut state, id, now);
        }
        Some((record, trees))
    }

    /// Removes a record; its layers stay until they are evicted.
    pub fn remove_record(&self, identity: &Digest) {
        let mut state = lock(&self.state);
        state.pending.records.remove(identity);
        state.pending.removed_records.insert(*identity);
        state.record_blobs.remove(identity);
        drop(state);
        self.schedule_flush();
    }

    /// A digest stored by [`Store::put_content_digest`].
    #[must_use]
    pub fn content_digest(&self, tree: &Tree, selector: &Digest) -> Option<Digest> {
        let key = ContentKey::new(tree, selector);
        let unwritten = {
            let state = lock(&self.state);
            let mut places = [&state.pending, &state.writing].into_iter();
            places.find_map(|changes| changes.contents.get(&key).copied())
        };
        unwritten.or_else(|| log_trouble(self.database.content(&key)))
    }

    /// Remembers the digest of what `selector` names in `tree`, for as long as the uppermost
    /// layer exists.
    pub fn put_content_digest(&self, tree: &Tree, selector: &Digest, digest: Digest) {
        let key = ContentKey::new(tree, selector);
        lock(&self.state).pending.contents.insert(key, digest);
        self.schedule_touches();
    }

    /// The record behind a key, without noting a use.
    fn read_record(&self, key: &Digest) -> Option<Record> {
        {
            let state = lock(&self.state);
            if let Some(record) = state.unwritten_record(key) {
                return Some(record.clone());
            }
            if removed(&state, key) {
                return None;
            }
        }
        let record = log_trouble(self.database.record(key))?;
        let state = lock(&self.state);
        // An alias may have been followed on disk while newer changes wait.
        if removed(&state, &record.identity) {
            return None;
        }
        Some(state.unwritten_record(&record.identity).cloned().unwrap_or(record))
    }
}

fn removed(state: &State, identity: &Digest) -> bool {
    let gone = |changes: &Pending| changes.removed_records.contains(identity);
    gone(&state.pending) || gone(&state.writing)
}

fn log_trouble<T>(result: Result<Option<T>, crate::DatabaseError>) -> Option<T> {
    result.unwrap_or_else(|error| {
        tracing::warn!(%error, "treating unreadable records as missing");
        None
    })
}

/// A layer is evicted only after those that were seen on top of it.
fn learn_parents(state: &mut State, record: &Record) {
    for output in &record.outputs {
        for pair in output.windows(2) {
            let &[below, above] = pair else { continue };
            if let Some(entry) = state.layers.get_mut(&above)
                && below != above
                && !entry.info.parents.contains(&below)
            {
                entry.info.parents.push(below);
                state.pending.layers.insert(above);
            }
        }
    }
}
