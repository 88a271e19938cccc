//! When a collection is due, and what it is told to do.
#![allow(clippy::unwrap_used)]
use std::io::Write as _;

use cofferdam_store::{Layer, Options, RecordType};

use super::*;

const MIB: u64 = 1 << 20;

fn limited(limit: u64) -> Config {
    let mut config = Config::default();
    config.worker.oci.max_used_space = DiskSpace::Bytes(limit);
    config
}

fn bench(config: &Config) -> (tempfile::TempDir, Arc<Store>, Garbage) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), Options::default()).unwrap();
    let garbage = Garbage::new(&store, config);
    (root, store, garbage)
}

fn layer(store: &Arc<Store>, mib: usize) -> Layer {
    let active = store.new_layer("made by a test", RecordType::Regular).unwrap();
    std::fs::write(active.dir().join("file"), vec![7; mib << 20]).unwrap();
    active.commit().unwrap()
}

#[test]
fn a_look_is_worth_it_once_a_share_of_the_smallest_limit_came_in() {
    let rule =
        |most: u64| GcPolicy { max_used_space: DiskSpace::Bytes(most), ..GcPolicy::default() };
    assert_eq!(step(&[], 1 << 40), None);
    assert_eq!(step(&[GcPolicy::default()], 1 << 40), None, "rules of age wait");
    assert_eq!(step(&[rule(320 * MIB)], 1 << 40), Some(10 * MIB));
    assert_eq!(step(&[rule(1 << 50), rule(320 * MIB)], 1 << 40), Some(10 * MIB));
    assert_eq!(step(&[rule(1)], 1 << 40), Some(LEAST));
    assert_eq!(step(&[rule(1 << 50)], 1 << 40), Some(MOST));
    let free = GcPolicy { min_free_space: DiskSpace::Bytes(1), ..GcPolicy::default() };
    assert_eq!(step(&[free], 1 << 40), Some(MOST));
    let mark = Mark { growth: 100, free: 1000 };
    assert!(!mark.is_passed(Mark { growth: 109, free: 991 }, 10));
    assert!(mark.is_passed(Mark { growth: 110, free: 2000 }, 10), "by the store's count");
    assert!(mark.is_passed(Mark { growth: 100, free: 990 }, 10), "by the disk");
}

#[test]
fn what_a_server_asks_for_is_age_first_and_then_size() {
    let both = asked(Some(7), Some(60));
    assert_eq!((both[0].max_used_space, both[0].keep_duration.as_secs()), (0, 60));
    assert_eq!((both[1].max_used_space, both[1].keep_duration.as_secs()), (7, 0));
    assert!(both.iter().all(|options| options.all) && both[1].whole);
    assert_eq!((asked(None, None).len(), asked(Some(1), None).len()), (0, 1));
}

#[tokio::test]
async fn much_that_comes_in_ends_the_wait_and_the_limit_holds_again() {
    let (_root, store, garbage) = bench(&limited(64 * MIB));
    let due = Instant::now() + Duration::from_secs(3600);
    let running = garbage.running();
    let mut kept = Vec::new();
    for _ in 0..8 {
        let mut writer = store.blob_writer(None).unwrap();
        writer.write_all(&[1; 1 << 20]).unwrap();
        drop(writer);
        kept.push(layer(&store, 20));
        kept.truncate(1);
        store.flush().unwrap();
        assert!(!garbage.wait(due).await, "it grew");
        garbage.apply(false).await;
        store.wait_for_deletions();
        assert!(store.disk().unwrap().total() <= 64 * MIB);
    }
    assert!(kept[0].open().is_ok(), "somebody holds it");
    assert_eq!(store.usage().first().map(|record| record.in_use), Some(true));
    drop(running);
    assert_eq!(garbage.running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_collection_that_was_asked_for_leaves_what_is_held_and_tells_what_is_left() {
    let (_root, store, garbage) = bench(&Config::default());
    let held = layer(&store, 8);
    for _ in 0..3 {
        drop(layer(&store, 8));
    }
    store.flush().unwrap();
    store.wait_for_deletions();
    let untouched = garbage.collect(None, None).await.unwrap();
    assert_eq!((untouched.freed, store.usage().len()), (0, 4));
    let young = garbage.collect(Some(1 << 40), Some(3600)).await.unwrap();
    assert_eq!((young.freed, store.usage().len()), (0, 4));
    let limit = untouched.left - 4 * MIB;
    let smaller = garbage.collect(Some(limit), None).await.unwrap();
    assert!(smaller.left <= limit && smaller.freed >= 4 * MIB, "{smaller:?}");
    assert_eq!(store.usage().len(), 3);
    let least = garbage.collect(Some(0), Some(0)).await.unwrap();
    assert!(least.left < smaller.left, "{least:?}");
    assert_eq!(store.usage().len(), 1);
    assert!(held.open().is_ok());
}
