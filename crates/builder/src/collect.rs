//! Garbage collection by the rules of the configuration, in the background.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_store::PruneOptions;

use crate::config::{DiskSpace, GcPolicy};
use crate::context::Context;

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
    let rules = rules(&context);
    if rules.is_empty() {
        return;
    }
    tokio::time::sleep(FIRST).await;
    loop {
        for rule in &rules {
            let store = Arc::clone(&context.store);
            let options = options(rule, disk_size(&store));
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
fn disk_size(store: &cofferdam_store::Store) -> u64 {
    rustix::fs::statvfs(store.path()).map_or(0, |disk| disk.f_blocks * disk.f_frsize)
}

fn rules(context: &Context) -> Vec<GcPolicy> {
    let worker = &context.config.worker.oci;
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

fn options(rule: &GcPolicy, disk: u64) -> PruneOptions {
    let reserved = rule.reserved_space.bytes(disk).max(rule.keep_bytes.bytes(disk));
    PruneOptions {
        all: rule.all,
        keep_duration: rule.keep_duration.duration(),
        reserved_space: reserved,
        max_used_space: rule.max_used_space.bytes(disk),
        min_free_space: rule.min_free_space.bytes(disk),
        ..PruneOptions::default()
    }
}
