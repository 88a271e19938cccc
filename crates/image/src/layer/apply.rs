//! Applies one layer, or unpacks one archive, into a directory.
//!
//! Decompression and hashing run in a thread of their own, so that they overlap with the file
//! system. The directory's own mode and owner are never touched; device nodes are skipped; of
//! entries that share a name the last one wins.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cofferdam_digest::{Digest, Digester};

use super::tarstream::{Entry, Kind};
use super::tree::{Meta, Tree};
use super::{
    ApplyError, IDENTITY, Limits, MapId, Source, TarStream, WHITEOUT_OPAQUE, WHITEOUT_PREFIX,
    Wrapping, name,
};
use crate::media;

/// Bytes handed from the decompressing thread at a time, and how many such pieces may wait.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;
/// Longest target of a symbolic link the kernel takes.
const MAX_LINK: usize = 4095;

/// How to apply.
pub struct ApplyOptions<'a> {
    /// Container id to id on disk.
    pub ids: MapId<'a>,
    /// Bounds.
    pub limits: Limits,
}

impl Default for ApplyOptions<'_> {
    fn default() -> Self {
        Self { ids: IDENTITY, limits: Limits::default() }
    }
}

/// What was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Digest of the uncompressed tar, all of it.
    pub diff_id: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Entries in it.
    pub entries: u64,
}

/// Applies a layer to `root`, an empty overlay directory that nothing else writes to.
///
/// `reader` gives the compressed bytes and is read to its end; whether they have the digest that
/// was asked for is for the caller to check (wrap the reader in `cofferdam_digest::Digesting`).
/// `media_type` must be a layer's; gzip, zstd and plain tars are told apart by their first bytes.
/// It must not block for ever: this function returns only when the last read has.
/// After an error `root` holds a part of the layer and should be thrown away.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(
    reader: impl Read + Send,
    media_type: &str,
    root: BorrowedFd<'_>,
    options: &ApplyOptions<'_>,
) -> Result<Applied, ApplyError> {
    if !media::is_layer(media_type) {
        return Err(ApplyError::NotALayer { media_type: media_type.to_owned() });
    }
    unpack_tar(reader, &[Wrapping::None, Wrapping::Gzip, Wrapping::Zstd], root, options, true)
}

/// Feeds arbitrary bytes to the whole path with small bounds; for fuzzing.
pub fn apply_untrusted(bytes: &[u8], root: BorrowedFd<'_>) {
    let options = ApplyOptions { limits: Limits::tiny(), ..ApplyOptions::default() };
    let _ = apply(bytes, media::OCI_LAYER_GZIP, root, &options);
}

/// Unpacks in two threads: this one creates entries, another decompresses and hashes.
pub(crate) fn unpack_tar(
    reader: impl Read + Send,
    allowed: &[Wrapping],
    root: BorrowedFd<'_>,
    options: &ApplyOptions<'_>,
    whiteouts: bool,
) -> Result<Applied, ApplyError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(CHUNKS);
        let limits = &options.limits;
        let worker = scope.spawn(move || produce(reader, allowed, limits, &sender));
        let chunks = Chunks { receiver, current: Vec::new(), position: 0 };
        let entries = Unpacker::new(chunks, root, options, whiteouts).and_then(Unpacker::run);
        let (diff_id, size) = worker.join().map_err(|_| ApplyError::Worker)?;
        Ok(Applied { diff_id, size, entries: entries? })
    })
}

/// Sends the uncompressed bytes until they end, fail, or nobody wants them any more.
fn produce(
    reader: impl Read,
    allowed: &[Wrapping],
    limits: &Limits,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> (Digest, u64) {
    let mut digester = Digester::new();
    match Source::open(reader, allowed, limits) {
        Ok(mut source) => loop {
            let chunk = read_chunk(&mut source);
            if let Ok(bytes) = &chunk {
                if bytes.is_empty() {
                    break;
                }
                digester.update(bytes);
            }
            let failed = chunk.is_err();
            if sender.send(chunk).is_err() || failed {
                break;
            }
        },
        // Nobody listening means nobody to tell.
        Err(error) => drop(sender.send(Err(error))),
    }
    let size = digester.len();
    (digester.finish(), size)
}

fn read_chunk(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; CHUNK];
    let mut filled = 0;
    while filled < CHUNK {
        match source.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(chunk)
}

/// Reads what the other thread sends.
struct Chunks {
    receiver: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    position: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() {
            match self.receiver.recv() {
                Ok(chunk) => self.current = chunk?,
                Err(_) => return Ok(0),
            }
            self.position = 0;
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

struct Unpacker<'a, R> {
    stream: TarStream<R>,
    tree: Tree<'a>,
    whiteouts: bool,
    limits: &'a Limits,
    /// Directories whose times are set at the end, and the bytes of their names.
    directories: Vec<(Vec<u8>, (i64, u32))>,
    directory_bytes: usize,
    buffer: Vec<u8>,
}

/// What a name means in a layer.
enum Meaning<'p> {
    Plain,
    Opaque,
    Whiteout(&'p [u8]),
    Ignored,
}

impl<'a, R: Read> Unpacker<'a, R> {
    fn new(
        reader: R,
        root: BorrowedFd<'_>,
        options: &'a ApplyOptions<'a>,
        whiteouts: bool,
    ) -> Result<Self, ApplyError> {
        Ok(Self {
            stream: TarStream::new(reader),
            tree: Tree::new(root, options.ids, whiteouts)?,
            whiteouts,
            limits: &options.limits,
            directories: Vec::new(),
            directory_bytes: 0,
            buffer: vec![0; CHUNK],
        })
    }

    fn run(mut self) -> Result<u64, ApplyError> {
        let mut entries = 0;
        while let Some(entry) = self.stream.next()? {
            entries += 1;
            if entries > self.limits.entries {
                return Err(ApplyError::Limit { what: "entries", limit: self.limits.entries });
            }
            self.entry(&entry)?;
        }
        // Inner directories first, though setting times does not touch those of parents.
        for (path, mtime) in self.directories.iter().rev() {
            self.tree.set_directory_times(path, *mtime);
        }
        Ok(entries)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        let Some(path) = name::clean(&entry.path)? else {
            return if entry.kind == Kind::Directory {
                Ok(())
            } else {
                Err(ApplyError::refused(&entry.path, "the root must be a directory"))
            };
        };
        if self.whiteouts {
            match meaning(&path)? {
                Meaning::Plain => {}
                Meaning::Ignored => return Ok(()),
                Meaning::Opaque => return self.tree.opaque(name::split(&path).0, &path),
                Meaning::Whiteout(base) => {
                    return self.tree.whiteout(name::split(&path).0, base, &path);
                }
            }
        }
        match entry.kind {
            Kind::Device => Ok(()),
            Kind::HardLink => {
                let target = name::clean(&entry.link)?
                    .ok_or_else(|| ApplyError::refused(&path, "a hard link to the root"))?;
                self.tree.hard_link(&path, &target)
            }
            _ => self.create(entry, path),
        }
    }

    fn create(&mut self, entry: &Entry, path: Vec<u8>) -> Result<(), ApplyError> {
        let owner = self.tree.owner(entry.uid, entry.gid, &path)?;
        let meta = Meta { mode: entry.mode, owner, mtime: entry.mtime, xattrs: &entry.xattrs };
        match entry.kind {
            Kind::Directory => {
                self.tree.directory(&path, &meta)?;
                self.directory_bytes += path.len();
                if self.directory_bytes > self.limits.directory_names {
                    let limit = self.limits.directory_names as u64;
                    return Err(ApplyError::Limit { what: "bytes of directory names", limit });
                }
                self.directories.push((path, entry.mtime));
                Ok(())
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > MAX_LINK || entry.link.contains(&0) {
                    return Err(ApplyError::refused(&path, "the target of the link is malformed"));
                }
                self.tree.symlink(&path, &entry.link, &meta)
            }
            Kind::Fifo => self.tree.fifo(&path, &meta),
            Kind::File | Kind::HardLink | Kind::Device => self.file(&path, &meta),
        }
    }

    fn file(&mut self, path: &[u8], meta: &Meta<'_>) -> Result<(), ApplyError> {
        let mut file = self.tree.file(path)?;
        loop {
            let count = self.stream.data(&mut self.buffer)?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count]).map_err(|source| ApplyError::Write {
                action: "write",
                path: super::error::display(path),
                source,
            })?;
        }
        self.tree.finish_file(&file, meta, path)
    }
}

/// Tells whiteouts from ordinary names. Directories named like whiteouts do not exist; names
/// reserved by aufs (`.wh..wh.*`) are ignored as other engines do.
fn meaning(path: &[u8]) -> Result<Meaning<'_>, ApplyError> {
    const RESERVED: &[u8] = b".wh..wh.";
    let (parent, base) = name::split(path);
    for component in parent.split(|&byte| byte == b'/') {
        if component.starts_with(RESERVED) {
            return Ok(Meaning::Ignored);
        }
        if component.starts_with(WHITEOUT_PREFIX) {
            return Err(ApplyError::refused(path, "an entry inside a whiteout"));
        }
    }
    if base == WHITEOUT_OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if base.starts_with(RESERVED) {
        return Ok(Meaning::Ignored);
    }
    match base.strip_prefix(WHITEOUT_PREFIX) {
        None => Ok(Meaning::Plain),
        Some(b"" | b"." | b"..") => Err(ApplyError::refused(path, "a whiteout of no name")),
        Some(name) => Ok(Meaning::Whiteout(name)),
    }
}
