//! Streams as a whole: ones that readers could disagree about, bombs, broken and foreign ones.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use cofferdam_image::layer::{ApplyError, ApplyOptions, Limits, apply};
use cofferdam_image::{archive, media};

use crate::Place;
use crate::common::{self, DIR, FILE, SYMLINK, Tar, dir_fd, gzip};

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
