//! Garbage collection by the rules of the configuration, in the background.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_store::PruneOptions;

use crate::config::{Config, DiskSpace, GcPolicy};
use crate::context::Context;
use crate::control::usage::matching;
use crate::failure::Failure;
use crate::filters::Filters;

/// Between two collections.
const INTERVAL: Duration = Duration::from_secs(60);
/// Before the first one: a builder that a server starts for a build may be idle, and end, before an interval is over.
const FIRST: Duration = Duration::from_secs(20);

/// Collects until the process ends. Without rules or limits there is nothing to do.
pub(crate) async fn collect_garbage(context: Arc<Context>) {
    let worker = &context.config.worker.oci;
    if worker.gc == Some(false) {
        return;
    }
    let rules = rules(&context.config);
    if rules.is_empty() {
        return;
    }
    tokio::time::sleep(FIRST).await;
    loop {
        for rule in &rules {
            let store = Arc::clone(&context.store);
            let options = match options(rule, disk_size(&store)) {
                Ok(options) => options,
                Err(failure) => {
                    tracing::warn!(%failure, "a rule of garbage collection is not understood");
                    continue;
                }
            };
            let result = tokio::task::spawn_blocking(move || store.prune(&options)).await;
            match result {
                Ok(Ok(gone)) if gone.is_empty() => {}
                Ok(Ok(gone)) => tracing::info!(records = gone.len(), "garbage collected"),
                Ok(Err(error)) => tracing::warn!(%error, "garbage collection failed"),
                Err(error) => tracing::warn!(%error, "garbage collection failed"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Size of the disk that holds the store, in bytes; 0 when it cannot be had, which turns
/// percentages off.
pub(crate) fn disk_size(store: &cofferdam_store::Store) -> u64 {
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
