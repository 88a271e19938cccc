//! Layers as the builder handles them: as the root of a user namespace, with shifted ids.
//!
//! The outer test makes a namespace with `unshare` and runs the inner one in it with `nsenter`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command};

use cofferdam_image::layer::{ApplyOptions, Compression, PackOptions, apply, pack};
use cofferdam_image::media;
use common::{CHAR, FIFO, FILE, Tar, dir_fd, need_root};

const OUTSIDE: u32 = 300_000;
const FIRST: u32 = 65_536;
const COUNT: u32 = 65_536;
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const PLACE: &str = "COFFERDAM_USERNS_TEST";

struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn layers_in_a_user_namespace() {
    need_root();
    let Ok(child) = Command::new("unshare").args(["--user", "sleep", "60"]).spawn() else {
        panic!("user namespaces are not available")
    };
    let holder = Holder(child);
    let proc = PathBuf::from(format!("/proc/{}", holder.0.id()));
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    while fs::read_link(proc.join("ns/user")).unwrap() == own {
        std::thread::yield_now();
    }
    let map = format!("0 {OUTSIDE} {}", FIRST + COUNT);
    fs::write(proc.join("uid_map"), &map).unwrap();
    fs::write(proc.join("gid_map"), &map).unwrap();
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(OUTSIDE), Some(OUTSIDE)).unwrap();
    // The test program may lie where other users cannot reach it.
    let program = dir.path().join("inner");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let status = Command::new("nsenter")
        .args(["--user", "--setuid=0", "--setgid=0", "--target", &holder.0.id().to_string()])
        .arg(&program)
        .args(["--exact", "inner", "--ignored"])
        .env(PLACE, dir.path())
        .env("TMPDIR", dir.path())
        .current_dir("/")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "runs inside the namespace of the other test"]
fn inner() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let root = place.join("root");
    fs::create_dir(&root).unwrap();
    let tar = Tar::default()
        .raw(b'5', b"d", b"", 0, |header| header.set_uid(1000))
        .raw(FILE, b"d/suid", b"", 0, |header| {
            header.set_mode(0o4755);
            header.set_gid(65_535);
        })
        .link("d/hard", "d/suid")
        .pax(&[("SCHILY.xattr.security.capability", &CAPABILITY), ("SCHILY.xattr.user.a", b"b")])
        .file("d/capable", b"x")
        .raw(FIFO, b"d/fifo", b"", 0, |_| {})
        .raw(CHAR, b"d/null", b"", 0, |header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .symlink("d/link", "/etc/passwd")
        .file("d/.wh.gone", b"")
        .file("d/.wh..wh..opq", b"")
        .end();
    let options =
        ApplyOptions { ids: &|id| (id < COUNT).then_some(id + FIRST), ..ApplyOptions::default() };
    apply(tar.as_slice(), media::OCI_LAYER, dir_fd(&root).as_fd(), &options).unwrap();

    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!((meta("d").uid(), meta("d").gid()), (FIRST + 1000, FIRST));
    assert_eq!((meta("d/suid").mode() & 0o7777, meta("d/suid").gid()), (0o4755, FIRST + 65_535));
    assert_eq!(meta("d/hard").ino(), meta("d/suid").ino());
    assert!(meta("d/gone").file_type().is_char_device() && meta("d/gone").rdev() == 0);
    assert!(!root.join("d/null").exists());
    let capability = &common::xattrs(&root.join("d/capable"))[0];
    assert_eq!((capability.1.len(), &capability.1[20..]), (24, &FIRST.to_le_bytes()[..]));
    assert_eq!(common::xattrs(&root.join("d"))[0].0, "user.overlay.opaque");

    let options = PackOptions {
        compression: Compression::Uncompressed,
        ids: &|id| id.checked_sub(FIRST).filter(|id| *id < COUNT),
        ..PackOptions::default()
    };
    let mut out = Vec::new();
    pack(dir_fd(&root).as_fd(), &options, &mut out).unwrap();
    let mut archive = tar::Archive::new(out.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        if name == "d/capable" {
            let records: Vec<(String, Vec<u8>)> = entry
                .pax_extensions()
                .unwrap()
                .unwrap()
                .map(|record| record.unwrap())
                .map(|record| (record.key().unwrap().to_owned(), record.value_bytes().to_vec()))
                .collect();
            assert_eq!(
                records[0],
                ("SCHILY.xattr.security.capability".to_owned(), CAPABILITY.to_vec())
            );
        }
        names.push((name, entry.header().uid().unwrap()));
    }
    let expected =
        ["d/", "d/.wh..wh..opq", "d/.wh.gone", "d/capable", "d/fifo", "d/hard", "d/link", "d/suid"];
    assert_eq!(names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(names[0].1, 1000);
}
