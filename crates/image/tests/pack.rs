//! Packing and applying real directories, and what other programs say about the result.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cofferdam_digest::Digest;
use cofferdam_image::layer::{
    ApplyOptions, BlockSource, Compression, PackError, PackOptions, Packed, PriorBlob, TreeOptions,
    TreeWriter, apply, pack, pack_tar,
};
use common::{describe, dir_fd, gzip, need_root, pipe};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat,
};

const SHIFT: u32 = 100_000;
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn set_mtime(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn all_paths(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            all_paths(&path, found);
        }
        found.push(path);
    }
}

/// An overlay upper directory with one of everything, owned by shifted ids.
fn build_upper(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("dir/sub/deeper")).unwrap();
    fs::write(at("dir/file"), b"content").unwrap();
    fs::write(at("dir/empty"), b"").unwrap();
    fs::write(at("dir/big"), (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
        .unwrap();
    fs::hard_link(at("dir/file"), at("dir/sub/hard")).unwrap();
    symlink("/absolute/target", at("absolute")).unwrap();
    symlink("../../outside", at("dir/relative")).unwrap();
    symlink("x".repeat(300), at("long-link")).unwrap();
    fs::write(at("dir").join("n".repeat(255)), b"long").unwrap();
    fs::create_dir_all(at(&"abcdefghi/".repeat(30))).unwrap();
    fs::write(at(&"abcdefghi/".repeat(30)).join("leaf"), b"deep").unwrap();
    fs::write(root.join(common::name(b"not-utf8-\xff\xfe")), b"1").unwrap();
    fs::write(at("umläut"), b"2").unwrap();
    fs::write(at("suid"), b"3").unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    mknodat(CWD, at("dir/gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    fs::create_dir(at("opaque")).unwrap();
    fs::write(at("opaque/new"), b"4").unwrap();
    lsetxattr(at("opaque"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    lsetxattr(at("dir/file"), "user.note", b"with\0nul\n", XattrFlags::empty()).unwrap();
    lsetxattr(at("dir/sub"), "user.note", b"on a directory", XattrFlags::empty()).unwrap();
    let mut paths = Vec::new();
    all_paths(root, &mut paths);
    for (number, path) in paths.iter().enumerate() {
        let id = SHIFT + u32::try_from(number % 5).unwrap() * 700;
        let id = if path.ends_with("gone") { SHIFT } else { id };
        std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    }
    fs::set_permissions(at("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(at("dir/sub"), fs::Permissions::from_mode(0o1777)).unwrap();
    let capability = [&[1, 0, 0, 3][..], &CAPABILITY[4..], &SHIFT.to_le_bytes()].concat();
    lsetxattr(at("dir/empty"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    for (number, path) in paths.iter().enumerate() {
        if !path.ends_with("gone") {
            set_mtime(path, 1_000_000_000 + i64::try_from(number).unwrap());
        }
    }
}

fn unshift(id: u32) -> Option<u32> {
    id.checked_sub(SHIFT).filter(|id| *id < 65536)
}

fn shift(id: u32) -> Option<u32> {
    (id < 65536).then_some(id + SHIFT)
}

fn packed(root: &Path, compression: Compression, threads: usize) -> (Packed, Vec<u8>) {
    let options = PackOptions { compression, threads, ids: &unshift, ..PackOptions::default() };
    let mut out = Vec::new();
    let packed = pack(dir_fd(root).as_fd(), &options, &mut out).unwrap();
    assert_eq!(packed.digest, Digest::of(&out));
    assert_eq!(packed.size, out.len() as u64);
    (packed, out)
}

#[test]
fn layers_survive_a_round_trip() {
    need_root();
    let upper = tempfile::tempdir().unwrap();
    build_upper(upper.path());
    let without_whiteout_times =
        |text: String| -> String {
            text.lines()
                .map(|line| {
                    if line.contains("gone") { line.split(" mtime").next().unwrap() } else { line }
                })
                .collect::<Vec<_>>()
                .join("\n")
        };
    let before = without_whiteout_times(describe(upper.path()));
    std::os::unix::net::UnixListener::bind(upper.path().join("socket")).unwrap();
    let mut diff_ids = Vec::new();
    for compression in [
        Compression::Uncompressed,
        Compression::GZIP,
        Compression::Gzip(9),
        Compression::ZSTD,
        Compression::ESTARGZ,
    ] {
        let (result, bytes) = packed(upper.path(), compression, 2);
        let target = tempfile::tempdir().unwrap();
        let options = ApplyOptions { ids: &shift, ..ApplyOptions::default() };
        let applied = apply(
            bytes.as_slice(),
            compression.media_type(true),
            dir_fd(target.path()).as_fd(),
            &options,
        )
        .unwrap();
        assert_eq!(applied.diff_id, result.diff_id);
        assert_eq!(applied.size, result.uncompressed_size);
        assert_eq!(applied.entries, result.entries);
        pretty_equal(&before, &without_whiteout_times(describe(target.path())));
        // A table of contents follows the tar and is counted with it.
        if compression != Compression::ESTARGZ {
            diff_ids.push(result.diff_id);
        }
    }
    diff_ids.dedup();
    assert_eq!(diff_ids.len(), 1, "the tar depends on its compression");
}

fn pretty_equal(left: &str, right: &str) {
    for (left, right) in left.lines().zip(right.lines()) {
        assert_eq!(left, right);
    }
    assert_eq!(left.lines().count(), right.lines().count());
}

#[test]
fn other_programs_accept_what_is_packed() {
    need_root();
    let upper = tempfile::tempdir().unwrap();
    build_upper(upper.path());
    let (_, plain) = packed(upper.path(), Compression::Uncompressed, 2);
    let (_, gzipped) = packed(upper.path(), Compression::GZIP, 2);
    let (_, zstd) = packed(upper.path(), Compression::ZSTD, 2);
    assert_eq!(pipe("gzip", &["-dc"], &gzipped).unwrap(), plain);
    pipe("gzip", &["-t"], &gzipped).unwrap();
    assert_eq!(pipe("zstd", &["-dcq"], &zstd).unwrap(), plain);
    pipe("zstd", &["-tq"], &zstd).unwrap();
    // One member: a decoder that stops after the first sees everything.
    let mut single = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(gzipped.as_slice()), &mut single)
        .unwrap();
    assert_eq!(single, plain);
    let listing =
        String::from_utf8(pipe("tar", &["--quoting-style=literal", "-tf", "-"], &plain).unwrap());
    let listing =
        listing.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    for name in [
        "dir/\n",
        "dir/.wh.gone\n",
        "opaque/.wh..wh..opq\n",
        "umläut\n",
        "fifo\n",
        "dir/sub/hard\n",
    ] {
        assert!(listing.contains(name), "{name:?} is not in {listing}");
    }
    let target = tempfile::tempdir().unwrap();
    let path = target.path().to_str().unwrap();
    pipe("tar", &["-xf", "-", "--numeric-owner", "-p", "--exclude=.wh.*", "-C", path], &plain)
        .unwrap();
    assert_eq!(fs::read(target.path().join("dir/sub/hard")).unwrap(), b"content");
    assert_eq!(
        fs::metadata(target.path().join("suid")).unwrap().permissions().mode() & 0o7777,
        0o4755
    );
}

#[test]
fn bytes_do_not_depend_on_threads_or_time() {
    need_root();
    let upper = tempfile::tempdir().unwrap();
    build_upper(upper.path());
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let (first, bytes) = packed(upper.path(), compression, 1);
        for threads in [2, 3, 8] {
            let (again, same) = packed(upper.path(), compression, threads);
            assert_eq!(first, again);
            assert_eq!(bytes, same);
        }
    }
}

#[test]
fn unchanged_blocks_are_taken_over() {
    let upper = tempfile::tempdir().unwrap();
    for number in 0..4000_u32 {
        fs::write(upper.path().join(format!("f{number}")), number.to_le_bytes().repeat(500))
            .unwrap();
    }
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let options = PackOptions { compression, index: true, ..PackOptions::default() };
        let blob = tempfile::NamedTempFile::new().unwrap();
        let first = pack(dir_fd(upper.path()).as_fd(), &options, blob.reopen().unwrap()).unwrap();
        assert!(first.blocks.len() > 5 && first.reused_blocks == 0);
        fs::write(upper.path().join("f77"), b"changed").unwrap();
        let prior = PriorBlob::new(blob.reopen().unwrap(), &first.blocks);
        let mut with_prior = Vec::new();
        let options = PackOptions { prior: Some(&prior), ..options };
        let second = pack(dir_fd(upper.path()).as_fd(), &options, &mut with_prior).unwrap();
        assert!(second.reused_blocks + 3 >= second.blocks.len() as u64, "{second:?}");
        let mut without = Vec::new();
        let options = PackOptions { prior: None, ..options };
        let fresh = pack(dir_fd(upper.path()).as_fd(), &options, &mut without).unwrap();
        assert_eq!((fresh.digest, &without), (second.digest, &with_prior));
    }
}

#[test]
fn a_block_that_changed_on_disk_is_not_taken_over() {
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join("file"), "content").unwrap();
    let options = PackOptions { index: true, ..PackOptions::default() };
    let mut bytes = Vec::new();
    let first = pack(dir_fd(upper.path()).as_fd(), &options, &mut bytes).unwrap();
    for (damage, reused) in [(0, 1), (1, 0)] {
        let mut blob = bytes.clone();
        blob[usize::try_from(first.blocks[0].offset).unwrap() + 3] ^= damage;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), blob).unwrap();
        let prior = PriorBlob::new(file.reopen().unwrap(), &first.blocks);
        let options = PackOptions { index: true, prior: Some(&prior), ..PackOptions::default() };
        let mut again = Vec::new();
        let second = pack(dir_fd(upper.path()).as_fd(), &options, &mut again).unwrap();
        assert_eq!((second.reused_blocks, &again), (reused, &bytes));
    }
}

#[test]
fn a_tar_of_the_callers_is_cut_at_its_entries() {
    let entry = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let files = |changed: u32| {
        let content = move |number: u32| (number + u32::from(number == changed)).to_le_bytes();
        (0..3000).map(move |number| (format!("f{number}"), content(number).repeat(500)))
    };
    let big: Vec<u8> = (0..800_000_u32).flat_map(u32::to_le_bytes).collect();
    let run = |changed: u32, prior: Option<&PriorBlob>, out: &mut Vec<u8>| {
        let options = PackOptions {
            index: true,
            prior: prior.map(|prior| prior as &dyn BlockSource),
            ..PackOptions::default()
        };
        let mut tar = Vec::new();
        let packed = pack_tar(&options, out, |mut sink| {
            let big = [("big".to_owned(), big.clone())];
            for (name, content) in files(changed).chain(big) {
                let bytes = entry(&name, &content);
                sink.entry(name.as_bytes(), content.len() as u64).map_err(PackError::Write)?;
                std::io::Write::write_all(&mut sink, &bytes).map_err(PackError::Write)?;
                tar.extend(bytes);
            }
            Ok(3001)
        });
        tar.resize(tar.len() + 1024, 0);
        (packed.unwrap(), tar)
    };
    let mut bytes = Vec::new();
    let (first, tar) = run(u32::MAX, None, &mut bytes);
    assert_eq!((first.entries, first.diff_id), (3001, Digest::of(&tar)));
    assert_eq!(pipe("gzip", &["-dc"], &bytes).unwrap(), tar);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bytes).unwrap();
    let prior = PriorBlob::new(file.reopen().unwrap(), &first.blocks);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (second, _) = run(77, Some(&prior), &mut with);
    assert!(second.reused_blocks + 3 >= second.blocks.len() as u64, "{second:?}");
    assert_ne!(second.digest, first.digest);
    let (fresh, _) = run(77, None, &mut without);
    assert_eq!((fresh.digest, without), (second.digest, with));
    let refused = pack_tar(&PackOptions::default(), std::io::sink(), |_| Err(PackError::Worker));
    assert!(matches!(refused, Err(PackError::Worker)));
}

#[test]
fn the_epoch_clamps_and_ids_must_fit() {
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join("new"), b"").unwrap();
    fs::write(upper.path().join("old"), b"").unwrap();
    set_mtime(&upper.path().join("old"), 5);
    let options = PackOptions {
        compression: Compression::Uncompressed,
        epoch: Some(1000),
        ..PackOptions::default()
    };
    let mut out = Vec::new();
    pack(dir_fd(upper.path()).as_fd(), &options, &mut out).unwrap();
    let mut archive = tar::Archive::new(out.as_slice());
    let times: Vec<u64> =
        archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap()).collect();
    assert_eq!(times, [1000, 5]);
    let options = PackOptions { ids: &|_| None, ..options };
    assert!(matches!(
        pack(dir_fd(upper.path()).as_fd(), &options, std::io::sink()),
        Err(PackError::UnmappedId { .. })
    ));
}

#[test]
fn failures_end_the_pack() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let upper = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..20_000_000_u64)
        .map(|number| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    fs::write(upper.path().join("big"), noise).unwrap();
    let options = PackOptions::default();
    let result = pack(dir_fd(upper.path()).as_fd(), &options, Full(100_000));
    assert!(matches!(result, Err(PackError::Write(_))), "{result:?}");
    fs::write(upper.path().join(".wh.name"), b"").unwrap();
    let result = pack(dir_fd(upper.path()).as_fd(), &options, std::io::sink());
    assert!(matches!(result, Err(PackError::Unrepresentable { .. })), "{result:?}");
}

#[test]
fn merged_trees_come_with_their_parents() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("etc")).unwrap();
    fs::write(tree.path().join("etc/x"), b"x").unwrap();
    let mut writer =
        TreeWriter::new(Vec::new(), &TreeOptions { epoch: Some(0), ..TreeOptions::default() });
    writer.tree(dir_fd(tree.path()).as_fd(), "linux_amd64").unwrap();
    writer.file("linux_amd64/provenance.json", 0o600, b"{}").unwrap();
    writer.tree(dir_fd(tree.path()).as_fd(), "a/b").unwrap();
    let bytes = writer.finish().unwrap();
    let listing = String::from_utf8(pipe("tar", &["-tf", "-"], &bytes).unwrap()).unwrap();
    let expected = [
        "linux_amd64/",
        "linux_amd64/etc/",
        "linux_amd64/etc/x",
        "linux_amd64/provenance.json",
        "a/",
        "a/b/",
        "a/b/etc/",
        "a/b/etc/x",
    ];
    assert_eq!(listing.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn gzip_members_may_be_joined_but_nothing_else() {
    let tar = common::Tar::default().file("a", b"content").end();
    let target = tempfile::tempdir().unwrap();
    let apply_bytes = |bytes: &[u8]| {
        apply(
            bytes,
            cofferdam_image::media::OCI_LAYER_GZIP,
            dir_fd(target.path()).as_fd(),
            &ApplyOptions::default(),
        )
    };
    let joined = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    assert_eq!(apply_bytes(&joined).unwrap().diff_id, Digest::of(&tar));
    assert!(apply_bytes(&[joined.clone(), vec![0; 100]].concat()).is_ok());
    assert!(apply_bytes(&[joined.clone(), b"garbage".to_vec()].concat()).is_err());
    assert!(apply_bytes(&joined[..joined.len() - 3]).is_err());
    assert!(apply_bytes(&joined[..joined.len() / 2]).is_err());
    let zstd = zstd::bulk::compress(&tar, 3).unwrap();
    assert!(apply_bytes(&zstd).is_ok());
    assert!(apply_bytes(&zstd[..zstd.len() - 1]).is_err());
    assert!(apply_bytes(&[zstd, b"garbage".to_vec()].concat()).is_err());
}
