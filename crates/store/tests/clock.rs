//! Clocks that are set: nothing lives for ever, and nothing is taken at once.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_store::{Clock, Document, Options, PruneOptions, Store, Tree};
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
fn a_jump_ahead_makes_nothing_older() {
    let temp = tempfile::tempdir().unwrap();
    let hands = hands();
    let store = open(temp.path(), &hands);
    put(&store, "key", &[Tree::from(layer(&store, &[]))]);
    hands.pass(HOUR);
    hands.wall.fetch_add(30 * DAY, Ordering::SeqCst);
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(2 * DAY);
    assert_eq!(evicted(&store, 14), 0, "it is two days old");
    // Nor does it after a restart.
    drop(store);
    let store = open(temp.path(), &hands);
    hands.pass(11 * DAY);
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(DAY);
    assert_eq!(evicted(&store, 14), 1, "time that passed counts");
}

#[test]
fn a_clock_that_was_behind_when_the_store_was_opened_makes_nothing_old() {
    let temp = tempfile::tempdir().unwrap();
    let hands = hands();
    let old = {
        let store = open(temp.path(), &hands);
        let old = layer(&store, &[]);
        put(&store, "old", &[Tree::from(old.clone())]);
        old.id()
    };
    hands.pass(10 * DAY);
    hands.wall.fetch_sub(100 * DAY, Ordering::SeqCst);
    let store = open(temp.path(), &hands);
    let new = layer(&store, &[]);
    put(&store, "new", &[Tree::from(new)]);
    assert_eq!(evicted(&store, 14), 0);
    hands.pass(HOUR);
    hands.wall.fetch_add(100 * DAY, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(evicted(&store, 14), 0);
        hands.pass(2 * DAY);
    }
    assert!(store.layer(old).is_some());
    hands.pass(9 * DAY);
    assert_eq!(evicted(&store, 14), 2);
}

#[test]
fn a_clock_that_is_set_back_and_right_again_changes_no_age() {
    let temp = tempfile::tempdir().unwrap();
    let hands = hands();
    let store = open(temp.path(), &hands);
    let older = layer(&store, &[]).id();
    hands.pass(DAY);
    hands.wall.fetch_sub(20 * DAY, Ordering::SeqCst);
    let newer = layer(&store, &[]).id();
    hands.wall.fetch_add(20 * DAY, Ordering::SeqCst);
    hands.pass(13 * DAY + HOUR);
    assert_eq!(evicted(&store, 14), 1);
    assert!(store.layer(older).is_none());
    assert!(store.layer(newer).is_some());
}

#[test]
fn documents_follow_a_jump_too() {
    let temp = tempfile::tempdir().unwrap();
    let hands = hands();
    let store = open(temp.path(), &hands);
    store.let_documents_age("aging", 10);
    let document = Document { key: "a".into(), bytes: b"x".to_vec(), blobs: Vec::new() };
    store.put_document("aging", &document).unwrap();
    let left = |store: &Arc<Store>| {
        evicted(store, 14);
        store.documents("aging").unwrap().len()
    };
    assert_eq!(left(&store), 1, "its use is in the database now");
    hands.pass(HOUR);
    hands.wall.fetch_add(30 * DAY, Ordering::SeqCst);
    assert_eq!(left(&store), 1);
    hands.pass(13 * DAY);
    assert_eq!(left(&store), 1);
    hands.pass(DAY);
    assert_eq!(left(&store), 0);
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
