//! House keeping: what goes, what stays, and a full disk.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_digest::Digest;
use cofferdam_store::{
    Document, LayerUsage, PruneOptions, Record, RecordType, Sharing, Store, Tree,
};
use common::{blob, layer, open, prune_all, put};

const MIB: u64 = 1 << 20;

fn sized(store: &Arc<Store>, mib: u64) -> cofferdam_store::Layer {
    let active = store.new_layer("sized", RecordType::Regular).unwrap();
    let usage = LayerUsage { bytes: mib * MIB, inodes: 1, plain: true };
    active.commit_with_usage(usage).unwrap()
}

fn ids(records: &[cofferdam_store::UsageRecord]) -> Vec<String> {
    records.iter().map(|record| record.id.clone()).collect()
}

#[tokio::test]
async fn after_pruning_all_nothing_is_left() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let tree = Tree::new(vec![layer(&store, &[("a", "1")]), layer(&store, &[("b", "2")])]);
    let mut record = Record::new(Digest::of("key"), &[tree]);
    let config = blob(&store, b"config");
    record.blobs = vec![config.digest()];
    store.put_record(record).unwrap();
    put(&store, "scratch", &[Tree::scratch()]);
    let loose = blob(&store, b"loose");
    let mut partial = store.resume_blob(&Digest::of("never"), 100).unwrap();
    partial.write_all(b"part").unwrap();
    drop(store.mirror("context").unwrap());
    drop(store.cache_mount("x", &Tree::scratch(), Sharing::Shared).await.unwrap());

    // The configuration is kept by the record, the other by its holder.
    drop(config);
    store
        .prune(&PruneOptions {
            filter: None,
            keep_duration: Duration::from_secs(60),
            ..prune_all()
        })
        .unwrap();
    assert!(store.blob(&Digest::of("config")).is_some());
    assert!(store.blob(&loose.digest()).is_some());

    drop((loose, partial));
    let evicted = store.prune(&prune_all()).unwrap();
    assert_eq!(evicted.len(), 4);
    assert!(store.usage().is_empty());
    assert!(store.blobs().unwrap().is_empty());
    assert!(store.record(&Digest::of("key")).is_none());
    assert!(store.record(&Digest::of("scratch")).is_none());
    store.wait_for_deletions();
    for part in ["layers", "active", "mutable", "trash", "content", "fresh", "ingest"] {
        let left = std::fs::read_dir(temp.path().join(part)).unwrap().count();
        assert_eq!(left, 0, "{part}");
    }
    drop(store);
    let store = open(temp.path());
    assert!(store.usage().is_empty());
    assert!(store.record(&Digest::of("key")).is_none());
}

#[test]
fn what_is_held_stays_with_all_that_lies_beneath() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (base, middle, top) = (sized(&store, 1), sized(&store, 1), sized(&store, 1));
    let chain = Tree::new(vec![base.clone(), middle.clone(), top]);
    put(&store, "chain", &[chain]);
    let held = middle.clone();
    let middle_id = middle.id();
    drop((base, middle));
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 1, "only the top may go");
    assert!(store.layer(middle_id).is_some());
    let in_use: Vec<bool> = store.usage().iter().map(|record| record.in_use).collect();
    assert_eq!(in_use, [false, true]);
    drop(held);
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 2);
}

#[test]
fn a_plain_prune_skips_what_the_builder_made_for_itself() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    for kind in [RecordType::Regular, RecordType::Internal, RecordType::Frontend] {
        store.new_layer(kind.as_str(), kind).unwrap().commit().unwrap();
    }
    let evicted = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(evicted.len(), 1);
    assert_eq!(evicted[0].record_type, RecordType::Regular);
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 2);
}

#[test]
fn with_a_size_to_keep_the_least_recently_used_go_first() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = sized(&store, 10);
    let mut names = Vec::new();
    for key in ["one", "two", "three"] {
        let top = sized(&store, 10);
        names.push(top.id().to_string());
        put(&store, key, &[Tree::new(vec![base.clone(), top])]);
    }
    let base_name = base.id().to_string();
    drop(base);
    for key in ["two", "one"] {
        drop(store.record(&Digest::of(key)).unwrap());
        std::thread::sleep(Duration::from_millis(2));
    }
    let keep = |bytes| PruneOptions { max_used_space: bytes, ..prune_all() };
    // The records' file counts as well.
    let own = store.disk().unwrap().total() - 40 * MIB;
    assert!((1..6 * MIB).contains(&own), "{own}");
    assert_eq!(store.prune(&keep(46 * MIB)).unwrap().len(), 0);
    assert_eq!(ids(&store.prune(&keep(39 * MIB)).unwrap()), [names[2].clone()]);
    assert!(store.record(&Digest::of("three")).is_none());
    assert_eq!(ids(&store.prune(&keep(28 * MIB)).unwrap()), [names[1].clone()]);
    let reserved = PruneOptions { reserved_space: 26 * MIB, ..keep(1) };
    assert_eq!(store.prune(&reserved).unwrap().len(), 0);
    assert_eq!(ids(&store.prune(&keep(1)).unwrap()), [names[0].clone(), base_name]);
}

#[test]
fn free_space_age_and_filters_decide() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (one, two) = (sized(&store, 10).id(), sized(&store, 20).id());
    for key in [one, two] {
        put(&store, &key.to_string(), &[Tree::from(store.layer(key).unwrap())]);
        drop(store.record(&Digest::of(key.to_string())).unwrap());
    }
    let young = PruneOptions { keep_duration: Duration::from_secs(60), ..prune_all() };
    assert_eq!(store.prune(&young).unwrap().len(), 0);
    let enough_free = PruneOptions { min_free_space: 1, ..prune_all() };
    assert_eq!(store.prune(&enough_free).unwrap().len(), 0);
    let wanted = two.to_string();
    let filter =
        PruneOptions { filter: Some(Arc::new(move |record| record.id == wanted)), ..prune_all() };
    assert_eq!(ids(&store.prune(&filter).unwrap()), [two.to_string()]);
    let never_enough = PruneOptions { min_free_space: u64::MAX, ..prune_all() };
    assert_eq!(store.prune(&never_enough).unwrap().len(), 1);
}

#[test]
fn sizes_are_counted_once_and_blobs_belong_to_their_layer() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let text = "x".repeat(1 << 20);
    let first = layer(&store, &[("a", &text)]);
    let second = sized(&store, 0);
    let packed = blob(&store, &[1; 5000]);
    for layer in [&first, &second] {
        store.set_layer_blob(
            layer,
            cofferdam_store::LayerBlob {
                digest: packed.digest(),
                size: packed.size(),
                media_type: "tar".into(),
                diff_id: Digest::of("tar"),
                annotations: std::collections::BTreeMap::default(),
            },
        );
    }
    let usage = store.usage();
    let directory = first.info().usage.unwrap().bytes;
    assert!((MIB..MIB + 65_536).contains(&directory), "{directory}");
    assert_eq!(usage[0].size, directory + 5000);
    assert_eq!(usage[1].size, 0);
}

#[test]
fn notes_of_use_are_remembered() {
    let temp = tempfile::tempdir().unwrap();
    {
        let store = open(temp.path());
        put(&store, "key", &[Tree::from(sized(&store, 1))]);
        drop(store.record(&Digest::of("key")));
        drop(store.record(&Digest::of("key")));
    }
    let store = open(temp.path());
    let usage = store.usage();
    assert_eq!(usage[0].usage_count, 2);
    assert!(usage[0].last_used_at.is_some());
}

#[test]
fn pruning_while_a_store_is_busy_takes_nothing_that_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let pruner = {
        let (store, stop) = (store.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                store.prune(&prune_all()).unwrap();
            }
        })
    };
    for round in 0..100 {
        let key = format!("key {round}");
        let made = layer(&store, &[("file", &key)]);
        let written = blob(&store, key.as_bytes());
        put(&store, &key, &[Tree::from(made.clone())]);
        let (_, trees) = store.record(&Digest::of(&key)).unwrap();
        drop(made);
        let found = std::fs::read_to_string(trees[0].layers()[0].dir().join("file")).unwrap();
        assert_eq!(found, key);
        assert!(written.open().is_ok());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    pruner.join().unwrap();
    store.prune(&prune_all()).unwrap();
    assert!(store.usage().is_empty());
    assert!(store.blobs().unwrap().is_empty());
}

struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(bytes: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", temp.path(), "tmpfs", flags, Some(options.as_c_str()))
            .unwrap();
        Self(temp)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_gives_a_clear_error_and_an_intact_store() {
    let mounted = Mounted::new(8 * MIB);
    let root = mounted.0.path().join("store");
    let store = open(&root);
    let old = layer(&store, &[("old", "1")]);
    let old_key = put(&store, "old", &[Tree::from(old.clone())]);
    store.flush().unwrap();

    let mut writer = store.blob_writer(None).unwrap();
    let error = std::iter::repeat_with(|| writer.write_all(&[0; 4096])).find_map(Result::err);
    let kind = error.unwrap().kind();
    assert_eq!(kind, std::io::ErrorKind::StorageFull);
    // Many rows at once, so that the records' file would have to grow.
    for round in 0..2000 {
        let key = format!("while full {round}");
        put(&store, &key, &[Tree::from(old.clone())]);
    }
    let error = store.flush().unwrap_err();
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = source {
        text.push_str(&format!("{error}: "));
        source = error.source();
    }
    assert!(text.contains("No space left on device"), "{text}");
    // What is there can be read, what waits is not lost.
    for key in ["old", "while full 1999"] {
        assert!(store.record(&Digest::of(key)).is_some(), "{key}");
    }
    drop(writer);
    store.flush().unwrap();
    drop((old, store));
    let store = open(&root);
    assert!(store.record(&old_key).is_some());
    assert!(store.record(&Digest::of("while full 1999")).is_some());
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 1);
    assert!(store.record(&old_key).is_none());
}

#[tokio::test]
async fn layers_that_were_merged_in_both_orders_go_too() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (one, two) = (layer(&store, &[("a", "1")]), layer(&store, &[("b", "2")]));
    put(&store, "merged", &[Tree::new(vec![one.clone(), two.clone()])]);
    put(&store, "merged the other way", &[Tree::new(vec![two.clone(), one.clone()])]);

    drop(one);
    assert!(store.prune(&prune_all()).unwrap().is_empty(), "the one that is held needs the other");
    drop(two);
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 2);
    assert!(store.usage().is_empty());
}

#[test]
fn blobs_go_with_the_last_that_names_them() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let blobs = [blob(&store, b"named"), blob(&store, b"held"), blob(&store, b"loose")];
    let digests = blobs.each_ref().map(cofferdam_store::Blob::digest);
    let document = Document { key: "k".into(), bytes: b"x".to_vec(), blobs: vec![digests[0]] };
    store.put_document("kind", &document).unwrap();
    let [named, held, loose] = blobs;
    drop((named, loose));
    store.release_blobs(&digests);
    assert!(store.blob(&digests[0]).is_some(), "a document names it");
    assert!(store.blob(&digests[1]).is_some(), "somebody holds it");
    assert!(store.blob(&digests[2]).is_none());
    store.remove_document("kind", "k").unwrap();
    drop(held);
    store.release_blobs(&digests);
    assert!(digests.iter().all(|digest| store.blob(digest).is_none()));
}

#[test]
fn a_rule_about_size_takes_young_downloads_only_when_space_is_wanted() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let loose = blob(&store, b"loose").digest();
    let mut partial = store.resume_blob(&Digest::of("never"), 100).unwrap();
    partial.write_all(b"part").unwrap();
    drop(partial);
    let left = || std::fs::read_dir(temp.path().join("ingest")).unwrap().count();
    let keep = |bytes| PruneOptions { max_used_space: bytes, ..prune_all() };
    store.prune(&keep(1 << 40)).unwrap();
    assert!(store.blob(&loose).is_some());
    assert_eq!(left(), 1);
    store.prune(&keep(1)).unwrap();
    assert!(store.blob(&loose).is_none());
    assert_eq!(left(), 0);
}

#[test]
fn a_rule_about_size_takes_packed_blobs_with_their_layers() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (made, packed) = (sized(&store, 10), blob(&store, b"packed"));
    let digest = packed.digest();
    store.set_layer_blob(
        &made,
        cofferdam_store::LayerBlob {
            digest,
            size: packed.size(),
            media_type: "tar".into(),
            diff_id: Digest::of("tar"),
            annotations: std::collections::BTreeMap::new(),
        },
    );
    drop((made, packed));
    let keep = PruneOptions { max_used_space: 8 * MIB, ..prune_all() };
    assert_eq!(store.prune(&keep).unwrap().len(), 1);
    assert!(store.blob(&digest).is_none(), "it was counted as freed");
}

#[test]
fn documents_go_by_age_and_number_where_that_was_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let put = |store: &Arc<Store>, kind: &str, key: &str| {
        let kept = blob(store, key.as_bytes());
        let document =
            Document { key: key.into(), bytes: b"x".to_vec(), blobs: vec![kept.digest()] };
        store.put_document(kind, &document).unwrap();
    };
    let keys = |store: &Arc<Store>, kind: &str| -> Vec<String> {
        store.documents(kind).unwrap().into_iter().map(|document| document.key).collect()
    };
    let old = PruneOptions { keep_duration: Duration::from_secs(3600), ..prune_all() };
    {
        let store = open(temp.path());
        for key in ["a", "b", "c"] {
            put(&store, "lasting", key);
            put(&store, "aging", key);
        }
        store.let_documents_age("aging", 3);
        assert_eq!(store.prune(&old).unwrap().len(), 0);
        assert_eq!(keys(&store, "aging"), ["a", "b", "c"]);
        // Notes last as soon as anything else does.
        put(&store, "lasting", "a");
    }
    // Stamps last over a restart; the unused go first, those used since stay.
    std::thread::sleep(Duration::from_millis(1100));
    let store = open(temp.path());
    store.let_documents_age("aging", 1);
    store.document("aging", "b").unwrap().unwrap();
    store.prune(&old).unwrap();
    assert_eq!(keys(&store, "aging"), ["b"]);
    store.prune(&prune_all()).unwrap();
    assert_eq!(keys(&store, "aging"), [""; 0]);
    assert_eq!(keys(&store, "lasting"), ["a", "b", "c"]);
    for key in ["a", "b", "c"] {
        assert!(store.blob(&Digest::of(key)).is_some(), "history keeps it");
    }
}

#[test]
fn a_limit_of_size_is_about_the_disk_and_takes_nothing_that_is_held() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let text = "x".repeat(2 << 20);
    let base = layer(&store, &[("base", &text)]);
    let mut tops = Vec::new();
    for key in 0..8 {
        let top = layer(&store, &[("top", &text)]);
        put(&store, &key.to_string(), &[Tree::new(vec![base.clone(), top.clone()])]);
        tops.push(top);
    }
    let held = Tree::new(vec![base.clone(), tops[0].clone()]);
    drop((base, tops));
    store.flush().unwrap();
    let own = store.disk().unwrap().total() - 18 * MIB;
    let limit = |bytes| PruneOptions { max_used_space: bytes, whole: true, ..prune_all() };
    assert!(!store.exceeds(&limit(20 * MIB + own)));
    assert!(store.exceeds(&limit(13 * MIB + own)));
    store.prune(&limit(13 * MIB + own)).unwrap();
    store.wait_for_deletions();
    assert!(store.disk().unwrap().total() <= 13 * MIB + own);
    let found = |key: u32| store.record(&Digest::of(key.to_string())).is_some();
    assert_eq!((0..8).filter(|key| found(*key)).collect::<Vec<_>>(), [0, 4, 5, 6, 7]);
    for _ in 0..2 {
        store.prune(&limit(1)).unwrap();
        assert_eq!((0..8).filter(|key| found(*key)).collect::<Vec<_>>(), [0]);
    }
    assert!(held.layers().iter().all(|layer| layer.open().is_ok()));
    drop(held);
    store.prune(&limit(1)).unwrap();
    assert!(store.usage().is_empty());
}

#[test]
fn blobs_that_stay_for_others_do_not_count_as_freed() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let packed = blob(&store, &vec![7; 4 << 20]);
    let kept = Document { key: "k".into(), bytes: b"x".to_vec(), blobs: vec![packed.digest()] };
    store.put_document("lasting", &kept).unwrap();
    for key in ["one", "two", "three"] {
        let made = sized(&store, 2);
        let form = cofferdam_store::LayerBlob {
            digest: packed.digest(),
            size: packed.size(),
            media_type: "tar".into(),
            diff_id: Digest::of("tar"),
            annotations: std::collections::BTreeMap::new(),
        };
        store.set_layer_blob(&made, form);
        put(&store, key, &[Tree::from(made)]);
    }
    drop(packed);
    store.flush().unwrap();
    let all = store.disk().unwrap().total();
    // The first to go is listed with the blob, which the document keeps.
    let limit = PruneOptions { max_used_space: all - 3 * MIB, whole: true, ..prune_all() };
    assert_eq!(store.prune(&limit).unwrap().len(), 2);
    assert!(!store.exceeds(&limit));
    // What the document alone keeps counts where all of the disk does.
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 1);
    let apart = PruneOptions { max_used_space: 3 * MIB, ..prune_all() };
    assert!(!store.exceeds(&apart));
    assert!(store.exceeds(&PruneOptions { whole: true, ..apart }));
}
