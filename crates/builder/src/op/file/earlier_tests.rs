//! Copies of a directory into layers of a real store, one after the other.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_store::{Layer, Options, RecordType};

use super::super::copy::{Copier, CopyOptions};
use super::*;

struct Bench {
    temp: tempfile::TempDir,
    store: Arc<Store>,
    earlier: Arc<EarlierCopies>,
}

impl Bench {
    /// A store, and a directory `from` with forty files in three directories.
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("store"), Options::default()).unwrap();
        for directory in ["", "one", "one/two"] {
            fs::create_dir_all(temp.path().join("from").join(directory)).unwrap();
            for number in 0..40 {
                let path = temp.path().join("from").join(directory).join(format!("file{number}"));
                fs::write(&path, format!("{number} in {directory}")).unwrap();
            }
        }
        let bench = Self { temp, store, earlier: Arc::default() };
        bench.wait();
        bench
    }

    /// Until a change of what was written by now would show in the time of a file.
    fn wait(&self) {
        let newest = self.from("one/two/file39");
        let fits = || {
            now()
                > 200_000_000
                    + i128::from(fs::metadata(&newest).unwrap().ctime()) * 1_000_000_000
                    + 999_999_999
        };
        while !fits() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn from(&self, path: &str) -> PathBuf {
        self.temp.path().join("from").join(path)
    }

    fn copy(&self, name: &str) -> Layer {
        let options = CopyOptions::everything();
        let layer = self.store.new_layer("copy", RecordType::Regular).unwrap();
        let copying = self.earlier.begin(&self.store, Digest::of(name));
        let source = Root::new(File::open(self.from("")).unwrap().into());
        let target = Root::new(layer.open().unwrap());
        Copier::new(&source, &target, &options).noting(Some(&copying)).copy("/", "/app").unwrap();
        let layer = layer.commit().unwrap();
        copying.end(layer.id());
        layer
    }
}

fn inode(layer: &Layer, path: &str) -> u64 {
    fs::metadata(layer.dir().join("app").join(path)).unwrap().ino()
}

fn text(layer: &Layer, path: &str) -> String {
    fs::read_to_string(layer.dir().join("app").join(path)).unwrap()
}

/// Files of `layer` that `other` has as well, under the same path.
fn shared(layer: &Layer, other: &Layer) -> usize {
    let paths = ["", "one/", "one/two/"]
        .iter()
        .flat_map(|directory| (0..40).map(move |number| format!("{directory}file{number}")));
    let there = |layer: &Layer, path: &str| {
        fs::metadata(layer.dir().join("app").join(path)).ok().map(|found| found.ino())
    };
    paths
        .filter(|path| there(layer, path).is_some_and(|inode| Some(inode) == there(other, path)))
        .count()
}

#[test]
fn what_did_not_change_is_taken_over_and_everything_else_is_copied() {
    let bench = Bench::new();
    let first = bench.copy("a");
    assert_eq!(shared(&first, &bench.copy("another action")), 0);
    let second = bench.copy("a");
    assert_eq!(shared(&first, &second), 120);
    // One of each change that a transfer makes, none of which shows in size and time.
    let path = bench.from("file1");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "2 in ").unwrap();
    File::open(&path).unwrap().set_modified(modified).unwrap();
    fs::set_permissions(bench.from("one/file2"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::remove_file(bench.from("one/two/file3")).unwrap();
    fs::rename(bench.from("file4"), bench.from("file5")).unwrap();
    fs::write(bench.from("one/new"), "new").unwrap();
    let third = bench.copy("a");
    assert_eq!(shared(&first, &third), 115);
    assert_eq!([text(&third, "file1"), text(&third, "file5")], ["2 in ", "4 in "]);
    assert_eq!(text(&third, "one/new"), "new");
    let mode =
        |layer: &Layer| fs::metadata(layer.dir().join("app/one/file2")).unwrap().mode() & 0o777;
    assert_eq!([mode(&first), mode(&third)], [0o644, 0o600]);
    assert!(!third.dir().join("app/one/two/file3").exists());
    // The layers of before are as they were.
    assert_eq!([text(&first, "file1"), text(&second, "file1")], ["1 in ", "1 in "]);
    assert_eq!(text(&first, "one/two/file3"), "3 in one/two");
}

#[test]
fn directories_that_changed_places_do_not_deceive() {
    let bench = Bench::new();
    fs::create_dir(bench.from("other")).unwrap();
    for number in 0..40 {
        fs::write(bench.from(&format!("other/file{number}")), "other").unwrap();
    }
    std::thread::sleep(Duration::from_millis(1200));
    bench.copy("a");
    // Renaming a directory changes no time of what is in it.
    fs::rename(bench.from("one"), bench.from("third")).unwrap();
    fs::rename(bench.from("other"), bench.from("one")).unwrap();
    let after = bench.copy("a");
    assert_eq!(text(&after, "one/file7"), "other");
    assert_eq!(text(&after, "third/two/file7"), "7 in one/two");
}

#[test]
fn a_file_that_changed_a_moment_ago_is_copied_each_time() {
    let bench = Bench::new();
    let path = bench.from("file1");
    for _ in 0..20 {
        let written = Instant::now();
        fs::write(&path, "young").unwrap();
        let first = bench.copy("a");
        // Later than this a change would have shown.
        if written.elapsed() < Duration::from_millis(90) {
            let second = bench.copy("a");
            assert_ne!(inode(&first, "file1"), inode(&second, "file1"));
            assert_eq!(shared(&first, &second), 119);
            return;
        }
    }
    panic!("copying 120 files takes too long for this test");
}

#[test]
fn names_of_one_file_are_copied_together() {
    let bench = Bench::new();
    fs::remove_file(bench.from("one/file1")).unwrap();
    fs::hard_link(bench.from("file1"), bench.from("one/file1")).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let first = bench.copy("a");
    let second = bench.copy("a");
    assert_eq!(inode(&second, "file1"), inode(&second, "one/file1"));
    assert_eq!(shared(&first, &second), 118);
    assert_eq!(fs::metadata(second.dir().join("app/file1")).unwrap().nlink(), 2);
}

#[test]
fn a_layer_that_is_gone_is_no_reason_to_fail() {
    let bench = Bench::new();
    let first = bench.copy("a");
    let path = first.dir().to_owned();
    fs::remove_file(path.join("app/file1")).unwrap();
    fs::remove_dir_all(path.join("app/one/two")).unwrap();
    let second = bench.copy("a");
    assert_eq!(shared(&first, &second), 79, "control");
    assert_eq!([text(&second, "file1"), text(&second, "one/two/file9")], ["1 in ", "9 in one/two"]);
    fs::remove_dir_all(second.dir()).unwrap();
    assert_eq!(text(&bench.copy("a"), "one/two/file9"), "9 in one/two");
}

#[test]
fn what_was_copied_last_is_what_is_known() {
    let bench = Bench::new();
    let earlier = EarlierCopies::default();
    let layer = bench.copy("a").id();
    let copy = || EarlierCopy { layer, files: vec![0; MAX_FILES / 3] };
    for name in 0..5_u8 {
        earlier.remember(Digest::of([name]), copy());
    }
    let known =
        |name: u8| lock(&earlier.copies).iter().any(|(known, _)| *known == Digest::of([name]));
    assert_eq!([0, 1, 2, 3, 4].map(known), [false, false, true, true, true]);
    earlier.remember(Digest::of([2]), copy());
    earlier.remember(Digest::of([5]), copy());
    assert_eq!([2, 3, 4, 5].map(known), [true, false, true, true]);
}

#[test]
fn no_path_of_a_layer_leads_out_of_it() {
    let bench = Bench::new();
    let first = bench.copy("a");
    let outside = bench.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file1"), "outside").unwrap();
    let inside = first.dir().join("app/one");
    fs::rename(&inside, first.dir().join("moved")).unwrap();
    std::os::unix::fs::symlink(&outside, &inside).unwrap();
    let second = bench.copy("a");
    assert_eq!(text(&second, "one/file1"), "1 in one");
    assert!(Path::new(&outside.join("file1")).metadata().unwrap().nlink() == 1);
}
