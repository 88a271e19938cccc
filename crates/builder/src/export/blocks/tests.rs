//! Blocks of earlier packs: kept, lost, damaged.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use cofferdam_image::layer::{self, PackOptions};
use cofferdam_store::Options;
use tempfile::TempDir;

use super::*;

const ALL: Bounds = Bounds { least_bytes: 1, ..BOUNDS };

fn open(root: &Path) -> Arc<Store> {
    Store::open(root, Options::default()).unwrap()
}

fn bounded(store: &Arc<Store>, bounds: Bounds) -> PackedBlocks {
    PackedBlocks { bounds, ..PackedBlocks::new(Arc::clone(store)) }
}

/// A directory that makes more than five blocks.
fn large() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..4000_u32 {
        let content = number.to_le_bytes().repeat(500);
        fs::write(dir.path().join(format!("f{number}")), content).unwrap();
    }
    dir
}

fn small(content: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), content).unwrap();
    dir
}

fn packed(blocks: &PackedBlocks, dir: &TempDir) -> (Packed, Blob) {
    let source = blocks.source();
    let options = PackOptions { index: true, prior: Some(&source), ..PackOptions::default() };
    let mut writer = blocks.store().blob_writer(None).unwrap();
    let directory = File::open(dir.path()).unwrap();
    let packed = layer::pack(directory.as_fd(), &options, &mut writer).unwrap();
    (packed, writer.commit().unwrap())
}

fn remembered(blocks: &PackedBlocks, dir: &TempDir) -> (Packed, Blob) {
    let (packed, blob) = packed(blocks, dir);
    blocks.remember(&packed);
    (packed, blob)
}

fn noted(store: &Store) -> Vec<String> {
    store.documents(KIND).unwrap().into_iter().map(|document| document.key).collect()
}

fn names(digests: &[Digest]) -> Vec<String> {
    let mut names: Vec<String> = digests.iter().map(Digest::to_string).collect();
    names.sort();
    names
}

#[test]
fn what_was_packed_is_taken_over_also_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let dir = large();
    {
        let store = open(root.path());
        let blocks = bounded(&store, ALL);
        let (first, _) = remembered(&blocks, &dir);
        assert!(first.blocks.len() > 5 && first.reused_blocks == 0, "{first:?}");
        fs::write(dir.path().join("f77"), "changed").unwrap();
        let (second, _) = remembered(&blocks, &dir);
        assert_ne!(second.digest, first.digest);
        assert!(second.reused_blocks + 3 >= second.blocks.len() as u64, "{second:?}");
        store.flush().unwrap();
    }
    fs::write(dir.path().join("f78"), "changed too").unwrap();
    let store = open(root.path());
    let (third, _) = packed(&bounded(&store, ALL), &dir);
    assert!(third.reused_blocks + 3 >= third.blocks.len() as u64, "{third:?}");
    let elsewhere = tempfile::tempdir().unwrap();
    let (fresh, _) = packed(&bounded(&open(elsewhere.path()), ALL), &dir);
    assert_eq!(fresh.reused_blocks, 0);
    assert_eq!((fresh.digest, fresh.blocks), (third.digest, third.blocks), "it does not show");
}

#[test]
fn the_oldest_fall_out_of_the_bounds() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let blocks = bounded(&store, Bounds { blobs: 2, ..ALL });
    let made = ["a", "b", "c"].map(|text| remembered(&blocks, &small(text)).0.digest);
    assert_eq!(noted(&store), names(&made[1..]));
    // In the order of packing, whatever the digests.
    let again = bounded(&store, Bounds { blobs: 2, ..ALL });
    let order: Vec<Digest> = again.known().iter().map(|index| index.blob).collect();
    assert_eq!(order, made[1..]);
    // By count of blocks, and at the start as well.
    let fewer = bounded(&store, Bounds { blocks: 1, ..ALL });
    assert_eq!(fewer.source().earlier.len(), 1);
    assert_eq!(noted(&store), names(&made[2..]));
    // A blob that is small, or has too many blocks, is none to remember.
    let none = bounded(&store, Bounds { blocks: 0, ..ALL });
    remembered(&none, &small("d"));
    remembered(&bounded(&store, BOUNDS), &small("e"));
    assert_eq!(noted(&store), Vec::<String>::new());
}

#[test]
fn what_is_gone_from_the_store_is_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let blocks = bounded(&store, ALL);
    let (first, blob) = remembered(&blocks, &small("a"));
    let key = first.blocks[0].key;
    assert!(blocks.source().block(&key).is_some(), "control");
    let source = blocks.source();
    drop(blob);
    store.release_blobs(&[first.digest]);
    assert!(store.blob(&first.digest).is_none(), "nothing but a pack holds it");
    assert_eq!(source.block(&key), None);
    let (second, blob) = remembered(&blocks, &small("b"));
    assert_eq!(noted(&store), names(&[second.digest]));
    assert_eq!(blocks.known().len(), 1);
    drop(blob);
    store.release_blobs(&[second.digest]);
    assert_eq!(bounded(&store, ALL).source().earlier.len(), 0);
    assert_eq!(noted(&store), Vec::<String>::new());
}

#[test]
fn a_pack_holds_what_it_reads() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let blocks = bounded(&store, ALL);
    let (made, blob) = remembered(&blocks, &small("a"));
    drop(blob);
    let source = blocks.source();
    assert!(source.block(&made.blocks[0].key).is_some());
    store.release_blobs(&[made.digest]);
    assert!(store.blob(&made.digest).is_some());
    drop(source);
    store.release_blobs(&[made.digest]);
    assert!(store.blob(&made.digest).is_none());
}

#[test]
fn damaged_and_foreign_documents_are_dropped() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (made, _blob) = packed(&bounded(&store, ALL), &small("a"));
    let index = Index { blob: made.digest, turn: 7, blocks: made.blocks };
    let (name, good) = (made.digest.to_string(), index.encode());
    assert_eq!(Index::decode(&name, &good), Some(index), "control");
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        assert_eq!(Index::decode(&name, &bad), None, "byte {place}");
        assert_eq!(Index::decode(&name, &good[..place]), None, "{place} bytes");
    }
    assert_eq!(Index::decode("nonsense", &good), None);
    let other = Digest::of("another blob");
    assert_eq!(Index::decode(&other.to_string(), &good), None);
    // A whole list of another encoding.
    let mut body = [b"blocks 0".as_slice(), &good[FORMAT.len()..good.len() - 32]].concat();
    body.extend_from_slice(sum(&made.digest, &body).as_bytes());
    assert_eq!(Index::decode(&name, &body), None);

    store.note_document(KIND, "nonsense", &good).unwrap();
    store.note_document(KIND, &name, &body).unwrap();
    assert_eq!(bounded(&store, ALL).source().earlier.len(), 0);
    assert_eq!(noted(&store), Vec::<String>::new());
}

#[test]
fn a_block_that_is_not_what_it_was_is_compressed_anew() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let dir = large();
    let (made, _blob) = packed(&bounded(&store, ALL), &dir);
    let wrong: [fn(&mut Block); 5] = [
        |block| block.crc ^= 1,
        |block| block.offset += 1,
        |block| block.offset = u64::MAX,
        |block| block.size += 1,
        |block| block.size = u32::MAX,
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        let blocks = bounded(&store, ALL);
        let mut listed = made.clone();
        listed.blocks.iter_mut().for_each(change);
        blocks.remember(&listed);
        let (again, _) = packed(&blocks, &dir);
        assert_eq!(again.reused_blocks, 0, "{number}");
        assert_eq!((again.digest, &again.blocks), (made.digest, &made.blocks), "{number}");
    }
    let blocks = bounded(&store, ALL);
    blocks.remember(&made);
    let (again, _) = packed(&blocks, &dir);
    assert_eq!(again.reused_blocks, made.blocks.len() as u64, "control");
}
