//! Archives that try to get out, to hide something, or to fill the machine.
//!
//! Each is applied to a directory next to a canary tree; whatever the outcome, the canary must
//! be as it was.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cofferdam_image::layer::{Applied, ApplyError, ApplyOptions, Limits, apply};
use cofferdam_image::{archive, media};
use common::{CHAR, DIR, FIFO, FILE, LINK, SYMLINK, Tar, describe, dir_fd, gzip, need_root};

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
fn readers_must_not_differ() {
    let small = |tar: Tar| tar.raw(FILE, b"f", b"", 512, |_| {}).data(&[1; 512]);
    let hidden = Tar::default().file("hidden", b"").bytes;
    let gnu = |tar: Tar, kind: u8| tar.raw(kind, b"././@LongLink", b"", 5, |_| {}).data(b"name\0");
    for (what, tar) in [
        ("size in extended header", small(Tar::default().pax(&[("size", b"0")])).end()),
        (
            "larger size",
            Tar::default()
                .pax(&[("size", b"512")])
                .raw(FILE, b"f", b"", 0, |_| {})
                .data(&hidden)
                .end(),
        ),
        ("duplicate key", small(Tar::default().pax(&[("path", b"a"), ("path", b"b")])).end()),
        (
            "two extended headers",
            small(Tar::default().pax(&[("path", b"a")]).pax(&[("path", b"b")])).end(),
        ),
        ("GNU and PAX", small(gnu(Tar::default().pax(&[("path", b"a")]), b'L')).end()),
        ("two long names", small(gnu(gnu(Tar::default(), b'L'), b'L')).end()),
        ("dangling header", Tar::default().pax(&[("path", b"a")]).end()),
        (
            "data behind a link",
            Tar::default().raw(SYMLINK, b"l", b"x", 512, |_| {}).data(&hidden).end(),
        ),
        (
            "data behind a directory",
            Tar::default().raw(DIR, b"d", b"", 512, |_| {}).data(&hidden).end(),
        ),
        ("sparse", Tar::default().raw(b'S', b"f", b"", 0, |_| {}).end()),
        ("sparse by PAX", small(Tar::default().pax(&[("GNU.sparse.major", b"1")])).end()),
        ("unknown type", Tar::default().raw(b'Z', b"f", b"", 0, |_| {}).end()),
        ("volume", Tar::default().raw(b'V', b"f", b"", 0, |_| {}).end()),
        ("bytes behind the end", [Tar::default().end(), hidden.clone()].concat()),
        ("lone empty block", [vec![0; 512], hidden].concat()),
        ("truncated header", Tar::default().file("f", b"").bytes[..300].to_vec()),
        ("truncated data", Tar::default().file("f", &[1; 2000]).bytes[..1000].to_vec()),
        ("global path", {
            let mut tar = Tar::default().pax(&[("path", b"x")]);
            tar.bytes[156] = b'g';
            let mut header = tar::Header::from_byte_slice(&tar.bytes[..512]).clone();
            header.set_cksum();
            tar.bytes[..512].copy_from_slice(header.as_bytes());
            small(tar).end()
        }),
        ("bad checksum", {
            let mut bytes = small(Tar::default()).end();
            bytes[0] = b'g';
            bytes
        }),
        ("NUL in path", small(Tar::default().pax(&[("path", b"a\0b")])).end()),
        ("text", b"this is no archive, and long enough to hold a header".repeat(20)),
    ] {
        let place = Place::new();
        let result = place.apply(&tar);
        assert!(result.is_err(), "{what} was accepted");
        assert!(!place.root().join("hidden").exists(), "{what} made a hidden file appear");
    }
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

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[test]
fn bombs_stop_early() {
    let place = Place::new();
    let zeros = vec![0; 200 << 20];
    let bomb = |bytes: &[u8]| {
        let tar = Tar::default().raw(FILE, b"f", b"", bytes.len() as u64, |_| {}).data(bytes).end();
        zstd::bulk::compress(&tar, 19).unwrap()
    };
    let error = place.apply(&bomb(&zeros)).unwrap_err();
    assert!(chain(&error).contains("suspiciously"), "{}", chain(&error));
    assert!(fs::metadata(place.root().join("f")).unwrap().len() < 130 << 20);
    let limited = |limits: Limits, tar: &[u8]| {
        let options = ApplyOptions { limits, ..ApplyOptions::default() };
        apply(tar, media::OCI_LAYER, dir_fd(&Place::new().root()).as_fd(), &options)
    };
    let tar = Tar::default().file("f", &[1; 5000]).dir("d1").dir("d2").end();
    let defaults = Limits::default;
    assert!(limited(defaults(), &tar).is_ok());
    assert!(limited(Limits { output_bytes: 4000, ..defaults() }, &tar).is_err());
    assert!(limited(Limits { entries: 2, ..defaults() }, &tar).is_err());
    assert!(limited(Limits { directory_names: 3, ..defaults() }, &tar).is_err());
    assert!(limited(Limits { ratio_free: 1000, ratio: 2, ..defaults() }, &gzip(&tar)).is_err());
    let long: Vec<u8> = vec![b'a'; 5000];
    let deep = "a/".repeat(300);
    for path in [&long, deep.as_bytes()] {
        assert!(place.apply(&Tar::default().pax(&[("path", path)]).file("f", b"").end()).is_err());
    }
    let wide = vec![b'a'; 70_000];
    assert!(
        place
            .apply(&Tar::default().pax(&[("SCHILY.xattr.user.a", &wide)]).file("f", b"").end())
            .is_err()
    );
    // Depth through links counts as well.
    let mut tar = Tar::default().symlink("l0", "x");
    let step = "d/".repeat(20);
    let mut refused = false;
    for number in 0..30 {
        let path = format!("l{number}/{step}");
        tar = tar.dir(&path).symlink(&format!("l{}", number + 1), path.trim_end_matches('/'));
        refused |= Place::new().apply(&Tar { bytes: tar.bytes.clone() }.end()).is_err();
    }
    assert!(refused, "links made the tree deeper than allowed");
}

#[test]
fn a_large_zstd_window_is_refused() {
    // Frame header with a 2 GiB window descriptor and one raw last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    assert!(Place::new().apply(&frame).is_err());
}

#[test]
fn archives_are_recognised_by_content() {
    let tar = Tar::default().file("hello", b"world").symlink("l", "hello").end();
    for (program, arguments) in [
        ("cat", &[][..]),
        ("gzip", &["-c"]),
        ("bzip2", &["-c"]),
        ("xz", &["-c"]),
        ("zstd", &["-c"]),
    ] {
        let packed = common::pipe(program, arguments, &tar).unwrap();
        assert!(archive::is_archive(packed.as_slice()).unwrap(), "{program}");
        let place = Place::new();
        place.unpack(&packed).unwrap();
        assert_eq!(fs::read(place.root().join("l")).unwrap(), b"world", "{program}");
        for cut in [packed.len() / 2, packed.len() - 1] {
            if program != "cat" {
                assert!(Place::new().unpack(&packed[..cut]).is_err(), "{program} cut at {cut}");
            }
        }
    }
    for other in [&b""[..], b"short", &b"text ".repeat(1000), &gzip(b"not a tar"), &[0; 2048]] {
        assert!(!archive::is_archive(other).unwrap());
    }
}

#[test]
fn arbitrary_bytes_do_no_harm() {
    let good = Tar::default()
        .dir("d")
        .symlink("d/l", "..")
        .file("d/l/f", &[1; 600])
        .link("h", "d/l/f")
        .end();
    let mut seed = 1_u32;
    for round in 0..600 {
        let mut bytes = good.clone();
        for _ in 0..=round % 8 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = seed as usize % bytes.len();
            bytes[at] = (seed >> 24) as u8;
            // Keep the checksums right, so that the mutation is seen by what is behind them.
            for block in bytes.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    let mut header = tar::Header::from_byte_slice(block).clone();
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        let place = Place::new();
        let _ = place.apply(&bytes);
    }
}

#[test]
fn only_layers_are_applied() {
    let place = Place::new();
    let tar = Tar::default().file("f", b"").end();
    let root = dir_fd(Path::new(&place.root()));
    for media_type in ["", "text/plain", media::OCI_MANIFEST, media::IN_TOTO] {
        let result = apply(tar.as_slice(), media_type, root.as_fd(), &ApplyOptions::default());
        assert!(matches!(result, Err(ApplyError::NotALayer { .. })));
    }
}

#[test]
fn blank_numbers_are_zero() {
    let mut header = tar::Header::new_ustar();
    header.set_path("f").unwrap();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.as_old_mut().uid = [0; 8];
    header.as_old_mut().gid = *b"        ";
    header.as_old_mut().mtime = [0; 12];
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([b'x'; 1]);
    bytes.resize(512 * 4, 0);
    let place = Place::new();
    place.apply(&bytes).unwrap();
    assert_eq!(std::fs::read(place.root().join("f")).unwrap(), b"x");
}
