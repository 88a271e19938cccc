//! eStargz: a layer whose files can be fetched one by one, as
//! [stargz-snapshotter](https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md) has it.
//!
//! The tar stays as it is, byte for byte, and so does every other reader's view of it: one gzip stream of many members. What each
//! file holds begins a member of its own, a table of contents follows the tar as a file of a tar of its own, and a footer says
//! where that begins. The table is made from the tar that this crate wrote, never from one that came from elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::rc::Rc;

use base64::Engine as _;
use cofferdam_digest::{Digest, Digester, Digesting};
use flate2::write::GzEncoder;
use serde::Serialize;
use tar::EntryType;

use crate::layer::tarstream::{ESTARGZ_TABLE, Entry, Kind, TarStream};

use super::error::PackError;
use super::{Compression, PackOptions, Packed};

/// What a descriptor of an eStargz is annotated with: the digest of the table of contents, which every eStargz has and nothing
/// else, and the size of the uncompressed bytes.
pub const ESTARGZ_ANNOTATIONS: [&str; 2] =
    ["containerd.io/snapshot/stargz/toc.digest", "io.containers.estargz.uncompressed-size"];

/// Bytes of a file that are compressed together.
const CHUNK: u64 = 4 << 20;
/// A gzip member with nothing in it up to its extra field: magic, deflate, "has an extra field", no time, unknown system; then the
/// field's length and, in it, one subfield `SG` with its own.
const FOOTER_HEAD: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
/// The rest of that member: a stored block that is the last and empty, the checksum and the length of nothing.
const FOOTER_END: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
const TAR_BLOCK: usize = 512;

/// The table of contents.
#[derive(Serialize)]
struct Toc {
    version: u32,
    entries: Vec<TocEntry>,
}

/// One entry of the table: of the tar, or a further chunk of a file.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    modtime: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Packs with `plain`, which writes the tar as it was told, and makes an eStargz of what it writes.
pub(super) fn pack(
    options: &PackOptions<'_>,
    level: u32,
    out: impl Write + Send,
    plain: impl FnOnce(&PackOptions<'_>, io::PipeWriter) -> Result<Packed, PackError> + Send,
) -> Result<Packed, PackError> {
    let (reader, writer) = io::pipe().map_err(PackError::Compress)?;
    let plain_options = PackOptions {
        compression: Compression::Uncompressed,
        epoch: options.epoch,
        ids: options.ids,
        threads: options.threads,
        index: false,
        prior: None,
    };
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || plain(&plain_options, writer));
        let made = write(reader, level, out);
        let packed = packing.join().map_err(|_| PackError::Worker)?;
        // When the destination fails, nobody reads the tar any more; when packing fails, the tar ends early.
        let (packed, made) = match (packed, made) {
            (Err(PackError::Write(_)), Err(error)) | (Ok(_), Err(error)) => {
                return Err(PackError::Write(error));
            }
            (Err(error), _) => return Err(error),
            (Ok(packed), Ok(made)) => (packed, made),
        };
        let annotations = BTreeMap::from([
            (ESTARGZ_ANNOTATIONS[0].to_owned(), made.toc.to_string()),
            (ESTARGZ_ANNOTATIONS[1].to_owned(), made.uncompressed_size.to_string()),
        ]);
        Ok(Packed {
            digest: made.digest,
            size: made.size,
            diff_id: made.diff_id,
            uncompressed_size: made.uncompressed_size,
            annotations,
            ..packed
        })
    })
}

/// What was written.
struct Written {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    uncompressed_size: u64,
    toc: Digest,
}

/// Reads a tar and writes it as an eStargz.
fn write(tar: impl Read, level: u32, out: impl Write) -> io::Result<Written> {
    let raw = Rc::new(RefCell::new(Vec::new()));
    let mut tar = TarStream::new(Tee { inner: tar, raw: Rc::clone(&raw) });
    let mut members = Members::new(out, level);
    let mut toc = Toc { version: 1, entries: Vec::new() };
    while let Some(entry) = tar.next().map_err(io::Error::other)? {
        // What was read since the last chunk: padding of the file before, and this entry's headers.
        members.write(&raw.take())?;
        let described = describe(&entry, tar.remaining())?;
        if described.size > 0 {
            file(&mut tar, described, &raw, &mut members, &mut toc.entries)?;
        } else {
            toc.entries.push(described);
        }
    }
    members.write(&raw.take())?;
    let offset = members.next()?;
    let table = serde_json::to_vec(&toc)?;
    members.write(&table_tar(&table)?)?;
    members.finish(offset, Digest::of(&table))
}

/// Writes what a file holds, each chunk as a member, and lists them.
fn file<R: Read>(
    tar: &mut TarStream<Tee<R>>,
    described: TocEntry,
    raw: &RefCell<Vec<u8>>,
    members: &mut Members<impl Write>,
    entries: &mut Vec<TocEntry>,
) -> io::Result<()> {
    let (name, size, first) = (described.name.clone(), described.size, entries.len());
    let mut next = Some(described);
    let mut whole = Digester::new();
    let mut scratch = vec![0; 64 << 10];
    while tar.remaining() > 0 {
        let chunk_offset = size - tar.remaining();
        let end = tar.remaining().saturating_sub(CHUNK);
        while tar.remaining() > end {
            let wanted = usize::try_from(tar.remaining() - end).unwrap_or(usize::MAX);
            let wanted = wanted.min(scratch.len());
            tar.data(&mut scratch[..wanted]).map_err(io::Error::other)?;
        }
        let chunk = raw.take();
        whole.update(&chunk);
        let further = || TocEntry { name: name.clone(), kind: "chunk", ..TocEntry::default() };
        entries.push(TocEntry {
            offset: members.next()?,
            chunk_offset,
            // Zero says that the chunk goes to the end of the file.
            chunk_size: if end > 0 { chunk.len() as u64 } else { 0 },
            chunk_digest: Digest::of(&chunk).to_string(),
            ..next.take().unwrap_or_else(further)
        });
        members.write(&chunk)?;
    }
    if let Some(entry) = entries.get_mut(first) {
        entry.digest = whole.finish().to_string();
    }
    Ok(())
}

/// What the table says about an entry of the tar, but for where its bytes are.
fn describe(entry: &Entry, size: u64) -> io::Result<TocEntry> {
    if entry.path == ESTARGZ_TABLE {
        return Err(io::Error::other("a file has the name of the eStargz's own table"));
    }
    let kind = match entry.kind {
        Kind::HardLink => "hardlink",
        Kind::Symlink => "symlink",
        Kind::Directory => "dir",
        Kind::File => "reg",
        Kind::Fifo => "fifo",
        Kind::Device => return Err(io::Error::other("devices cannot be put into an eStargz")),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let (seconds, _) = entry.mtime;
    let time = chrono::DateTime::from_timestamp(seconds, 0).filter(|_| seconds != 0);
    Ok(TocEntry {
        name: text(&entry.path),
        kind,
        size,
        modtime: time
            .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
            .unwrap_or_default(),
        link_name: text(&entry.link),
        mode: entry.mode.into(),
        uid: entry.uid,
        gid: entry.gid,
        xattrs: entry.xattrs.iter().map(|(name, value)| (text(name), base64(value))).collect(),
        // A file with nothing in it has a digest too.
        digest: if kind == "reg" { Digest::of([]).to_string() } else { String::new() },
        ..TocEntry::default()
    })
}

/// A tar with the table as its only file.
fn table_tar(table: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(str::from_utf8(ESTARGZ_TABLE).map_err(io::Error::other)?)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0);
    header.set_size(table.len() as u64);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend_from_slice(table);
    tar.resize(tar.len().next_multiple_of(TAR_BLOCK) + 2 * TAR_BLOCK, 0);
    Ok(tar)
}

/// Keeps what was read until somebody takes it.
struct Tee<R> {
    inner: R,
    raw: Rc<RefCell<Vec<u8>>>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.raw.borrow_mut().extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// Gzip members, one behind the other.
struct Members<W: Write> {
    level: flate2::Compression,
    /// `None` while one is exchanged for the next.
    current: Option<GzEncoder<Digesting<W>>>,
    plain: Digester,
}

impl<W: Write> Members<W> {
    fn new(out: W, level: u32) -> Self {
        let level = flate2::Compression::new(level.min(9));
        let current = Some(GzEncoder::new(Digesting::new(out), level));
        Self { level, current, plain: Digester::new() }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.plain.update(bytes);
        self.current.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(bytes)
    }

    fn end(&mut self) -> io::Result<Digesting<W>> {
        self.current.take().ok_or(io::ErrorKind::BrokenPipe)?.finish()
    }

    /// Ends a member and begins another; returns where.
    fn next(&mut self) -> io::Result<u64> {
        let out = self.end()?;
        let offset = out.len();
        self.current = Some(GzEncoder::new(out, self.level));
        Ok(offset)
    }

    /// Ends the last member and says where the table's begins.
    fn finish(mut self, offset: u64, toc: Digest) -> io::Result<Written> {
        let mut out = self.end()?;
        out.write_all(&FOOTER_HEAD)?;
        out.write_all(format!("{offset:016x}STARGZ").as_bytes())?;
        out.write_all(&FOOTER_END)?;
        out.flush()?;
        let (_, digest, size) = out.finish();
        let uncompressed_size = self.plain.len();
        Ok(Written { digest, size, diff_id: self.plain.finish(), uncompressed_size, toc })
    }
}
