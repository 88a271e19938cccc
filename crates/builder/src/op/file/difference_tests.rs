//! Layers against what they were made on, as plain directories: nothing is mounted.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

fn root(path: &Path) -> Root {
    Root::new(File::open(path).unwrap().into())
}

fn stamp() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(stamp()).unwrap();
}

/// Takes `own` over as a layer on `lower`, of which `upper` is the sum.
fn taken(own: &Path, lower: &Path, upper: &Path, target: &Path) {
    let (upper, target) = (root(upper), root(target));
    let options = as_it_is();
    let mut walk = Walk::new(&upper, &target, &options, true);
    walk.layer(&root(own), &root(lower), &upper, "", 0).unwrap();
}

#[test]
fn a_file_moved_away_and_back_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let at = |path: &str| temp.path().join(path);
    for tree in ["lower", "own", "upper"] {
        write(&at(tree).join("kept/shuffled"), "same");
    }
    assert!(repeats_in(&root(&at("own")), &root(&at("lower")), 0).unwrap());
    for tree in ["own", "upper"] {
        write(&at(tree).join("kept/new"), "new");
    }
    write(&at("lower/untouched"), "below");
    write(&at("upper/untouched"), "below");
    fs::create_dir(at("target")).unwrap();
    taken(&at("own"), &at("lower"), &at("upper"), &at("target"));
    assert_eq!(fs::read(at("target/kept/new")).unwrap(), b"new");
    assert!(!at("target/kept/shuffled").exists());
    assert!(!at("target/untouched").exists());
    // The directory is there for what is new in it, with the time it has in the layer.
    let time = |path: &str| fs::metadata(at(path)).unwrap().mtime_nsec();
    assert_eq!(time("target/kept"), time("own/kept"));
}

#[test]
fn only_a_layer_with_names_of_text_can_be_made_again() {
    let temp = tempfile::tempdir().unwrap();
    let layer = root(temp.path());
    write(&temp.path().join("kept/é"), "text");
    assert!(is_named(&layer, 0).unwrap());
    fs::write(temp.path().join("kept").join(OsStr::from_bytes(b"\xff")), "odd").unwrap();
    assert!(!is_named(&layer, 0).unwrap());
}

#[test]
fn a_directory_in_which_nothing_changed_is_left_out() {
    let temp = tempfile::tempdir().unwrap();
    let at = |path: &str| temp.path().join(path);
    for tree in ["lower", "own", "upper"] {
        write(&at(tree).join("kept/shuffled"), "same");
    }
    fs::create_dir(at("target")).unwrap();
    taken(&at("own"), &at("lower"), &at("upper"), &at("target"));
    assert_eq!(fs::read_dir(at("target")).unwrap().count(), 0);
}

#[test]
fn size_and_time_do_not_stand_for_content() {
    let temp = tempfile::tempdir().unwrap();
    let at = |path: &str| temp.path().join(path);
    write(&at("lower/file"), "one");
    for tree in ["own", "upper"] {
        write(&at(tree).join("file"), "two");
    }
    assert!(!repeats_in(&root(&at("own")), &root(&at("lower")), 0).unwrap());
    fs::create_dir(at("target")).unwrap();
    taken(&at("own"), &at("lower"), &at("upper"), &at("target"));
    assert_eq!(fs::read(at("target/file")).unwrap(), b"two");
}

#[test]
fn names_of_one_file_stay_links() {
    let temp = tempfile::tempdir().unwrap();
    let at = |path: &str| temp.path().join(path);
    fs::create_dir(at("lower")).unwrap();
    for tree in ["own", "upper"] {
        write(&at(tree).join("first"), "linked");
        fs::hard_link(at(tree).join("first"), at(tree).join("second")).unwrap();
        symlink("first", at(tree).join("soft")).unwrap();
    }
    fs::create_dir(at("target")).unwrap();
    taken(&at("own"), &at("lower"), &at("upper"), &at("target"));
    let inode = |path: &str| fs::metadata(at(path)).unwrap().ino();
    assert_eq!(inode("target/first"), inode("target/second"));
    assert_eq!(fs::read_link(at("target/soft")).unwrap(), Path::new("first"));
}

#[test]
fn contents_are_compared_to_their_ends() {
    let temp = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        fs::write(temp.path().join(name), content).unwrap();
        File::open(temp.path().join(name)).unwrap()
    };
    let long = vec![7; 3 * CHUNK + 1];
    let mut other = long.clone();
    other[3 * CHUNK] = 8;
    assert!(equal(file("a", &long), file("b", &long)).unwrap());
    assert!(!equal(file("a", &long), file("b", &other)).unwrap());
    assert!(!equal(file("a", &long), file("b", &long[..CHUNK])).unwrap());
    assert!(equal(file("a", b""), file("b", b"")).unwrap());
}
