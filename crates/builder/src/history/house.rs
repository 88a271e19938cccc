//! House keeping: how many records there are, and when they reach the disk.
//!
//! As BuildKit has it, a record goes when it is both older than `maxAge` and not among the `maxEntries` newest, and never while it is
//! pinned. On top of that there are bounds of our own, because clients decide how many builds there are and what they print.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use connectrpc::ErrorCode;

use super::History;
use super::entry::{Entry, Key};
use crate::config;
use crate::failure::Failure;

/// BuildKit's defaults.
const MAX_AGE: Duration = Duration::from_secs(48 * 3600);
const MAX_ENTRIES: usize = 50;
/// Records that there are at most, whatever their age: a listing is read whole.
const MOST_RECORDS: usize = 5000;
/// Bytes that records and their blobs take at most by default: hundreds of builds that print all they may.
const MOST_BYTES: u64 = 2 << 30;
/// Between the end of a build and its record on disk, as for everything in the store; others that end meanwhile come with it.
const WRITE_DELAY: Duration = Duration::from_secs(1);
/// Between two looks for records that became too old.
const INTERVAL: Duration = Duration::from_secs(120);

/// What is kept.
#[derive(Debug)]
pub(super) struct Bounds {
    age: Duration,
    entries: usize,
    bytes: u64,
}

impl Bounds {
    pub(super) fn of(config: &config::History) -> Self {
        let age = config.max_age.duration();
        // BuildKit's defaults hold when the section is missing; one that is there means what it says.
        let said = config.max_entries.is_some() || !age.is_zero();
        let entries = config.max_entries.map(|most| usize::try_from(most).unwrap_or(0));
        let bytes = config.max_bytes.bytes(0);
        Self {
            age: if said { age } else { MAX_AGE },
            entries: entries.unwrap_or(if said { 0 } else { MAX_ENTRIES }),
            bytes: if bytes == 0 { MOST_BYTES } else { bytes },
        }
    }

    /// Whether one more record may be pinned: pinned ones leave room for others.
    pub(super) fn check_pin(&self, ended: &BTreeMap<Key, Entry>) -> Result<(), Failure> {
        let pinned = || ended.values().filter(|entry| entry.pinned);
        let bytes: u64 = pinned().map(|entry| entry.size).sum();
        if pinned().count() >= MOST_RECORDS / 2 || bytes >= self.bytes / 2 {
            let message = "too many builds are pinned: unpin or delete some";
            return Err(Failure::new(ErrorCode::ResourceExhausted, message));
        }
        Ok(())
    }

    /// The records that have to go, oldest first.
    fn excess(&self, ended: &BTreeMap<Key, Entry>) -> Vec<Key> {
        let mut total: u64 = ended.values().map(|entry| entry.size).sum();
        let mut count = ended.len();
        let mut free: Vec<_> = ended.iter().filter(|(_, entry)| !entry.pinned).collect();
        free.sort_by_key(|(_, entry)| entry.completed);
        let newest = free.len().saturating_sub(self.entries);
        let cut =
            TimeDelta::from_std(self.age).ok().and_then(|age| Utc::now().checked_sub_signed(age));
        let mut going = Vec::new();
        for (index, (key, entry)) in free.into_iter().enumerate() {
            let old = index < newest && cut.is_some_and(|cut| entry.completed < cut);
            if old || count > MOST_RECORDS || total > self.bytes {
                count -= 1;
                total = total.saturating_sub(entry.size);
                going.push(key.clone());
            }
        }
        going
    }
}

impl History {
    /// Removes what is too much.
    pub(super) async fn expire(&self) {
        let going = self.bounds.excess(&self.lock().ended);
        for key in going {
            if let Err(failure) = self.remove_key(&key).await {
                tracing::warn!(%failure, "a build's record could not be removed");
                return;
            }
        }
    }

    /// Writes new records soon.
    pub(super) fn schedule_write(self: &Arc<Self>) {
        if self.write_scheduled.swap(true, Ordering::SeqCst) {
            return;
        }
        let history = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(WRITE_DELAY).await;
            history.write_scheduled.store(false, Ordering::SeqCst);
            history.flush().await;
            history.expire().await;
        });
    }

    /// Looks for records that became too old, until the process ends.
    pub(crate) async fn keep_house(self: Arc<Self>) {
        loop {
            self.expire().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
