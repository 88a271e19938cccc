//! What layers say about files besides their names: whiteouts, devices, attributes, owners.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use cofferdam_image::layer::{ApplyError, ApplyOptions, apply};
use cofferdam_image::media;

use crate::Place;
use crate::common::{self, CHAR, FILE, Tar, dir_fd, need_root};

#[test]
fn whiteouts_name_one_plain_file() {
    for name in [".wh...", ".wh..", ".wh.", "a/.wh...", ".wh..wh..opq", ".wh.a/b"] {
        let place = Place::new();
        let result = place.apply(&Tar::default().file(name, b"").end());
        assert!(result.is_err(), "{name} was accepted");
        assert_eq!(fs::read_dir(place.root()).unwrap().count(), 0);
    }
}

#[test]
fn whiteouts_and_devices() {
    need_root();
    let place = Place::new();
    let tar = Tar::default()
        .file("d/.wh.gone", b"")
        .file(".wh.replaced", b"")
        .file("replaced", b"new")
        .file("kept", b"new")
        .file(".wh.kept", b"")
        .file(".wh.again", b"")
        .dir("again")
        .file("dir/inside", b"1")
        .file(".wh.dir", b"")
        .file("opaque/x", b"1")
        .file("opaque/.wh..wh..opq", b"")
        .file(".wh.parent", b"")
        .file("parent/child", b"1")
        .file(".wh..wh.aufs", b"")
        .file(".wh..wh.plnk/x", b"")
        .raw(CHAR, b"sda", b"", 0, |header| {
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
        })
        .end();
    place.apply(&tar).unwrap();
    let root = place.root();
    let gone = fs::symlink_metadata(root.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read(root.join("replaced")).unwrap(), b"new");
    assert_eq!(fs::read(root.join("kept")).unwrap(), b"new");
    assert!(root.join("opaque/x").exists() && root.join("dir/inside").exists());
    for name in ["again", "dir", "opaque", "parent"] {
        assert_eq!(
            common::xattrs(&root.join(name)),
            [("user.overlay.opaque".to_owned(), b"y".to_vec())],
            "{name}"
        );
    }
    assert!(
        !root.join("sda").exists()
            && !root.join(".wh..wh.aufs").exists()
            && !root.join(".wh..wh.plnk").exists()
    );
    // For ADD these are names like any other.
    let place = Place::new();
    place.unpack(&Tar::default().file(".wh.x", b"1").file(".wh..wh..opq", b"").end()).unwrap();
    assert!(place.root().join(".wh.x").exists() && place.root().join(".wh..wh..opq").exists());
}

#[test]
fn attributes_are_filtered() {
    need_root();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let place = Place::new();
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.good", b"1"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/x"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/x"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.system.posix_acl_access", b"x"),
        ])
        .file("f", b"")
        .pax(&[("SCHILY.xattr.security.capability", &capability[..12])])
        .file("short", b"")
        .pax(&[("SCHILY.xattr.user.overlay.opaque", b"y")])
        .dir("d")
        .end();
    place.apply(&tar).unwrap();
    let expected = [
        ("security.capability".to_owned(), capability.to_vec()),
        ("user.good".to_owned(), b"1".to_vec()),
    ];
    assert_eq!(common::xattrs(&place.root().join("f")), expected);
    assert_eq!(common::xattrs(&place.root().join("short")), []);
    assert_eq!(common::xattrs(&place.root().join("d")), []);
}

#[test]
fn ids_outside_the_range_are_named() {
    let place = Place::new();
    let tar = Tar::default().raw(FILE, b"etc/f", b"", 0, |header| header.set_uid(70_000)).end();
    let options = ApplyOptions { ids: &|id| (id < 65536).then_some(id), ..ApplyOptions::default() };
    let error = apply(tar.as_slice(), media::OCI_LAYER, dir_fd(&place.root()).as_fd(), &options)
        .unwrap_err();
    assert!(error.to_string().contains("70000") && error.to_string().contains("etc/f"), "{error}");
    for uid in [u64::from(u32::MAX), u64::from(u32::MAX) + 1] {
        let tar = Tar::default().pax(&[("uid", uid.to_string().as_bytes())]).file("f", b"").end();
        assert!(matches!(place.apply(&tar), Err(ApplyError::UnmappedId { .. })));
    }
}
