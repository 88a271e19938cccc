//! Leaves the async threads for work that waits on the disk.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_store::Store;

use crate::failure::Failure;

/// Longest wait for the deletion of what a failed step wrote.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::internal)
}

/// Drops what a failed step `held` and waits until its space is free again: it may have failed
/// for want of space, and whoever tries again at once must find that space. A slow disk goes on
/// deleting in the background.
pub(crate) async fn give_back(store: &Arc<Store>, held: impl Send + 'static) {
    let store = Arc::clone(store);
    let deleted = blocking(move || {
        drop(held);
        store.wait_for_deletions();
    });
    let _ = tokio::time::timeout(GIVE_BACK, deleted).await;
}
