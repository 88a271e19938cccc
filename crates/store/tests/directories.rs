//! Cache mounts and mirrors: who gets which directory, and who waits.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use cofferdam_store::{Sharing, Tree};
use common::{crash, layer, names, open, prune_all, put, read, write};

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn shared_mounts_are_one_directory() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = Tree::scratch();
    let first = store.cache_mount("go", &base, Sharing::Shared).await.unwrap();
    let second = store.cache_mount("go", &base, Sharing::Shared).await.unwrap();
    assert_eq!(first.id(), second.id());
    write(first.mount().unwrap(), "file", "1");
    assert_eq!(read(second.mount().unwrap(), "file").unwrap(), "1");
    let other = store.cache_mount("npm", &base, Sharing::Shared).await.unwrap();
    assert_ne!(first.id(), other.id());
    drop(first);
    // Still held by the second.
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 0);
    let id = second.id();
    drop((second, other));
    let again = store.cache_mount("go", &base, Sharing::Private).await.unwrap();
    assert_eq!(again.id(), id);
}

#[tokio::test]
async fn private_mounts_are_apart_and_used_again() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = Tree::scratch();
    let first = store.cache_mount("x", &base, Sharing::Private).await.unwrap();
    let second = store.cache_mount("x", &base, Sharing::Private).await.unwrap();
    assert_ne!(first.id(), second.id());
    write(second.open().unwrap(), "warm", "1");
    let warm = second.id();
    drop(first);
    drop(second);
    let third = store.cache_mount("x", &base, Sharing::Private).await.unwrap();
    assert_eq!(third.id(), warm, "the last used one is the warmest");
    assert_eq!(names(third.open().unwrap()), ["warm"]);
}

#[tokio::test]
async fn locked_mounts_wait_their_turn() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = Tree::scratch();
    let first = store.cache_mount("apt", &base, Sharing::Locked).await.unwrap();
    let id = first.id();
    let abandoned = store.cache_mount("apt", &base, Sharing::Locked);
    assert!(tokio::time::timeout(SOON, abandoned).await.is_err());
    // Others do not wait: they get a directory of their own.
    let private = store.cache_mount("apt", &base, Sharing::Private).await.unwrap();
    assert_ne!(private.id(), id);
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let (store, base) = (store.clone(), base.clone());
            tokio::spawn(async move {
                let held = store.cache_mount("apt", &base, Sharing::Locked).await.unwrap();
                let busy = held.dir().join("busy");
                std::fs::create_dir(&busy).unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                std::fs::remove_dir(&busy).unwrap();
            })
        })
        .collect();
    tokio::time::sleep(SOON).await;
    assert!(!waiters.iter().any(tokio::task::JoinHandle::is_finished));
    drop(first);
    for waiter in waiters {
        tokio::time::timeout(Duration::from_secs(10), waiter).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_mount_on_a_base_shows_both_and_keeps_the_base() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = Tree::from(layer(&store, &[("seed", "1")]));
    put(&store, "base", std::slice::from_ref(&base));
    let first = store.cache_mount("x", &base, Sharing::Shared).await.unwrap();
    let second = store.cache_mount("x", &base, Sharing::Shared).await.unwrap();
    let (one, two) = (first.mount().unwrap(), second.mount().unwrap());
    write(&one, "seed", "changed");
    write(&two, "more", "2");
    assert_eq!(read(&two, "seed").unwrap(), "changed");
    assert_eq!(names(&one), ["more", "seed"]);
    let scratch = store.cache_mount("x", &Tree::scratch(), Sharing::Shared).await.unwrap();
    assert_ne!(scratch.id(), first.id());
    drop((one, two, first, second, scratch));
    // Once free, it can be mounted anew.
    let again = store.cache_mount("x", &base, Sharing::Locked).await.unwrap();
    assert_eq!(read(again.mount().unwrap(), "seed").unwrap(), "changed");
    drop(base);
    store.prune(&prune_all()).unwrap();
    assert_eq!(store.usage().len(), 2, "the directory is held, and it lies on the layer");
    drop(again);
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 2);
    assert!(store.usage().is_empty());
}

#[tokio::test]
async fn dropped_cache_mounts_are_not_given_out_again() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = Tree::scratch();
    let held = store.cache_mount("x", &base, Sharing::Shared).await.unwrap();
    let id = held.id();
    store.drop_cache_mounts("x");
    let fresh = store.cache_mount("x", &base, Sharing::Shared).await.unwrap();
    assert_ne!(fresh.id(), id);
    assert!(held.dir().exists());
    let path = held.dir().to_owned();
    drop(held);
    assert!(!path.exists());
}

#[tokio::test]
async fn directories_survive_a_restart_and_a_crash_of_the_process() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mirror = store.mirror("context").unwrap();
    write(mirror.open().unwrap(), "file", "1");
    write(mirror.open_state().unwrap(), "digests", "2");
    assert_eq!(names(mirror.mount().unwrap()), ["file"]);
    drop(mirror);
    let cache = store.cache_mount("x", &Tree::scratch(), Sharing::Shared).await.unwrap();
    write(cache.open().unwrap(), "file", "3");
    store.flush().unwrap();
    drop(cache);

    let (copy, after) = crash(temp.path());
    let mirror = after.mirror("context").unwrap();
    assert_eq!(read(mirror.open().unwrap(), "file").unwrap(), "1");
    assert_eq!(read(mirror.open_state().unwrap(), "digests").unwrap(), "2");
    let cache = after.cache_mount("x", &Tree::scratch(), Sharing::Shared).await.unwrap();
    assert_eq!(read(cache.open().unwrap(), "file").unwrap(), "3");
    drop((mirror, cache, after));

    let root = copy.path().join("root");
    assert!(!root.join("mirrors-open").exists());
    let sizes: Vec<_> = open(&root).usage().iter().map(|record| record.size > 0).collect();
    assert_eq!(sizes, [true, true]);
}

#[test]
fn mirrors_are_not_trusted_after_a_crash_of_the_machine() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    write(store.mirror("context").unwrap().open().unwrap(), "file", "1");
    store.flush().unwrap();
    let (copy, after) = crash(temp.path());
    let root = copy.path().join("root");
    drop(after);
    std::fs::write(root.join("mirrors-open"), "another-run-of-the-machine").unwrap();
    let after = open(&root);
    assert_eq!(names(after.mirror("context").unwrap().open().unwrap()), [""; 0]);
}

#[test]
fn mirrors_are_exclusive_and_can_be_given_up() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let first = store.mirror("context").unwrap();
    let second = store.mirror("context").unwrap();
    assert_ne!(first.id(), second.id());
    let id = second.id();
    first.discard();
    drop(second);
    let again = store.mirror("context").unwrap();
    assert_eq!(again.id(), id);
    assert_ne!(store.mirror("other").unwrap().id(), id);
}
