//! Damage: wrong bytes, damaged records, directories that were in use, a disk that is full.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_store::{Options, Record, Sharing, Store, Tree, Trouble};
use common::{blob, crash, layer, open, prune_all, put, write};

fn contents(store: &Arc<Store>, digest: &Digest) -> Option<String> {
    let mut text = String::new();
    store.blob(digest)?.open().unwrap().read_to_string(&mut text).unwrap();
    Some(text)
}

/// A closed store with one blob, and the path of the blob's file.
fn with_blob(root: &Path) -> (Digest, std::path::PathBuf) {
    let store = open(root);
    let digest = blob(&store, b"right").digest();
    (digest, root.join("content").join(digest.hex()))
}

#[test]
fn a_commit_replaces_a_blob_that_rotted() {
    let temp = tempfile::tempdir().unwrap();
    let (digest, path) = with_blob(temp.path());
    for rotten in ["wrong", "cut"] {
        std::fs::write(&path, rotten).unwrap();
        let store = open(temp.path());
        assert_eq!(blob(&store, b"right").size(), 5);
        assert_eq!(contents(&store, &digest).unwrap(), "right");
        store.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "right");
    }
}

#[test]
fn a_blob_found_wrong_is_set_aside_with_the_records_that_keep_it() {
    let temp = tempfile::tempdir().unwrap();
    let (digest, path) = with_blob(temp.path());
    let store = open(temp.path());
    let identity = Digest::of("key");
    let mut record = Record::new(identity, &[Tree::from(layer(&store, &[("a", "1")]))]);
    record.blobs = vec![digest];
    store.put_record(record).unwrap();
    store.flush().unwrap();
    assert!(store.check_blob(&digest).unwrap());
    std::fs::write(&path, "wrong").unwrap();
    assert!(!store.check_blob(&digest).unwrap());
    assert!(store.blob(&digest).is_none());
    assert!(store.record(&identity).is_none());
    let missing = store.check_blob(&digest).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    drop(blob(&store, b"right"));
    assert_eq!(contents(&store, &digest).unwrap(), "right");
}

#[test]
fn a_store_is_compared_with_its_records_and_repaired() {
    let temp = tempfile::tempdir().unwrap();
    let (digest, path) = with_blob(temp.path());
    let store = open(temp.path());
    let (gone, kept) = (layer(&store, &[("a", "1")]), layer(&store, &[("b", "2")]));
    let (gone_key, kept_key) =
        (put(&store, "gone", &[gone.clone().into()]), put(&store, "kept", &[kept.clone().into()]));
    store.flush().unwrap();
    assert_eq!(store.verify(true).unwrap(), [] as [Trouble; 0]);
    std::fs::write(&path, "wrong").unwrap();
    std::fs::create_dir(temp.path().join("mutable/zzz")).unwrap();
    std::fs::remove_dir_all(gone.dir()).unwrap();
    std::fs::write(kept.dir().join("more"), vec![1; 1 << 20]).unwrap();
    let name = format!("layers/{}", gone.id());
    drop(gone);
    let found = store.verify(false).unwrap();
    let expected = [
        Trouble::Blob { digest },
        Trouble::Row { name },
        Trouble::Orphan { path: "mutable/zzz".into() },
    ];
    assert!(expected.iter().all(|trouble| found.contains(trouble)), "{found:?}");
    assert!(matches!(found[3], Trouble::Size { id, .. } if id == kept.id()), "{found:?}");
    assert_eq!(store.verify(true).unwrap(), found);
    assert_eq!(store.verify(false).unwrap(), [] as [Trouble; 0]);
    assert!(store.record(&gone_key).is_none());
    assert!(store.record(&kept_key).is_some());
}

#[test]
fn damaged_records_are_set_aside_and_the_blobs_stay() {
    let temp = tempfile::tempdir().unwrap();
    let (digest, _) = with_blob(temp.path());
    let records = temp.path().join("records");
    for damage in [b"not a database at all".to_vec(), vec![0xff; 100_000]] {
        let store = open(temp.path());
        let made = layer(&store, &[("a", "1")]);
        let old_id = made.id();
        let key = put(&store, "key", &[Tree::from(made)]);
        drop(store);
        std::fs::write(&records, damage).unwrap();
        let store = open(temp.path());
        assert!(store.was_damaged());
        assert!(store.record(&key).is_none());
        assert_eq!(contents(&store, &digest).unwrap(), "right");
        assert!(layer(&store, &[]).id() > old_id, "numbers are not used again");
        store.wait_for_deletions();
        assert_eq!(std::fs::read_dir(temp.path().join("trash")).unwrap().count(), 0);
        drop(store);
        assert!(!open(temp.path()).was_damaged());
    }
}

#[tokio::test]
async fn a_directory_that_was_in_use_at_a_crash_is_counted_anew() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    drop(store.cache_mount("x", &Tree::scratch(), Sharing::Shared).await.unwrap());
    let _ = store.usage();
    store.flush().unwrap();
    let held = store.cache_mount("x", &Tree::scratch(), Sharing::Shared).await.unwrap();
    write(held.open().unwrap(), "file", &"x".repeat(1 << 20));
    let in_use = store.disk().unwrap().directories;
    assert!(in_use >= 1 << 20, "{in_use}");
    // Before and after the row says that it is in use.
    for _ in 0..2 {
        let (_copy, after) = crash(temp.path());
        let usage = after.usage();
        assert!(usage[0].size >= 1 << 20, "{usage:?}");
        store.flush().unwrap();
    }
}

#[tokio::test]
async fn disk_usage_is_what_du_says() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let text = "x".repeat(3 << 20);
    let kept: Vec<_> = (0..8).map(|_| layer(&store, &[("a/b", &text), ("c", "1")])).collect();
    let blobs: Vec<_> = (0..8_u8).map(|byte| blob(&store, &vec![byte; 500_000])).collect();
    let mut partial = store.resume_blob(&Digest::of("never"), 1 << 30).unwrap();
    partial.write_all(&vec![1; 2 << 20]).unwrap();
    let active = store.new_layer("under way", cofferdam_store::RecordType::Regular).unwrap();
    std::fs::write(active.dir().join("file"), &text).unwrap();
    let mirror = store.mirror("context").unwrap();
    write(mirror.open().unwrap(), "file", &text);
    store.flush().unwrap();
    let du = || -> u64 {
        let output = std::process::Command::new("du").args(["-s", "-B1"]).arg(temp.path()).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    let close = |what: &str| {
        let (ours, theirs) = (store.disk().unwrap().total(), du());
        assert!(ours.abs_diff(theirs) <= theirs / 100, "{what}: {ours} and du {theirs}");
    };
    close("with things in use");
    drop((kept, blobs, partial, active, mirror));
    store.wait_for_deletions();
    close("with nothing in use");
    store.prune(&prune_all()).unwrap();
    store.wait_for_deletions();
    store.flush().unwrap();
    assert!(store.disk().unwrap().total() < 16 << 20);
}

#[test]
fn a_store_on_a_full_disk_can_be_opened_and_pruned() {
    let temp = tempfile::tempdir().unwrap();
    let options = std::ffi::CString::new("size=16777216").unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", temp.path(), "tmpfs", flags, Some(options.as_c_str())).unwrap();
    let root = temp.path().join("store");
    let store = open(&root);
    drop(layer(&store, &[("large", &"x".repeat(1 << 20))]));
    drop(store);
    let mut filler = std::fs::File::create(temp.path().join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let opened = Store::open(&root, Options::default());
    let evicted = opened.map(|store| store.prune(&prune_all()).unwrap().len());
    drop(filler);
    rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(evicted.unwrap(), 1);
}
