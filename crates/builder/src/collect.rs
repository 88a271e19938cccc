//! Garbage collection: by the rules of the configuration in the background, and when somebody asks for it.
//!
//! The rules hold all the time: they are applied every minute, and as soon as enough has come in for a limit of size to be passed,
//! also while builds run. One collection runs at a time, whoever wants it. Never takes what a running build holds: that is pinned in
//! the store.

use std::convert::identity;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cofferdam_store::{PruneOptions, Store, UsageRecord};
use connectrpc::ErrorCode;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;

use crate::blocking::blocking;
use crate::config::{Config, DiskSpace, GcPolicy};
use crate::context::Context;
use crate::control::usage::matching;
use crate::failure::Failure;
use crate::filters::Filters;

/// Between two collections.
const INTERVAL: Duration = Duration::from_secs(60);
/// Before the first one: a builder that a server starts for a build may be idle, and end, before an interval is over.
const FIRST: Duration = Duration::from_secs(20);
/// Between two looks whether much has come in, while builds run. A look is two numbers.
const LOOK: Duration = Duration::from_millis(250);
/// How long that goes on after the last build: what it left is counted, and let go, a moment after its end.
const LINGER: Duration = Duration::from_secs(5);
/// After a collection there is none for this many times as long as it took, but for no more than `LONGEST_REST`: builds are not to
/// wait for the disk all the time because more is held than a limit allows.
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(10);
/// A limit is looked at again when so much of it has come in, or so many bytes: a small limit is kept closely, and a large one does
/// not have the store counted all the time.
const SHARE: u64 = 32;
const LEAST: u64 = 4 << 20;
const MOST: u64 = 256 << 20;
/// How long one who asks for a collection waits for those who came before.
const PATIENCE: Duration = Duration::from_secs(60);
/// Documents of each kind of [`crate::source::AGING`]: what many thousand images and downloads have.
const MOST_DOCUMENTS: usize = 20_000;

/// The one collector of a builder.
pub(crate) struct Garbage {
    store: Arc<Store>,
    rules: Vec<GcPolicy>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Builds that run.
    running: AtomicUsize,
    /// Rung when one begins or ends.
    wake: Notify,
    /// What the last collection came to.
    seen: Mutex<Seen>,
}

/// What is known since the last collection.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// How much there was as it began.
    mark: Mark,
    /// There is none before this.
    rest: Instant,
    /// It left more than a limit allows, because that was held: when to look again, whatever comes in.
    again: Option<Instant>,
    /// How long was waited for that.
    pause: Duration,
}

/// A running build, for as long as this lives.
pub(crate) struct Running<'a>(&'a Garbage);

/// What tells cheaply that something came in: by the store's own count, and by what the disk has left, which knows of files that a
/// step is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    growth: u64,
    free: u64,
}

/// What a collection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Bytes of disk that the store takes now.
    pub(crate) left: u64,
    /// Bytes of disk that are free again.
    pub(crate) freed: u64,
}

impl Seen {
    fn new(mark: Mark) -> Self {
        Self { mark, rest: Instant::now(), again: None, pause: Duration::ZERO }
    }
}

impl Mark {
    fn of(store: &Store) -> Self {
        let disk = rustix::fs::statvfs(store.path());
        let free = disk.map_or(0, |disk| disk.f_bfree.saturating_mul(disk.f_frsize));
        Self { growth: store.growth(), free }
    }

    /// Whether `step` bytes came in between `self` and `now`.
    const fn is_passed(self, now: Self, step: u64) -> bool {
        let counted = now.growth.saturating_sub(self.growth);
        let taken = self.free.saturating_sub(now.free);
        counted >= step || taken >= step
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.wake.notify_one();
    }
}

impl Garbage {
    /// The collector of `store`.
    pub(crate) fn new(store: &Arc<Store>, config: &Config) -> Self {
        for kind in crate::source::AGING {
            store.let_documents_age(kind, MOST_DOCUMENTS);
        }
        let off = config.worker.oci.gc == Some(false);
        Self {
            store: Arc::clone(store),
            rules: if off { Vec::new() } else { rules(config) },
            turn: Arc::default(),
            running: AtomicUsize::new(0),
            wake: Notify::new(),
            seen: Mutex::new(Seen::new(Mark::of(store))),
        }
    }

    /// Says that a build runs.
    pub(crate) fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
        Running(self)
    }

    /// Whether no build runs, also none that only has to be recorded and answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }

    /// Takes what `options` allow; gives what went.
    pub(crate) async fn prune(&self, options: PruneOptions) -> Result<Vec<UsageRecord>, Failure> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let store = Arc::clone(&self.store);
        // The turn ends with the work: whoever stops waiting for it stops nothing.
        blocking(move || pruned(&store, &options, turn)).await?
    }

    /// Takes what was used longest ago until nothing is left that was not used for `keep_seconds`, and the store takes no more than
    /// `max_bytes` of disk, as far as running builds do not hold it.
    pub(crate) async fn collect(
        &self,
        max_bytes: Option<u64>,
        keep_seconds: Option<u64>,
    ) -> Result<Collected, Failure> {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.turn).lock_owned()).await;
        let turn = turn.map_err(|_| {
            Failure::new(ErrorCode::Unavailable, "another collection of garbage takes too long")
        })?;
        let store = Arc::clone(&self.store);
        let work = move || {
            let before = store.disk().map_err(Failure::store)?.total();
            for options in asked(max_bytes, keep_seconds) {
                store.prune(&options).map_err(Failure::store)?;
            }
            // Others need not wait for the files to be gone.
            drop(turn);
            store.wait_for_deletions();
            let left = store.disk().map_err(Failure::store)?.total();
            let freed = before.saturating_sub(left);
            tracing::info!(left, freed, "garbage collected as asked");
            Ok::<_, Failure>(Collected { left, freed })
        };
        blocking(work).await?
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much came in since the last collection that a limit may be passed.
    fn has_grown(&self) -> bool {
        let Some(step) = step(&self.rules, disk_size(&self.store)) else { return false };
        let now = Mark::of(&self.store);
        let mut seen = self.seen();
        // What others on this disk gave back is not room for this store to hide in.
        seen.mark.free = seen.mark.free.max(now.free);
        seen.mark.is_passed(now, step)
    }

    /// Waits until it is time for all rules, or until much has come in or may have been let go; `true` for the former.
    async fn wait(&self, due: Instant) -> bool {
        let mut lively = Instant::now() + LINGER;
        loop {
            let Seen { rest, again, .. } = *self.seen();
            let now = Instant::now();
            if !self.is_idle() {
                lively = now + LINGER;
            }
            let look = (now < lively).then(|| now + LOOK);
            let next = look.into_iter().chain(again).min();
            let next = next.map_or(due, |next| next.max(rest).min(due));
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.wake.notified() => {
                    lively = Instant::now() + LINGER;
                    self.look_soon();
                    continue;
                }
            }
            let now = Instant::now();
            if now >= due {
                return true;
            }
            if again.is_some_and(|again| again <= now) || self.has_grown() {
                return false;
            }
        }
    }

    /// A build began or ended: what was held may be held no more.
    fn look_soon(&self) {
        let mut seen = self.seen();
        if seen.again.is_some() {
            (seen.again, seen.pause) = (Some(Instant::now() + LOOK), Duration::ZERO);
        }
    }

    /// Notes that the rules were applied, and whether a limit is passed nevertheless.
    fn applied(&self, mark: Mark, begun: Instant, over: bool) {
        let now = Instant::now();
        let took = now.duration_since(begun);
        let mut seen = self.seen();
        let pause = if over { (seen.pause * 2).clamp(LOOK, INTERVAL) } else { Duration::ZERO };
        *seen = Seen {
            mark,
            rest: now + took.saturating_mul(REST).clamp(LOOK, LONGEST_REST),
            again: over.then(|| now + pause),
            pause,
        };
    }

    /// Applies the rules: `all` of them, or those whose limit of size is passed.
    async fn apply(&self, all: bool) {
        let (begun, mark) = (Instant::now(), Mark::of(&self.store));
        let mut over = false;
        for rule in &self.rules {
            let options = match options(rule, disk_size(&self.store)) {
                Ok(options) => options,
                Err(failure) => {
                    tracing::warn!(%failure, "a rule of garbage collection is not understood");
                    continue;
                }
            };
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let store = Arc::clone(&self.store);
            let work = move || {
                if !all && !store.exceeds(&options) {
                    return Ok(false);
                }
                pruned(&store, &options, turn)?;
                Ok::<_, Failure>(store.exceeds(&options))
            };
            match blocking(work).await.and_then(identity) {
                Ok(still) => over |= still,
                Err(failure) => {
                    over = true;
                    tracing::warn!(%failure, "garbage collection failed");
                }
            }
        }
        self.applied(mark, begun, over);
    }
}

/// One prune in its turn.
fn pruned(
    store: &Store,
    options: &PruneOptions,
    _turn: OwnedMutexGuard<()>,
) -> Result<Vec<UsageRecord>, Failure> {
    let span = tracing::info_span!(
        "collect garbage",
        records = tracing::field::Empty,
        freed_bytes = tracing::field::Empty
    );
    let _entered = span.enter();
    let gone = store.prune(options).map_err(Failure::store)?;
    let freed = gone.iter().map(|record| record.size).fold(0, u64::saturating_add);
    span.record("records", gone.len()).record("freed_bytes", freed);
    if !gone.is_empty() {
        tracing::info!(records = gone.len(), freed, "garbage collected");
    }
    Ok(gone)
}

/// Collects until the process ends. Without rules or limits there is nothing to do.
pub(crate) async fn collect_garbage(context: Arc<Context>) {
    let garbage = &context.garbage;
    if garbage.rules.is_empty() {
        return;
    }
    let mut due = Instant::now() + FIRST;
    loop {
        let all = garbage.wait(due).await;
        garbage.apply(all).await;
        if all {
            due = Instant::now() + INTERVAL;
        }
    }
}

/// What a server asks for: the old go whatever their size, and then the least recently used whatever their age.
fn asked(max_bytes: Option<u64>, keep_seconds: Option<u64>) -> Vec<PruneOptions> {
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    let old = keep_seconds
        .map(|seconds| PruneOptions { keep_duration: Duration::from_secs(seconds), ..all.clone() });
    // No bytes at all are no limit, and without a limit everything goes.
    let large =
        max_bytes.map(|bytes| PruneOptions { max_used_space: bytes, whole: true, ..all.clone() });
    old.into_iter().chain(large).collect()
}

/// How much has to come in before the limits of size are looked at again; none when there are none.
fn step(rules: &[GcPolicy], disk: u64) -> Option<u64> {
    let limits = rules.iter().flat_map(|rule| {
        let most = rule.max_used_space.bytes(disk);
        let free = rule.min_free_space.bytes(disk);
        // Space that has to stay free says nothing of how much may be taken.
        [most, if free == 0 { 0 } else { MOST * SHARE }, reserved(rule, disk)]
    });
    let least = limits.filter(|limit| *limit > 0).min();
    least.map(|limit| (limit / SHARE).clamp(LEAST, MOST))
}

/// Size of the disk that holds the store, in bytes; 0 when it cannot be had, which turns
/// percentages off.
pub(crate) fn disk_size(store: &Store) -> u64 {
    rustix::fs::statvfs(store.path()).map_or(0, |disk| disk.f_blocks * disk.f_frsize)
}

/// The rules of the configuration, in order; what the worker as a whole may use is the last.
pub(crate) fn rules(config: &Config) -> Vec<GcPolicy> {
    let worker = &config.worker.oci;
    if !worker.gcpolicy.is_empty() {
        return worker.gcpolicy.clone();
    }
    let none = DiskSpace::default();
    let limits =
        [worker.reserved_space, worker.max_used_space, worker.min_free_space, worker.gckeepstorage];
    if limits.iter().all(|limit| *limit == none) {
        return Vec::new();
    }
    vec![GcPolicy {
        all: true,
        keep_bytes: worker.gckeepstorage,
        reserved_space: worker.reserved_space,
        max_used_space: worker.max_used_space,
        min_free_space: worker.min_free_space,
        ..GcPolicy::default()
    }]
}

fn options(rule: &GcPolicy, disk: u64) -> Result<PruneOptions, Failure> {
    let filter = match rule.filters.is_empty() {
        true => None,
        false => Some(matching(Filters::parse(&rule.filters)?)),
    };
    Ok(PruneOptions {
        all: rule.all,
        keep_duration: rule.keep_duration.duration(),
        reserved_space: reserved(rule, disk),
        max_used_space: rule.max_used_space.bytes(disk),
        min_free_space: rule.min_free_space.bytes(disk),
        whole: false,
        filter,
    })
}

fn reserved(rule: &GcPolicy, disk: u64) -> u64 {
    rule.reserved_space.bytes(disk).max(rule.keep_bytes.bytes(disk))
}

/// A rule as clients are shown it.
pub(crate) fn to_wire(
    rule: &GcPolicy,
    disk: u64,
) -> cofferdam_wire::moby::buildkit::v1::types::GCPolicy {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let keep = rule.keep_duration.duration().as_nanos();
    cofferdam_wire::moby::buildkit::v1::types::GCPolicy {
        all: rule.all,
        keepDuration: i64::try_from(keep).unwrap_or(i64::MAX),
        filters: rule.filters.clone(),
        reservedSpace: signed(reserved(rule, disk)),
        maxUsedSpace: signed(rule.max_used_space.bytes(disk)),
        minFreeSpace: signed(rule.min_free_space.bytes(disk)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
