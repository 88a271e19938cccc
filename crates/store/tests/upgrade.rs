//! Stores that older versions wrote: opened and read by this one.
//!
//! `tests/fixtures/store-N.tar.gz` was made by `write_the_fixture` when schema N was current and
//! never changes; a new schema adds a fixture of its own.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_digest::Digest;
use cofferdam_store::{Document, LayerBlob, Record, Sharing, Tree, Trouble, mount_tree};
use common::{blob, layer, open, read, write};

fn fixture(schema: u32) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    directory.join(format!("store-{schema}.tar.gz"))
}

fn tar(args: &[&str], archive: &Path, root: &Path) {
    let mut command = Command::new("tar");
    command.args(args).arg("-f").arg(archive).arg("-C").arg(root);
    if args.contains(&"-c") {
        command.arg(".");
    }
    assert!(command.status().unwrap().success());
}

/// Run by hand, once for each schema: `cargo test -p cofferdam-store --test upgrade -- --ignored`.
#[tokio::test]
#[ignore = "writes the fixture"]
async fn write_the_fixture() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let base = layer(&store, &[("etc/base", "1")]);
    let top = layer(&store, &[("etc/top", "2")]);
    store.set_layer_chain_id(&base, Digest::of("chain"));
    let (packed, config) = (blob(&store, b"packed"), blob(&store, b"config"));
    let form = LayerBlob {
        digest: packed.digest(),
        size: packed.size(),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        diff_id: Digest::of("tar"),
        annotations: std::collections::BTreeMap::default(),
    };
    store.set_layer_blob(&base, form);
    let tree = Tree::new(vec![base, top]);
    let mut record = Record::new(Digest::of("key"), std::slice::from_ref(&tree));
    record.aliases = vec![Digest::of("alias")];
    record.blobs = vec![config.digest()];
    record.description = "RUN it".into();
    store.put_record(record).unwrap();
    store.put_content_digest(&tree, &Digest::of("/etc"), Digest::of("files"));
    let log = blob(&store, b"log");
    let document =
        Document { key: "build".into(), bytes: b"ended".to_vec(), blobs: vec![log.digest()] };
    store.put_document("history", &document).unwrap();
    let mirror = store.mirror("context").unwrap();
    write(mirror.open().unwrap(), "file", "mirrored");
    let mount = store.cache_mount("go", &Tree::scratch(), Sharing::Shared).await.unwrap();
    write(mount.open().unwrap(), "file", "cached");
    drop((tree, packed, config, log, mirror, mount));
    store.wait_for_deletions();
    drop(store);
    let archive = fixture(2);
    assert!(!archive.exists(), "fixtures never change");
    std::fs::create_dir_all(archive.parent().unwrap()).unwrap();
    tar(&["-c", "-z", "--sparse"], &archive, temp.path());
}

#[tokio::test]
async fn a_store_of_schema_1_is_read() {
    is_read(1).await;
}

#[tokio::test]
async fn a_store_of_schema_2_is_read() {
    is_read(2).await;
}

async fn is_read(schema: u32) {
    let temp = tempfile::tempdir().unwrap();
    tar(&["-x", "-z"], &fixture(schema), temp.path());
    let text = |blob: cofferdam_store::Blob| {
        let mut text = String::new();
        blob.open().unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let store = open(temp.path());
    assert!(!store.was_damaged());
    let (record, trees) = store.record(&Digest::of("alias")).unwrap();
    assert_eq!((record.identity, record.description.as_str()), (Digest::of("key"), "RUN it"));
    assert_eq!(text(store.blob(&record.blobs[0]).unwrap()), "config");
    for (name, contents) in [("etc/base", "1"), ("etc/top", "2")] {
        assert_eq!(read(mount_tree(&trees[0], None).unwrap(), name).unwrap(), contents);
    }
    let digest = store.content_digest(&trees[0], &Digest::of("/etc"));
    assert_eq!(digest, Some(Digest::of("files")));
    let base = store.layer_by_chain_id(&Digest::of("chain")).unwrap();
    assert_eq!(base.info().diff_id, Some(Digest::of("tar")));
    assert_eq!(text(store.blob(&base.info().blobs[0].digest).unwrap()), "packed");
    let document = store.document("history", "build").unwrap().unwrap();
    assert_eq!(document.bytes, b"ended");
    assert_eq!(text(store.blob(&document.blobs[0]).unwrap()), "log");
    let mirror = store.mirror("context").unwrap();
    assert_eq!(read(mirror.open().unwrap(), "file").unwrap(), "mirrored");
    let mount = store.cache_mount("go", &Tree::scratch(), Sharing::Shared).await.unwrap();
    assert_eq!(read(mount.open().unwrap(), "file").unwrap(), "cached");
    // Sizes are not compared: file systems differ.
    let mut found = store.verify(false).unwrap();
    found.retain(|trouble| !matches!(trouble, Trouble::Size { .. }));
    assert_eq!(found, [] as [Trouble; 0]);
    // And it goes on from there.
    drop(layer(&store, &[("new", "3")]));
    store.flush().unwrap();
}
