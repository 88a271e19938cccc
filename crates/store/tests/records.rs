//! Records: keys, aliases, restarts and crashes.
#![allow(clippy::unwrap_used)]

mod common;

use cofferdam_digest::Digest;
use cofferdam_store::{
    Document, LayerBlob, OpenError, Options, Record, RecordError, RecordType, Store, Tree,
    mount_tree,
};
use common::{blob, crash, layer, open, prune_all, put, read};

#[test]
fn a_second_open_of_the_same_directory_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let error = Store::open(temp.path(), Options::default()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Locked { holder, .. }
        if *holder == std::process::id().to_string()),
        "{error}"
    );
    // A layer keeps the store open.
    let layer = layer(&store, &[]);
    drop(store);
    assert!(Store::open(temp.path(), Options::default()).is_err());
    drop(layer);
    open(temp.path());
}

#[test]
fn records_whose_making_a_crash_stopped_are_made_anew() {
    let temp = tempfile::tempdir().unwrap();
    let (part, file) = (temp.path().join("records.part"), temp.path().join("records"));
    std::fs::write(&part, vec![0xff; 3 << 20]).unwrap();
    let store = open(temp.path());
    assert!(file.exists() && !part.exists());
    let key = put(&store, "key", &[Tree::from(layer(&store, &[("a", "1")]))]);
    drop(store);
    let store = open(temp.path());
    assert!(store.record(&key).is_some() && !store.was_damaged());
}

#[test]
fn a_record_leads_to_its_trees_at_once_and_after_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let (identity, alias) = (Digest::of("key"), Digest::of("alias"));
    {
        let store = open(temp.path());
        let base = layer(&store, &[("a", "1")]);
        let top = layer(&store, &[("b", "2")]);
        let trees = [Tree::new(vec![base.clone(), top]), Tree::from(base), Tree::scratch()];
        let mut record = Record::new(identity, &trees);
        record.aliases = vec![alias];
        record.description = "RUN it".into();
        store.put_record(record.clone()).unwrap();
        for _ in 0..2 {
            let (found, found_trees) = store.record(&alias).unwrap();
            assert_eq!(found, record);
            assert_eq!(found_trees.iter().map(Tree::len).collect::<Vec<_>>(), [2, 1, 0]);
            store.flush().unwrap();
        }
        assert!(store.record(&Digest::of("other")).is_none());
    }
    let store = open(temp.path());
    for key in [identity, alias] {
        let (found, trees) = store.record(&key).unwrap();
        assert_eq!(found.description, "RUN it");
        assert_eq!(read(mount_tree(&trees[0], None).unwrap(), "b").unwrap(), "2");
        let info = trees[0].top().unwrap().info();
        assert_eq!(info.parents, [trees[0].layers()[0].id()]);
    }
}

#[test]
fn aliases_can_be_added_and_survive_a_repeated_record() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let tree = Tree::from(layer(&store, &[]));
    let identity = put(&store, "key", std::slice::from_ref(&tree));
    store.flush().unwrap();
    store.add_alias(&identity, Digest::of("one")).unwrap();
    store.add_alias(&Digest::of("one"), Digest::of("two")).unwrap();
    store.add_alias(&Digest::of("nothing"), Digest::of("three")).unwrap();
    put(&store, "key", &[tree]);
    store.flush().unwrap();
    for key in ["one", "two"] {
        assert_eq!(store.record(&Digest::of(key)).unwrap().0.identity, identity);
    }
    assert!(store.record(&Digest::of("three")).is_none());
    store.remove_record(&identity);
    for _ in 0..2 {
        assert!(store.record(&identity).is_none());
        assert!(store.record(&Digest::of("one")).is_none());
        store.flush().unwrap();
    }
}

#[test]
fn a_record_that_names_a_missing_layer_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let active = store.new_layer("never committed", RecordType::Regular).unwrap();
    let mut record = Record::new(Digest::of("key"), &[]);
    record.outputs = vec![vec![active.id()]];
    assert!(matches!(store.put_record(record), Err(RecordError::UnknownLayer { .. })));
}

#[test]
fn a_crash_before_the_batch_leaves_the_old_state_and_sweeps_the_rest() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let old = layer(&store, &[("old", "1")]);
    let old_key = put(&store, "old", &[Tree::from(old.clone())]);
    store.flush().unwrap();
    let new = layer(&store, &[("new", "1")]);
    let new_key = put(&store, "new", &[Tree::new(vec![old.clone(), new.clone()])]);
    let active = store.new_layer("running", RecordType::Regular).unwrap();
    let _ingest = store.blob_writer(None).unwrap();

    let (copy, after) = crash(temp.path());
    assert!(after.record(&old_key).is_some());
    assert!(after.record(&new_key).is_none());
    assert!(after.layer(new.id()).is_none());
    assert_eq!(after.usage().len(), 1);
    after.wait_for_deletions();
    let count =
        |part: &str| std::fs::read_dir(copy.path().join("root").join(part)).unwrap().count();
    assert_eq!(["layers", "active", "ingest", "trash"].map(count), [1, 0, 0, 0]);
    // Numbers of what was swept are not reused.
    let next = after.new_layer("next", RecordType::Regular).unwrap();
    assert!(next.id() > new.id() && next.id() > old.id());
    drop(active);
}

#[test]
fn a_crash_between_eviction_and_its_rows_is_swept() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = layer(&store, &[("a", "1")]);
    let top = layer(&store, &[("b", "1")]);
    let key = put(&store, "key", &[Tree::new(vec![base.clone(), top.clone()])]);
    let base_key = put(&store, "base", &[Tree::from(base)]);
    store.flush().unwrap();
    // The directory is gone, the rows are not.
    let (copy, after) = crash(temp.path());
    drop(after);
    let root = copy.path().join("root");
    std::fs::remove_dir_all(root.join("layers").join(top.id().to_string())).unwrap();
    let after = open(&root);
    assert!(after.record(&key).is_none());
    assert!(after.record(&base_key).is_some());
    assert_eq!(after.usage().len(), 1);
    drop(after);
    assert!(open(&root).record(&key).is_none());
}

#[test]
fn a_record_above_a_lost_layer_leads_nowhere_and_can_be_made_anew() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = layer(&store, &[("a", "1")]);
    let top = layer(&store, &[("b", "1")]);
    let tree = Tree::new(vec![base.clone(), top.clone()]);
    let key = put(&store, "key", std::slice::from_ref(&tree));
    let top_key = put(&store, "top", &[Tree::from(top.clone())]);
    store.flush().unwrap();
    let (copy, after) = crash(temp.path());
    drop(after);
    let root = copy.path().join("root");
    std::fs::remove_dir_all(root.join("layers").join(base.id().to_string())).unwrap();
    let after = open(&root);
    assert!(after.record(&top_key).is_some());
    assert!(after.record(&key).is_none());
    assert!(after.record(&key).is_none());
    let base = layer(&after, &[("a", "2")]);
    let top = after.layer(top.id()).unwrap();
    put(&after, "key", &[Tree::new(vec![base, top])]);
    drop(after);
    let after = open(&root);
    assert_eq!(after.record(&key).unwrap().1[0].len(), 2);
    assert_eq!(after.prune(&prune_all()).unwrap().len(), 2);
    assert!(after.record(&key).is_none() && after.record(&top_key).is_none());
    drop((after, tree));
}

#[test]
fn content_digests_last_as_long_as_the_tree() {
    let temp = tempfile::tempdir().unwrap();
    let selector = Digest::of("/etc");
    let id = {
        let store = open(temp.path());
        let tree = Tree::from(layer(&store, &[("etc/x", "1")]));
        put(&store, "key", std::slice::from_ref(&tree));
        assert_eq!(store.content_digest(&tree, &selector), None);
        store.put_content_digest(&tree, &selector, Digest::of("value"));
        assert_eq!(store.content_digest(&tree, &selector), Some(Digest::of("value")));
        store.put_content_digest(&Tree::scratch(), &selector, Digest::of("nothing"));
        tree.layers()[0].id()
    };
    let store = open(temp.path());
    let tree = Tree::from(store.layer(id).unwrap());
    assert_eq!(store.content_digest(&tree, &selector), Some(Digest::of("value")));
    let scratch = store.content_digest(&Tree::scratch(), &selector);
    assert_eq!(scratch, Some(Digest::of("nothing")));
    assert_eq!(store.content_digest(&tree, &Digest::of("/usr")), None);
}

#[test]
fn a_pulled_layer_is_found_by_its_chain_id_and_keeps_its_blobs() {
    let temp = tempfile::tempdir().unwrap();
    let chain = Digest::of("chain");
    {
        let store = open(temp.path());
        let layer = layer(&store, &[("a", "1")]);
        let blob = blob(&store, b"packed");
        store.set_layer_chain_id(&layer, chain);
        let packed = LayerBlob {
            digest: blob.digest(),
            size: blob.size(),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            diff_id: Digest::of("tar"),
            annotations: std::collections::BTreeMap::default(),
        };
        store.set_layer_blob(&layer, packed.clone());
        store.set_layer_blob(&layer, packed);
        assert_eq!(layer.info().blobs.len(), 1);
        assert_eq!(layer.info().diff_id, Some(Digest::of("tar")));
    }
    let store = open(temp.path());
    let layer = store.layer_by_chain_id(&chain).unwrap();
    assert_eq!(layer.info().usage_count, 1);
    store.prune(&prune_all()).unwrap();
    assert!(store.blob(&layer.info().blobs[0].digest).is_some());
    drop(layer);
    assert_eq!(store.prune(&prune_all()).unwrap().len(), 1);
    assert!(store.layer_by_chain_id(&chain).is_none());
    assert!(store.blobs().unwrap().is_empty());
}

#[test]
fn documents_are_durable_and_keep_their_blobs() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let kept = blob(&store, b"log");
    let document = |key: &str| Document {
        key: key.into(),
        bytes: key.as_bytes().to_vec(),
        blobs: vec![kept.digest()],
    };
    store.put_document("history", &document("b")).unwrap();
    store.put_document("history", &document("a")).unwrap();
    store.put_document("other", &document("c")).unwrap();
    let (_copy, after) = crash(temp.path());
    let digest = kept.digest();
    assert_eq!(after.documents("history").unwrap(), [document("a"), document("b")]);
    after.prune(&prune_all()).unwrap();
    assert!(after.blob(&digest).is_some());
    for (kind, key) in [("history", "a"), ("history", "b"), ("other", "c")] {
        after.remove_document(kind, key).unwrap();
    }
    assert_eq!(after.document("history", "a").unwrap(), None);
    after.prune(&prune_all()).unwrap();
    assert!(after.blobs().unwrap().is_empty());
}

fn keys(store: &Store) -> Vec<String> {
    store.documents("notes").unwrap().into_iter().map(|document| document.key).collect()
}

#[test]
fn notes_become_durable_with_the_next_batch_and_keep_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store.note_document("notes", "a", b"1").unwrap();
    store.note_document("notes", "b", b"2").unwrap();
    store.note_document("notes", "a", b"3").unwrap();
    store.forget_document("notes", "b").unwrap();
    assert_eq!(keys(&store), ["a"], "known at once");
    let loose = blob(&store, b"content").digest();
    store.flush().unwrap();
    let (_copy, after) = crash(temp.path());
    assert_eq!(keys(&after), ["a"]);
    let found = after.document("notes", "a").unwrap().unwrap();
    assert_eq!((found.bytes, found.blobs), (b"3".to_vec(), Vec::new()));
    after.prune(&prune_all()).unwrap();
    assert!(after.blob(&loose).is_none());
    let much = vec![0; (16 << 20) + 1];
    let refused = after.note_document("notes", "c", &much).unwrap_err();
    assert!(matches!(refused, RecordError::DocumentSize { .. }), "{refused}");
}
