//! House keeping: eviction by age, size and filter, in the order of last use.
//!
//! Never takes what is held, nor a layer that another one lies on. With a size to keep, entries
//! go one by one, least recently used first, until the rest fits; without, all that match go.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_digest::Digest;

use crate::content;
use crate::error::RecordError;
use crate::ids::{LayerId, name_of};
use crate::ingest;
use crate::layer::RecordType;
use crate::root;
use crate::state::{Pending, State, lock};
use crate::store::Store;
use crate::sweep::KEEP_PARTIAL;
use crate::usage::{Subject, UsageRecord, list};

/// How often a limit of size is looked at again: what went may share its blobs with what stays.
const ROUNDS: usize = 8;
/// Blobs that are looked for in everything that may name one, and deleted, while nobody else gets at the store.
const LOOSE_AT_ONCE: usize = 64;

/// Decides about one entry.
pub(crate) type Filter = Arc<dyn Fn(&UsageRecord) -> bool + Send + Sync>;

/// What to evict. The default takes everything that is not in use, internal, of a frontend or
/// shared. Zero means "no limit" everywhere.
#[derive(Clone, Default)]
pub struct PruneOptions {
    /// Also internal, frontend and shared entries.
    pub all: bool,
    /// Keep what was used within this time.
    pub keep_duration: Duration,
    /// Always keep this many bytes.
    pub reserved_space: u64,
    /// Keep at most this many bytes.
    pub max_used_space: u64,
    /// Evict until the file system has this many bytes free.
    pub min_free_space: u64,
    /// Limits of size are about all that the store takes on disk. Otherwise what documents keep,
    /// which has limits of its own, is not counted.
    pub whole: bool,
    /// Only entries that pass.
    pub filter: Option<Filter>,
}

impl std::fmt::Debug for PruneOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PruneOptions")
            .field("all", &self.all)
            .field("keep_duration", &self.keep_duration)
            .field("reserved_space", &self.reserved_space)
            .field("max_used_space", &self.max_used_space)
            .field("min_free_space", &self.min_free_space)
            .field("whole", &self.whole)
            .field("filter", &self.filter.is_some())
            .finish()
    }
}

impl PruneOptions {
    /// Whether any limit of size is set.
    const fn has_limit(&self) -> bool {
        self.max_used_space != 0 || self.reserved_space != 0 || self.min_free_space != 0
    }

    /// The bytes to keep; `None` without any limit of size.
    fn keep_bytes(&self, total: u64, free: u64) -> Option<u64> {
        if !self.has_limit() {
            return None;
        }
        let most = (self.max_used_space != 0).then_some(self.max_used_space);
        let keep = if self.min_free_space > free {
            let rest = total.saturating_sub(self.min_free_space - free);
            most.map_or(rest, |most| most.min(rest))
        } else if self.min_free_space != 0 {
            most.unwrap_or(total)
        } else {
            most.unwrap_or(0)
        };
        // Nothing to keep is the same as no limit: everything goes.
        Some(keep.max(self.reserved_space)).filter(|keep| *keep > 0)
    }
}

impl Store {
    /// Evicts and returns what was evicted. Blobs that nothing names go too, as do cache records
    /// of evicted layers. *Blocking*; files are deleted in the background afterwards.
    ///
    /// # Errors
    /// The records could not be written although space was freed: what was evicted is gone
    /// nevertheless, and its records are removed later.
    pub fn prune(&self, options: &PruneOptions) -> Result<Vec<UsageRecord>, RecordError> {
        let mut evicted = Vec::new();
        for _ in 0..ROUNDS {
            let gone = self.prune_once(options)?;
            let over = gone.is_empty() || !options.has_limit();
            evicted.extend(gone);
            if over {
                break;
            }
        }
        Ok(evicted)
    }

    /// Whether the store takes more than a limit of size allows at this moment, so that
    /// [`Store::prune`] would evict what it may. *Blocking.*
    #[must_use]
    pub fn exceeds(&self, options: &PruneOptions) -> bool {
        if !options.has_limit() {
            return false;
        }
        // What cannot be measured is told by whoever prunes.
        let Some((total, deleting)) = self.evictable_disk(options) else { return true };
        let keep = options.keep_bytes(total, self.free_bytes().saturating_add(deleting));
        keep.is_none_or(|keep| total > keep)
    }

    fn prune_once(&self, options: &PruneOptions) -> Result<Vec<UsageRecord>, RecordError> {
        self.measure();
        let now = self.follow_clock();
        let blobs = self.blob_names();
        let (evicted, packed, wanted) = self.evict(options, now, &blobs);
        if options.all && options.filter.is_none() {
            self.drop_records_without_layers(options, now);
        }
        if options.filter.is_none()
            && let Err(error) = self.expire_documents(options, now)
        {
            tracing::warn!(%error, "cannot remove old documents");
        }
        // Rows go before the blobs that they name. Without that there is no hurry: a look that
        // takes nothing must not make builds wait for the disk.
        if self.has_removals() && self.flush().is_err() {
            // A full disk takes the rows once the evicted files are really gone.
            self.wait_for_deletions();
            self.flush()?;
        }
        if !lock(&self.state).pending.is_empty() {
            self.schedule_flush();
        }
        if options.has_limit() {
            // Counted as freed with their layers, however young they are.
            self.release_blobs(&packed);
        }
        if options.filter.is_none() {
            self.delete_loose_blobs(options, wanted);
        }
        Ok(evicted)
    }

    /// Whether rows of what is gone are still to be removed.
    fn has_removals(&self) -> bool {
        let state = lock(&self.state);
        [&state.pending, &state.writing].into_iter().any(|changes| {
            !(changes.removed_layers.is_empty()
                && changes.removed_directories.is_empty()
                && changes.removed_records.is_empty())
        })
    }

    /// Evicts; also gives the blobs that evicted layers named, and whether what is left is still
    /// too much.
    fn evict(
        &self,
        options: &PruneOptions,
        now: DateTime<Utc>,
        blobs: &HashSet<Digest>,
    ) -> (Vec<UsageRecord>, Vec<Digest>, bool) {
        // Without a limit of size nobody asks how much there is.
        let disk = if options.has_limit() { self.evictable_disk(options) } else { None };
        let cut = cut_off(options, now);
        let mut state = lock(&self.state);
        let entries = list(&state, blobs);
        let listed: u64 = entries.iter().map(|(_, record)| record.size).sum();
        let (mut total, deleting) = disk.unwrap_or((listed, 0));
        let keep = options.keep_bytes(total, self.free_bytes().saturating_add(deleting));
        let mut children = count_children(&state);
        let mut candidates = candidates(entries, options, cut);
        let (mut evicted, mut packed) = (Vec::new(), Vec::new());
        while keep.is_none_or(|keep| total > keep) {
            // From the start each time: what went may have freed the layer below it.
            let free = candidates.iter().position(
                |(subject, _)| !matches!(subject, Subject::Layer(id) if children.contains_key(id)),
            );
            let Some(next) = free.or_else(|| in_a_cycle(&state, &candidates)) else { break };
            let (subject, record) = candidates.remove(next);
            if let Subject::Layer(id) = &subject
                && let Some(entry) = state.layers.get(id)
            {
                packed.extend(entry.info.blobs.iter().map(|blob| blob.digest));
            }
            self.remove(&mut state, subject, &mut children);
            total = total.saturating_sub(record.size);
            evicted.push(record);
        }
        (evicted, packed, keep.is_none_or(|keep| total > keep))
    }

    /// The bytes that count against a limit, and those that are being deleted. What history keeps
    /// has a limit of its own: counted here, it would leave no room for any cache.
    fn evictable_disk(&self, options: &PruneOptions) -> Option<(u64, u64)> {
        let disk = self.disk().ok()?;
        let kept = if options.whole { 0 } else { self.kept_by_documents() };
        let apart = disk.trash.saturating_add(kept);
        Some((disk.total().saturating_sub(apart), disk.trash))
    }

    /// Removes one entry from memory and moves its directory aside.
    fn remove(&self, state: &mut State, subject: Subject, children: &mut HashMap<LayerId, usize>) {
        match subject {
            Subject::Directory(id) => {
                let base = state.directories.get(&id).map(|entry| entry.row.base.clone());
                release_parents(children, &base.unwrap_or_default());
                self.remove_directory(state, id);
            }
            Subject::Layer(id) => {
                let Some(entry) = state.layers.remove(&id) else { return };
                release_parents(children, &entry.info.parents);
                let above = if children.contains_key(&id) { Above::Others } else { Above::Nothing };
                forget_layer(state, id, entry.info.chain_id, above);
                if let Err(error) = self.reaper.discard(self.root.layers.as_fd(), &name_of(id.0)) {
                    tracing::warn!(%id, %error, "cannot move a layer aside");
                }
            }
        }
    }

    /// Records of scratch results die with no layer, so they go when everything goes.
    fn drop_records_without_layers(&self, options: &PruneOptions, now: DateTime<Utc>) {
        if options.keep_bytes(0, 0).is_some() {
            return;
        }
        // Their times do not follow a clock that was set.
        if !options.keep_duration.is_zero() && self.time.is_held() {
            return;
        }
        let Some(cut) = cut_off(options, now) else { return };
        let stored = self.database.records_without_layers().unwrap_or_default();
        let mut state = lock(&self.state);
        let unwritten = state.pending.records.values().chain(state.writing.records.values());
        let empty = unwritten.filter(|record| record.layers().next().is_none()).cloned();
        let old: Vec<Digest> = empty
            .chain(stored)
            .filter(|record| record.created_at <= cut)
            .map(|record| record.identity)
            .collect();
        for identity in old {
            state.pending.records.remove(&identity);
            state.pending.removed_records.insert(identity);
            state.record_blobs.remove(&identity);
        }
    }

    /// Deletes blobs and partial downloads that nothing names or holds and that are older than
    /// the time to keep. A rule about size takes young ones only when space is `wanted`: a
    /// download that broke off is about to be taken up again.
    fn delete_loose_blobs(&self, options: &PruneOptions, wanted: bool) {
        let mut keep = options.keep_duration;
        if options.has_limit() && !wanted {
            keep = keep.max(KEEP_PARTIAL);
        }
        let held = self.time.is_held();
        let young = |age: Duration| !keep.is_zero() && (held || age < keep);
        if let Err(error) = ingest::delete_partials(self, young) {
            tracing::warn!(%error, "cannot delete partial blobs");
        }
        let old = |digest: &Digest| {
            let name = digest.hex();
            let age = root::age(self.root.fresh.as_fd(), &name)
                .or_else(|| root::age(self.root.content.as_fd(), &name));
            !age.is_some_and(young)
        };
        let old: Vec<Digest> = self.blob_names().into_iter().filter(old).collect();
        self.release_blobs(&old);
    }

    /// Deletes those of `digests` that nothing names or holds any more, for whoever just removed what named them. *Blocking.*
    pub fn release_blobs(&self, digests: &[Digest]) {
        for some in digests.chunks(LOOSE_AT_ONCE) {
            // Nobody may come to name one of them between the look and the end of it.
            let mut state = lock(&self.state);
            for digest in loose(&state, some) {
                state.blobs.remove(&digest);
                state.proven.remove(&digest);
                state.pending.fresh.remove(&digest);
                if let Err(error) = content::delete(&self.root, &digest) {
                    tracing::warn!(%digest, %error, "cannot delete a blob");
                }
            }
        }
    }

    /// Removes documents of kinds that go by age.
    fn expire_documents(
        &self,
        options: &PruneOptions,
        now: DateTime<Utc>,
    ) -> Result<(), RecordError> {
        let cut = match options.keep_duration.is_zero() {
            false => cut_off(options, now),
            true if options.all && !options.has_limit() => Some(now),
            true => None,
        };
        self.age_documents(now, cut)
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::fstatvfs(&self.root.top);
        stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// What was used after this is kept; `None` keeps everything.
fn cut_off(options: &PruneOptions, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if options.keep_duration.is_zero() {
        return Some(DateTime::<Utc>::MAX_UTC);
    }
    now.checked_sub_signed(TimeDelta::from_std(options.keep_duration).ok()?)
}

/// Those of some blobs that nobody holds and nothing stored needs. Everything is looked at once for all of them.
fn loose(state: &State, digests: &[Digest]) -> HashSet<Digest> {
    let held =
        |digest: &Digest| state.blobs.get(digest).is_some_and(|blob| blob.strong_count() > 0);
    let mut loose: HashSet<Digest> =
        digests.iter().copied().filter(|digest| !held(digest)).collect();
    if loose.is_empty() {
        return loose;
    }
    let of_layers = state.layers.values().flat_map(|entry| &entry.info.blobs);
    let of_layers = of_layers.map(|blob| &blob.digest);
    let of_records = state.record_blobs.values().flatten();
    let of_documents = state.document_blobs.values().flatten();
    for named in of_layers.chain(of_records).chain(of_documents) {
        loose.remove(named);
    }
    loose
}

/// The first candidate that only other candidates lie on. Merged trees put layers on top of each
/// other in both orders, so that none of them is ever without one above.
fn in_a_cycle(state: &State, candidates: &[(Subject, UsageRecord)]) -> Option<usize> {
    let going: HashSet<LayerId> = candidates
        .iter()
        .filter_map(|(subject, _)| match subject {
            Subject::Layer(id) => Some(*id),
            Subject::Directory(_) => None,
        })
        .collect();
    let staying = state.layers.iter().filter(|(id, _)| !going.contains(id));
    let mut needed: Vec<LayerId> =
        staying.flat_map(|(_, entry)| entry.info.parents.iter().copied()).collect();
    // Directories that may go went before any layer got stuck.
    needed.extend(state.directories.values().flat_map(|entry| entry.row.base.iter().copied()));
    let mut kept = HashSet::new();
    while let Some(id) = needed.pop() {
        if let (true, Some(entry)) = (kept.insert(id), state.layers.get(&id)) {
            needed.extend(&entry.info.parents);
        }
    }
    candidates
        .iter()
        .position(|(subject, _)| matches!(subject, Subject::Layer(id) if !kept.contains(id)))
}

/// How many entries lie on each layer.
fn count_children(state: &State) -> HashMap<LayerId, usize> {
    let of_layers = state.layers.values().flat_map(|entry| &entry.info.parents);
    let of_directories = state.directories.values().flat_map(|entry| &entry.row.base);
    let mut children = HashMap::new();
    for parent in of_layers.chain(of_directories) {
        *children.entry(*parent).or_insert(0) += 1;
    }
    children
}

fn release_parents(children: &mut HashMap<LayerId, usize>, parents: &[LayerId]) {
    for parent in parents {
        if let Some(count) = children.get_mut(parent) {
            *count -= 1;
            if *count == 0 {
                children.remove(parent);
            }
        }
    }
}

/// What may go at all, in the order in which it goes.
fn candidates(
    entries: Vec<(Subject, UsageRecord)>,
    options: &PruneOptions,
    cut: Option<DateTime<Utc>>,
) -> Vec<(Subject, UsageRecord)> {
    let mut candidates: Vec<_> = entries
        .into_iter()
        .filter(|(_, record)| {
            let special = matches!(record.record_type, RecordType::Internal | RecordType::Frontend);
            let old = cut.is_some_and(|cut| used_at(record) <= cut);
            !record.in_use
                && (options.all || !(special || record.shared))
                && old
                && options.filter.as_ref().is_none_or(|filter| filter(record))
        })
        .collect();
    candidates.sort_by(|(left_subject, left), (right_subject, right)| {
        used_at(left)
            .cmp(&used_at(right))
            .then(left.usage_count.cmp(&right.usage_count))
            // Of those used together, the later lies on the earlier.
            .then(right_subject.cmp(left_subject))
    });
    candidates
}

/// What nobody asked for yet was used by the step that made it.
fn used_at(record: &UsageRecord) -> DateTime<Utc> {
    record.last_used_at.unwrap_or(record.created_at)
}

/// Whether layers lie on one that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Above {
    /// None does, which whoever says so has looked up.
    Nothing,
    /// Some may.
    Others,
}

/// Takes a removed layer out of everything that waits or names it.
pub(crate) fn forget_layer(state: &mut State, id: LayerId, chain_id: Option<Digest>, above: Above) {
    if let Some(chain_id) = chain_id
        && state.chains.get(&chain_id) == Some(&id)
    {
        state.chains.remove(&chain_id);
    }
    if above == Above::Others {
        for entry in state.layers.values_mut() {
            entry.info.parents.retain(|parent| *parent != id);
        }
    }
    state.uncounted.remove(&id);
    let Pending { layers, touched, removed_layers, records, contents, .. } = &mut state.pending;
    layers.remove(&id);
    touched.remove(&id);
    removed_layers.insert(id);
    records.retain(|identity, record| {
        let dies = record.layers().any(|layer| layer == id);
        if dies {
            state.record_blobs.remove(identity);
        }
        !dies
    });
    contents.retain(|key, _| key.top() != id);
}
