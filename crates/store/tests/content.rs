//! Blobs: verification, resuming, listing.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};

use cofferdam_digest::Digest;
use cofferdam_store::ContentError;
use common::{blob, crash, open};

#[test]
fn a_blob_is_found_by_its_digest_now_and_after_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let digest = {
        let store = open(temp.path());
        let blob = blob(&store, b"hello");
        assert_eq!(blob.digest(), Digest::of("hello"));
        assert_eq!(blob.size(), 5);
        assert_eq!(store.blobs().unwrap(), [(blob.digest(), 5)]);
        // Open before and after it becomes durable.
        let mut text = String::new();
        blob.open().unwrap().read_to_string(&mut text).unwrap();
        store.flush().unwrap();
        blob.open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hellohello");
        assert_eq!(store.blobs().unwrap(), [(blob.digest(), 5)]);
        blob.digest()
    };
    let store = open(temp.path());
    assert_eq!(store.blob(&digest).unwrap().size(), 5);
    assert!(store.blob(&Digest::of("other")).is_none());
}

#[test]
fn a_blob_that_was_not_made_durable_does_not_survive_a_crash() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let early = blob(&store, b"early");
    store.flush().unwrap();
    let late = blob(&store, b"late");
    let (_copy, after) = crash(temp.path());
    assert!(after.blob(&early.digest()).is_some());
    assert!(after.blob(&late.digest()).is_none());
}

#[test]
fn wrong_bytes_are_refused_and_leave_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let expected = Digest::of("right");

    let mut writer = store.blob_writer(Some((expected, 5))).unwrap();
    writer.write_all(b"wrong").unwrap();
    assert!(matches!(writer.commit(), Err(ContentError::Digest { .. })));

    let mut writer = store.blob_writer(Some((expected, 5))).unwrap();
    writer.write_all(b"righ").unwrap();
    assert!(matches!(writer.commit(), Err(ContentError::Size { found: 4, .. })));

    let mut writer = store.blob_writer(Some((expected, 5))).unwrap();
    let error = writer.write_all(b"right and more").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    drop(writer);

    assert!(store.blob(&expected).is_none());
    assert_eq!(std::fs::read_dir(temp.path().join("ingest")).unwrap().count(), 0);
}

#[test]
fn a_download_resumes_where_it_stopped_even_after_a_crash() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = vec![7; 1_000_000];
    let digest = Digest::of(&bytes);
    let store = open(temp.path());
    let mut writer = store.resume_blob(&digest, 1_000_000).unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write_all(&bytes[..600_000]).unwrap();
    assert!(matches!(store.resume_blob(&digest, 1_000_000), Err(ContentError::Busy { .. })));

    let (_copy, after) = crash(temp.path());
    drop(writer);
    for store in [store, after] {
        let mut writer = store.resume_blob(&digest, 1_000_000).unwrap();
        assert_eq!(writer.offset(), 600_000);
        writer.write_all(&bytes[600_000..]).unwrap();
        assert_eq!(writer.commit().unwrap().digest(), digest);
        assert_eq!(store.blob(&digest).unwrap().size(), 1_000_000);
    }
}

#[test]
fn a_damaged_partial_download_is_thrown_away_at_commit() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let digest = Digest::of("abcdef");
    let mut writer = store.resume_blob(&digest, 6).unwrap();
    writer.write_all(b"abX").unwrap();
    drop(writer);
    let mut writer = store.resume_blob(&digest, 6).unwrap();
    assert_eq!(writer.offset(), 3);
    writer.write_all(b"def").unwrap();
    assert!(matches!(writer.commit(), Err(ContentError::Digest { .. })));

    let mut writer = store.resume_blob(&digest, 6).unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write_all(b"xyz").unwrap();
    writer.restart().unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write_all(b"abcdef").unwrap();
    let blob = writer.commit().unwrap();
    let mut text = String::new();
    blob.open().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "abcdef");
}

#[test]
fn a_partial_download_longer_than_the_blob_starts_over() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let digest = Digest::of("abc");
    let mut writer = store.resume_blob(&digest, 100).unwrap();
    writer.write_all(&[0; 50]).unwrap();
    drop(writer);
    assert_eq!(store.resume_blob(&digest, 3).unwrap().offset(), 0);
}

#[test]
fn two_writers_of_the_same_bytes_both_succeed() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mut first = store.blob_writer(None).unwrap();
    let mut second = store.blob_writer(None).unwrap();
    first.write_all(b"same").unwrap();
    second.write_all(b"same").unwrap();
    let (first, second) = (first.commit().unwrap(), second.commit().unwrap());
    assert_eq!(first.digest(), second.digest());
    store.flush().unwrap();
    let third = blob(&store, b"same");
    store.flush().unwrap();
    assert_eq!(store.blobs().unwrap(), [(third.digest(), 4)]);
    assert_eq!(std::fs::read_dir(temp.path().join("ingest")).unwrap().count(), 0);
}
