//! Clocks that are set: nothing lives for ever, and nothing is taken at once.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_store::{Clock, Options, PruneOptions, Store, Tree};
use common::{layer, prune_all, put};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// Both clocks in seconds.
#[derive(Clone, Default)]
struct Hands {
    wall: Arc<AtomicU64>,
    boot: Arc<AtomicU64>,
}

impl Hands {
    fn pass(&self, seconds: u64) {
        self.wall.fetch_add(seconds, Ordering::SeqCst);
        self.boot.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> DateTime<Utc> {
        let seconds = self.wall.load(Ordering::SeqCst);
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(seconds).unwrap())
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(self.boot.load(Ordering::SeqCst))
    }
}

fn open(root: &Path, hands: &Hands) -> Arc<Store> {
    Store::open_with_clock(root, Options::default(), Box::new(hands.clone())).unwrap()
}

fn hands() -> Hands {
    let hands = Hands::default();
    hands.wall.store(1000 * DAY, Ordering::SeqCst);
    hands
}

fn evicted(store: &Arc<Store>, days: u64) -> usize {
    let options = PruneOptions { keep_duration: Duration::from_secs(days * DAY), ..prune_all() };
    store.prune(&options).unwrap().len()
}

#[test]
fn a_jump_ahead_makes_nothing_old_for_a_day() {
    let temp = tempfile::tempdir().unwrap();
    let hands = hands();
    let store = open(temp.path(), &hands);
    put(&store, "key", &[Tree::from(layer(&store, &[]))]);
    hands.pass(HOUR);
    hands.wall.fetch_add(30 * DAY, Ordering::SeqCst);
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(23 * HOUR);
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(2 * HOUR);
    assert_eq!(evicted(&store, 14), 1, "the clock was meant");
}

#[test]
fn time_that_passes_makes_things_old() {
    let temp = tempfile::tempdir().unwrap();
    let hands = hands();
    let store = open(temp.path(), &hands);
    put(&store, "key", &[Tree::from(layer(&store, &[]))]);
    hands.pass(13 * DAY);
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(2 * DAY);
    assert_eq!(evicted(&store, 14), 1);
}

#[test]
fn stamps_of_the_future_grow_old_like_others() {
    let temp = tempfile::tempdir().unwrap();
    let hands = hands();
    let store = open(temp.path(), &hands);
    hands.wall.fetch_add(3000 * DAY, Ordering::SeqCst);
    let before = store.now();
    put(&store, "key", &[Tree::from(layer(&store, &[]))]);
    hands.wall.fetch_sub(3000 * DAY, Ordering::SeqCst);
    assert!(store.now() >= before, "stamps never go back");
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(15 * DAY);
    assert_eq!(evicted(&store, 14), 1);

    // The same with a restart between.
    hands.wall.fetch_add(3000 * DAY, Ordering::SeqCst);
    put(&store, "key", &[Tree::from(layer(&store, &[]))]);
    drop(store);
    hands.wall.fetch_sub(3000 * DAY, Ordering::SeqCst);
    let store = open(temp.path(), &hands);
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(15 * DAY);
    assert_eq!(evicted(&store, 14), 1);
}
