//! Archives that try to get out, to hide something, or to fill the machine.
//!
//! Each is applied to a directory next to a canary tree; whatever the outcome, the canary must
//! be as it was.
#![allow(clippy::unwrap_used)]

mod attributes;
#[path = "../common/mod.rs"]
mod common;
mod streams;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use cofferdam_image::layer::{Applied, ApplyError, ApplyOptions, apply};
use cofferdam_image::{archive, media};
use common::{CHAR, DIR, FIFO, FILE, LINK, SYMLINK, Tar, describe, dir_fd};

struct Place {
    dir: tempfile::TempDir,
    before: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("canary/dir")).unwrap();
        fs::write(dir.path().join("canary/file"), b"precious").unwrap();
        fs::set_permissions(dir.path().join("canary/dir"), fs::Permissions::from_mode(0o700))
            .unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let before = describe(&dir.path().join("canary"));
        Self { dir, before }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn canary(&self) -> String {
        self.dir.path().join("canary").to_str().unwrap().to_owned()
    }

    fn apply(&self, bytes: &[u8]) -> Result<Applied, ApplyError> {
        let mode = fs::metadata(self.root()).unwrap().mode();
        let result =
            apply(bytes, media::OCI_LAYER, dir_fd(&self.root()).as_fd(), &ApplyOptions::default());
        self.check(mode);
        result
    }

    fn unpack(&self, bytes: &[u8]) -> Result<Applied, ApplyError> {
        let mode = fs::metadata(self.root()).unwrap().mode();
        let result = archive::unpack(bytes, dir_fd(&self.root()).as_fd(), &ApplyOptions::default());
        self.check(mode);
        result
    }

    fn check(&self, mode: u32) {
        assert_eq!(describe(&self.dir.path().join("canary")), self.before, "the canary changed");
        assert_eq!(fs::metadata(self.root()).unwrap().mode(), mode, "the root's mode changed");
        let mut names: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["canary", "root"], "something appeared outside");
    }
}

#[test]
fn names_cannot_leave() {
    for name in ["../canary/file", "a/../../canary/file", "..", "a/..", "./../x", "/../x", "a/../b"]
    {
        for kind in [FILE, DIR, SYMLINK, LINK, FIFO, CHAR] {
            let place = Place::new();
            let tar = Tar::default().file("f", b"1").entry(kind, name, "f").end();
            assert!(place.apply(&tar).is_err(), "{name} was accepted");
            assert!(place.unpack(&tar).is_err(), "{name} was accepted");
        }
    }
}

#[test]
fn absolute_names_land_inside() {
    let place = Place::new();
    let inside = format!("{}/file", place.canary());
    place.apply(&Tar::default().file(&inside, b"x").file("//etc//x", b"y").end()).unwrap();
    assert_eq!(fs::read(place.root().join("etc/x")).unwrap(), b"y");
    assert!(place.root().join(inside.trim_start_matches('/')).exists());
}

#[test]
fn links_are_resolved_inside() {
    let place = Place::new();
    let canary = place.canary();
    for target in
        [canary.clone(), "../canary".to_owned(), "../../../../../../../../".to_owned() + &canary]
    {
        let tar = Tar::default()
            .symlink("out", &target)
            .file("out/file", b"evil")
            .file("out/new", b"evil")
            .dir("out/dir")
            .link("hard", "out/file")
            .end();
        let place = Place::new();
        place.apply(&tar).unwrap();
        assert_eq!(fs::read(place.root().join("hard")).unwrap(), b"evil");
    }
    // A chain of links, through a directory that is replaced by a link on the way.
    let tar = Tar::default()
        .dir("a")
        .file("a/x", b"1")
        .symlink("b", "a")
        .symlink("a", &canary)
        .file("b/file", b"evil")
        .file("a/file", b"evil")
        .end();
    place.apply(&tar).unwrap();
    let tar = Tar::default().symlink("l1", "l2").symlink("l2", "l1").file("l1/x", b"1").end();
    assert!(Place::new().apply(&tar).is_err(), "a loop was resolved");
}

#[test]
fn links_in_the_destination_of_add_are_resolved_inside() {
    let place = Place::new();
    std::os::unix::fs::symlink(place.canary(), place.root().join("lib")).unwrap();
    std::os::unix::fs::symlink("/usr/share", place.root().join("share")).unwrap();
    place.unpack(&Tar::default().file("lib/file", b"evil").file("share/x", b"1").end()).unwrap();
    assert_eq!(fs::read(place.root().join("usr/share/x")).unwrap(), b"1");
}

#[test]
fn files_replace_links_instead_of_following_them() {
    let canary = Place::new().canary();
    for kind in [FILE, DIR, FIFO] {
        let place = Place::new();
        let tar = Tar::default()
            .symlink("x", &format!("{canary}/file"))
            .symlink("y", &format!("{}/dir", place.canary()))
            .raw(kind, b"x", b"", 0, |header| header.set_mode(0o4777))
            .raw(kind, b"y", b"", 0, |header| header.set_mode(0o4777))
            .end();
        place.apply(&tar).unwrap();
        assert!(!place.root().join("x").symlink_metadata().unwrap().is_symlink());
        assert!(!place.root().join("y").symlink_metadata().unwrap().is_symlink());
    }
}

#[test]
fn hard_links_stay_inside_and_need_a_file() {
    let canary = Place::new();
    let outside = format!("{}/file", canary.canary());
    for (name, target) in [
        ("h", "../canary/file"),
        ("h", outside.as_str()),
        ("h", "missing"),
        ("h", "d"),
        ("h", "/"),
        ("h", "w"),
    ] {
        let place = Place::new();
        let tar = Tar::default().dir("d").entry(FILE, ".wh.w", "").link(name, target).end();
        assert!(place.apply(&tar).is_err(), "a hard link to {target} was accepted");
    }
    // To a link: the link itself is linked, not what it points to.
    let place = Place::new();
    let tar = Tar::default()
        .symlink("s", &outside)
        .link("h", "s")
        .raw(FILE, b"h2", b"", 0, |_| {})
        .link("h2", "h2")
        .end();
    place.apply(&tar).unwrap();
    assert!(place.root().join("h").symlink_metadata().unwrap().is_symlink());
    assert!(place.root().join("h2").exists(), "a link to itself removed the file");
}

#[test]
fn the_last_duplicate_wins() {
    let place = Place::new();
    let tar = Tar::default()
        .file("a", b"1")
        .file("./a", b"2")
        .dir("d")
        .file("d/x", b"1")
        .file("d", b"now a file")
        .dir("e")
        .file("e/kept", b"1")
        .raw(DIR, b"e", b"", 0, |header| header.set_mode(0o711))
        .file("f", b"1")
        .dir("f")
        .end();
    place.apply(&tar).unwrap();
    assert_eq!(fs::read(place.root().join("a")).unwrap(), b"2");
    assert_eq!(fs::read(place.root().join("d")).unwrap(), b"now a file");
    assert!(place.root().join("e/kept").exists());
    assert_eq!(fs::metadata(place.root().join("e")).unwrap().mode() & 0o7777, 0o711);
    assert!(place.root().join("f").is_dir());
    assert!(place.apply(&Tar::default().file("g", b"").file("g/x", b"").end()).is_err());
}

#[test]
fn the_root_entry_changes_nothing() {
    let place = Place::new();
    for name in ["./", "/", ".", "././"] {
        let tar = Tar::default()
            .raw(DIR, name.as_bytes(), b"", 0, |header| header.set_mode(0o4777))
            .end();
        place.apply(&tar).unwrap();
        assert!(place.apply(&Tar::default().entry(SYMLINK, name, "/x").end()).is_err());
        assert!(place.apply(&Tar::default().file(name, b"x").end()).is_err());
    }
}
