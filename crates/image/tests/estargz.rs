//! eStargz as a lazy reader sees it: the footer says where the table is, and the table where each file is.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;

use cofferdam_digest::Digest;
use cofferdam_image::layer::{
    ApplyOptions, Compression, ESTARGZ_ANNOTATIONS, PackError, PackOptions, Packed, apply, pack,
};
use common::dir_fd;
use flate2::bufread::{GzDecoder, MultiGzDecoder};
use rustix::fs::{XattrFlags, lsetxattr};
use serde_json::Value;

const FOOTER: usize = 51;
const CHUNK: usize = 4 << 20;

fn packed(root: &std::path::Path, compression: Compression) -> (Packed, Vec<u8>) {
    let options = PackOptions { compression, ..PackOptions::default() };
    let mut out = Vec::new();
    let packed = pack(dir_fd(root).as_fd(), &options, &mut out).unwrap();
    assert_eq!(packed.digest, Digest::of(&out));
    assert_eq!(packed.size, out.len() as u64);
    (packed, out)
}

fn unpacked(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
    tar
}

/// The bytes of one member.
fn member(blob: &[u8], offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut decoder = GzDecoder::new(&blob[usize::try_from(offset).unwrap()..]);
    decoder.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The table, found by way of the footer.
fn table(blob: &[u8]) -> (Value, Digest) {
    let footer = &blob[blob.len() - FOOTER..];
    let decoder = GzDecoder::new(footer);
    let extra = decoder.header().unwrap().extra().unwrap();
    assert_eq!((&extra[..4], &extra[20..]), (&b"SG\x16\0"[..], &b"STARGZ"[..]));
    let offset = u64::from_str_radix(std::str::from_utf8(&extra[4..20]).unwrap(), 16).unwrap();
    let tar = member(blob, offset);
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some("stargz.index.json"));
    let mut json = Vec::new();
    entry.read_to_end(&mut json).unwrap();
    (serde_json::from_slice(&json).unwrap(), Digest::of(&json))
}

#[test]
fn every_file_is_found_by_its_offset() {
    let upper = tempfile::tempdir().unwrap();
    let big: Vec<u8> =
        (0..3_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::create_dir(upper.path().join("dir")).unwrap();
    fs::write(upper.path().join("dir/big"), &big).unwrap();
    fs::write(upper.path().join("dir/exact"), &big[..CHUNK]).unwrap();
    fs::write(upper.path().join("empty"), "").unwrap();
    fs::write(upper.path().join("note"), "a note").unwrap();
    lsetxattr(upper.path().join("note"), "user.note", b"1\0", XattrFlags::empty()).unwrap();
    std::os::unix::fs::symlink("note", upper.path().join("link")).unwrap();
    let (layer, blob) = packed(upper.path(), Compression::ESTARGZ);

    // Whoever reads it as any other layer sees the tar that is packed otherwise, and what follows it.
    let whole = unpacked(&blob);
    let (_, plain) = packed(upper.path(), Compression::Uncompressed);
    assert_eq!(&whole[..plain.len()], plain);
    assert_eq!(layer.diff_id, Digest::of(&whole));
    assert_eq!(layer.uncompressed_size, whole.len() as u64);

    let (table, digest) = table(&blob);
    assert_eq!(layer.annotations[ESTARGZ_ANNOTATIONS[0]], digest.to_string());
    let entries = table["entries"].as_array().unwrap();
    let of = |name: &str| -> Vec<&Value> {
        entries.iter().filter(|entry| entry["name"] == name).collect()
    };
    for (name, content) in
        [("dir/big", big.as_slice()), ("dir/exact", &big[..CHUNK]), ("note", b"a note")]
    {
        let chunks = of(name);
        assert_eq!(chunks.len(), content.len().div_ceil(CHUNK), "{name}");
        assert_eq!(chunks[0]["type"], "reg");
        assert_eq!(chunks[0]["size"], content.len());
        assert_eq!(chunks[0]["digest"], Digest::of(content).to_string());
        for (chunk, expected) in chunks.iter().zip(content.chunks(CHUNK)) {
            let found = member(&blob, chunk["offset"].as_u64().unwrap());
            assert_eq!(&found[..expected.len()], expected, "{name}");
            assert_eq!(chunk["chunkDigest"], Digest::of(expected).to_string());
        }
    }
    assert_eq!(of("note")[0]["xattrs"]["user.note"], "MQA=");
    assert_eq!(of("link")[0]["linkName"], "note");
    assert_eq!(of("dir/")[0]["type"], "dir");
    assert_eq!(of("empty")[0]["digest"], Digest::of([]).to_string());
    assert!(of("empty")[0].get("offset").is_none());
}

#[test]
fn only_one_table_may_follow_the_end() {
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join("file"), "content").unwrap();
    let (_, plain) = packed(upper.path(), Compression::Uncompressed);
    let (_, blob) = packed(upper.path(), Compression::ESTARGZ);
    let tar = unpacked(&blob);
    let table = &tar[plain.len()..];
    let applied = |tar: &[u8]| {
        let target = tempfile::tempdir().unwrap();
        let kind = Compression::Uncompressed.media_type(true);
        let result = apply(tar, kind, dir_fd(target.path()).as_fd(), &ApplyOptions::default());
        let names = fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap().file_name());
        result.map(|_| names.collect::<Vec<_>>())
    };
    assert_eq!(applied(&tar).unwrap(), ["file"], "the table is no file of the layer");
    let other =
        String::from_utf8_lossy(table).replacen("stargz.index.json", "stargz.index.jsom", 1);
    for bad in
        [[&tar, table].concat(), [&plain, &plain[..]].concat(), [&plain, other.as_bytes()].concat()]
    {
        let error = applied(&bad).unwrap_err().to_string();
        assert!(error.contains("bytes follow the end"), "{error}");
    }
}

#[test]
fn the_same_tree_makes_the_same_bytes() {
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join("a"), vec![7; 100_000]).unwrap();
    let first = packed(upper.path(), Compression::ESTARGZ);
    assert_eq!(first, packed(upper.path(), Compression::ESTARGZ));
}

/// Takes some bytes and fails.
struct Full(usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_the_error() {
    let upper = tempfile::tempdir().unwrap();
    let noise: Vec<u8> =
        (0..2_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(upper.path().join("a"), noise).unwrap();
    let options = PackOptions { compression: Compression::ESTARGZ, ..PackOptions::default() };
    let error = pack(dir_fd(upper.path()).as_fd(), &options, Full(1_000_000)).unwrap_err();
    let PackError::Write(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}
