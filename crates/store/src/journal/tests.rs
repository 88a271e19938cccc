//! A process that is killed: what was secured is there afterwards, and nothing that was removed.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::document::Document;
use crate::{Options, PruneOptions, RecordType, Tree};

fn open(root: &Path) -> Arc<Store> {
    Store::open(root, Options::default()).unwrap()
}

fn blob(store: &Arc<Store>, bytes: &[u8]) -> Digest {
    let mut writer = store.blob_writer(None).unwrap();
    writer.write_all(bytes).unwrap();
    writer.commit().unwrap().digest()
}

/// A record of a layer and a blob that only the record keeps.
fn build(store: &Arc<Store>, key: &str) {
    let active = store.new_layer(key, RecordType::Regular).unwrap();
    std::fs::write(active.dir().join("file"), key).unwrap();
    let mut record = Record::new(Digest::of(key), &[Tree::from(active.commit().unwrap())]);
    record.blobs = vec![blob(store, key.as_bytes())];
    record.aliases = vec![Digest::of(format!("alias of {key}"))];
    store.put_record(record).unwrap();
}

fn is_there(store: &Arc<Store>, key: &str) -> bool {
    let Some((record, trees)) = store.record(&Digest::of(format!("alias of {key}"))) else {
        return false;
    };
    let file = std::fs::read_to_string(trees[0].layers()[0].dir().join("file")).unwrap();
    assert_eq!(file, key);
    assert!(store.check_blob(&record.blobs[0]).unwrap());
    true
}

fn document(key: &str, bytes: &[u8]) -> Document {
    Document { key: key.into(), bytes: bytes.to_vec(), blobs: Vec::new() }
}

fn has_journal(root: &Path) -> bool {
    root.join(FILE).exists()
}

/// What a kill at this moment would leave.
fn copy(root: &Path) -> (tempfile::TempDir, std::path::PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let copy = temp.path().join("root");
    let copied = std::process::Command::new("cp").args(["-a", "--"]).arg(root).arg(&copy).status();
    assert!(copied.unwrap().success());
    (temp, copy)
}

#[test]
fn what_was_secured_survives_and_what_came_later_does_not() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store.secure().unwrap();
    assert!(!has_journal(temp.path()), "nothing waits");
    build(&store, "durable");
    store.flush().unwrap();
    // From here on nothing is written in the background.
    let turn = lock(&store.writer);
    let mirror = store.mirror("context").unwrap();
    std::fs::write(mirror.dir().join("mirrored"), "yes").unwrap();
    drop(mirror);
    build(&store, "secured");
    let logs = blob(&store, b"logs");
    let record = Document { blobs: vec![logs], ..document("k", b"a\nrecord\0") };
    store.promise_document("history", record.clone());
    assert_eq!(store.document("history", "k").unwrap(), None);
    store.secure().unwrap();
    build(&store, "later");

    let (_temp, root) = copy(temp.path());
    for _ in 0..2 {
        let after = open(&root);
        assert!(!has_journal(&root));
        assert!(is_there(&after, "durable") && is_there(&after, "secured"));
        assert!(!is_there(&after, "later"));
        assert_eq!(after.document("history", "k").unwrap(), Some(record.clone()));
        assert!(after.check_blob(&logs).unwrap());
        let mirror = after.mirror("context").unwrap();
        assert_eq!(std::fs::read_to_string(mirror.dir().join("mirrored")).unwrap(), "yes");
        drop(mirror);
        assert_eq!(after.verify(false).unwrap(), [] as [crate::Trouble; 0]);
        // What a killed process left is durable once it was taken over.
        let (_temp, killed_again) = copy(&root);
        assert!(is_there(&open(&killed_again), "secured"));
    }
    drop(turn);
}

#[test]
fn a_batch_takes_the_place_of_the_journal() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let turn = lock(&store.writer);
    build(&store, "one");
    store.secure().unwrap();
    assert!(has_journal(temp.path()));
    drop(turn);
    store.flush().unwrap();
    assert!(!has_journal(temp.path()));
    store.promise_document("history", document("k", b"1"));
    store.secure().unwrap();
    build(&store, "two");
    store.flush().unwrap();
    assert!(has_journal(temp.path()), "a batch keeps no promise");
    store.promise_document("history", document("k", b"2"));
    store.put_document("history", &document("k", b"1")).unwrap();
    assert!(has_journal(temp.path()), "nor does an older version");
    store.put_document("history", &document("k", b"2")).unwrap();
    assert!(!has_journal(temp.path()));
}

#[test]
fn what_was_removed_does_not_come_back() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    build(&store, "evicted");
    for key in ["broken", "removed", "kept"] {
        store.promise_document("history", document(key, b"x"));
    }
    store.secure().unwrap();
    store.prune(&PruneOptions { all: true, ..PruneOptions::default() }).unwrap();
    store.break_promise("history", "broken");
    store.put_document("history", &document("removed", b"x")).unwrap();
    store.remove_document("history", "removed").unwrap();
    let (_temp, root) = copy(temp.path());
    let after = open(&root);
    assert!(!is_there(&after, "evicted"));
    assert_eq!(after.documents("history").unwrap(), [document("kept", b"x")]);
    assert!(after.usage().is_empty());
    assert!(after.blobs().unwrap().is_empty());
}

#[test]
fn a_journal_of_another_run_of_the_machine_or_of_nobody_is_not_used() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let turn = lock(&store.writer);
    build(&store, "one");
    store.secure().unwrap();
    let (_copy, killed) = copy(temp.path());
    drop(turn);
    let noted = std::fs::read_to_string(killed.join(FILE)).unwrap();
    let other = noted.replace(&boot_id(), "00000000-0000-0000-0000-000000000000");
    assert_ne!(other, noted);
    let cut = &noted[..noted.len() / 2];
    for journal in [other.as_str(), cut, "", "nonsense\n"] {
        let (_temp, root) = copy(&killed);
        std::fs::write(root.join(FILE), journal).unwrap();
        let after = open(&root);
        assert!(!is_there(&after, "one"));
        assert!(!has_journal(&root));
        assert!(after.usage().is_empty());
    }
    assert!(is_there(&open(&killed), "one"), "the control");
}

#[test]
fn a_journal_that_stayed_behind_has_no_number_given_out_twice() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let turn = lock(&store.writer);
    build(&store, "old");
    store.secure().unwrap();
    let stale = std::fs::read(temp.path().join(FILE)).unwrap();
    drop(turn);
    build(&store, "new");
    let mirror = store.mirror("context").unwrap();
    std::fs::write(mirror.dir().join("mirrored"), "yes").unwrap();
    let id = mirror.id();
    drop(mirror);
    store.flush().unwrap();

    let (_temp, root) = copy(temp.path());
    std::fs::write(root.join(FILE), stale).unwrap();
    let after = open(&root);
    assert!(!has_journal(&root));
    build(&after, "newest");
    let other = after.mirror("other").unwrap();
    let mirror = after.mirror("context").unwrap();
    assert!(mirror.id() == id && other.id() != id);
    assert_eq!(std::fs::read_to_string(mirror.dir().join("mirrored")).unwrap(), "yes");
    assert!(["old", "new", "newest"].iter().all(|key| is_there(&after, key)));
    drop((mirror, other));
    after.flush().unwrap();
    assert_eq!(after.verify(false).unwrap(), [] as [crate::Trouble; 0]);
}

#[test]
fn a_blob_that_is_not_as_it_was_is_not_taken_over_nor_are_its_records() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let _turn = lock(&store.writer);
    build(&store, "whole");
    build(&store, "spoilt");
    store.secure().unwrap();
    let (_temp, root) = copy(temp.path());
    std::fs::write(root.join("fresh").join(Digest::of("spoilt").hex()), b"SPOILT").unwrap();
    let after = open(&root);
    assert!(is_there(&after, "whole") && !is_there(&after, "spoilt"));
    assert!(after.blob(&Digest::of("spoilt")).is_none());
    assert_eq!(after.verify(false).unwrap(), [] as [crate::Trouble; 0]);
}

#[test]
fn nothing_is_noted_while_it_is_looked_at_what_the_disk_lost() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let _turn = lock(&store.writer);
    build(&store, "one");
    store.secure().unwrap();
    let noted = suspend(&store);
    assert!(noted && !has_journal(temp.path()));
    assert!(store.secure().is_err());
    renew(&store);
    assert!(!has_journal(temp.path()));
    resume(&store, noted);
    assert!(has_journal(temp.path()));
}

/// Whatever follows the line of a journal is kept.
fn change(journal: &[u8], changed: impl FnOnce(&mut Value)) -> Vec<u8> {
    let end = journal.iter().position(|byte| *byte == b'\n').unwrap();
    let mut line: Value = serde_json::from_slice(&journal[..end]).unwrap();
    changed(&mut line);
    let mut bytes = serde_json::to_vec(&line).unwrap();
    bytes.extend_from_slice(&journal[end..]);
    bytes
}

/// A copy of the store that was killed, with this journal, opened.
fn open_with(killed: &Path, journal: &[u8]) -> (tempfile::TempDir, Arc<Store>) {
    let (temp, root) = copy(killed);
    std::fs::write(root.join(FILE), journal).unwrap();
    let store = open(&root);
    assert!(!has_journal(&root));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "nothing beside the store");
    (temp, store)
}

/// A store that was killed when it had noted the build `one` and the document `k`, and its journal.
fn killed() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let _turn = lock(&store.writer);
    build(&store, "one");
    store.promise_document("history", document("k", b"kept"));
    store.secure().unwrap();
    let (temp, root) = copy(temp.path());
    let journal = std::fs::read(root.join(FILE)).unwrap();
    (temp, root, journal)
}

#[test]
fn a_damaged_line_is_left_out_as_a_whole() {
    let (_temp, root, journal) = killed();
    let end = journal.iter().position(|byte| *byte == b'\n').unwrap();
    let mut deep = vec![b'['; 1 << 20];
    deep.push(b'\n');
    let hex = Digest::of("one").hex();
    let damaged = [
        change(&journal, |line| line["version"] = json!(VERSION + 1)),
        change(&journal, |line| line["version"] = json!(-1)),
        change(&journal, |line| line["next_id"] = json!(0)),
        change(&journal, |line| line["next_id"] = json!(u64::MAX)),
        change(&journal, |line| line["next_id"] = json!(1e300)),
        change(&journal, |line| line["layers"][0][0] = json!(u64::MAX)),
        change(&journal, |line| line["fresh"][0] = json!("sha256:../../../../etc/passwd")),
        change(&journal, |line| line["fresh"][0] = json!(format!("sha256:/{}", &hex[1..]))),
        change(&journal, |line| line["fresh"][0] = json!(format!("sha256:{}\0", &hex[1..]))),
        change(&journal, |line| line["documents"][0]["size"] = json!(-1)),
        change(&journal, |line| line["records"] = json!({})),
        change(&journal, |line| line["boot"] = json!("")),
        journal[..end].to_vec(),
        deep,
    ];
    for journal in damaged {
        let (_temp, after) = open_with(&root, &journal);
        let said = String::from_utf8_lossy(&journal[..journal.len().min(1000)]).into_owned();
        assert!(!is_there(&after, "one"), "{said}");
        assert_eq!(after.document("history", "k").unwrap(), None, "{said}");
        assert!(after.usage().is_empty(), "{said}");
    }
    let (_temp, after) = open_with(&root, &journal);
    assert!(is_there(&after, "one"), "the control");
    assert_eq!(after.document("history", "k").unwrap(), Some(document("k", b"kept")));
}

#[test]
fn a_document_whose_bytes_are_not_all_there_is_none() {
    let (_temp, root, journal) = killed();
    let damaged = [
        change(&journal, |line| line["documents"][0]["size"] = json!(5)),
        change(&journal, |line| line["documents"][0]["size"] = json!(u64::MAX)),
        journal[..journal.len() - 1].to_vec(),
    ];
    for journal in damaged {
        let (_temp, after) = open_with(&root, &journal);
        assert!(is_there(&after, "one"), "the batch needs no documents");
        assert_eq!(after.document("history", "k").unwrap(), None);
    }
}

#[test]
fn names_of_documents_are_no_paths() {
    let (_temp, root, journal) = killed();
    for name in ["../../k", "/k", "k\0", ""] {
        let journal = change(&journal, |line| line["documents"][0]["key"] = json!(name));
        let (_temp, after) = open_with(&root, &journal);
        assert_eq!(after.documents("history").unwrap(), [document(name, b"kept")]);
    }
}

#[test]
fn fuzzing_begins_with_journals_that_are_read() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/journal");
    let mut read = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        let bytes = std::fs::read(seed.unwrap().path()).unwrap();
        parse(bytes.clone()).unwrap();
        for place in 0..bytes.len() {
            exercise(&bytes[..place]);
            for byte in [0, b'\n', b'"', b'-', b'9', b'}', 0xff] {
                let mut changed = bytes.clone();
                changed[place] = byte;
                exercise(&changed);
            }
        }
        read += 1;
    }
    assert!(read >= 2, "control");
}
