//! Packs a directory of a tree as a normalised layer of an app image.
//!
//! What a buildpack left is hostile: links are written down and never followed, every name is opened
//! by itself beneath its directory's descriptor, depth and count are bounded. Sockets are left out;
//! extended attributes and capabilities are dropped, as the layers' format has it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use cofferdam_buildpacks::{ImageLayer, Selection};
use cofferdam_cnb::LayerTar;
use cofferdam_digest::Digesting;
use cofferdam_image::media;
use cofferdam_store::{Blob, IdRange, Store};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::failure::Failure;
use crate::rooted::Root;

/// Directories below each other; deeper ones are a bomb.
const MAX_DEPTH: usize = 256;
/// Entries of one layer.
const MAX_ENTRIES: usize = 2_000_000;

/// What is packed, and how entries are written.
pub(super) struct Packing<'a> {
    /// The directory's name in the layer.
    pub(super) name: &'a str,
    /// Directories above it.
    pub(super) parents: &'a [(String, (u32, u32), u32)],
    /// Owner of everything; as it is on disk otherwise.
    pub(super) owner: Option<(u32, u32)>,
    /// What is taken.
    pub(super) selection: &'a Selection,
}

type Tar = LayerTar<Digesting<GzEncoder<cofferdam_store::BlobWriter>>>;

/// Packs `root`; the blob stays while it is held. Blocking.
pub(super) fn pack(
    store: &Arc<Store>,
    root: &Root,
    packing: &Packing<'_>,
) -> Result<(ImageLayer, Blob), Failure> {
    let mut tar = open(store)?;
    for (name, (uid, gid), mode) in packing.parents {
        tar.directory(name, *uid, *gid, *mode).map_err(Failure::of)?;
    }
    let stat = rustix::fs::fstat(root.as_fd()).map_err(Failure::of)?;
    let mut walk = Walk { packing, ids: store.ids(), entries: 0, tar: &mut tar };
    if !matches!(packing.selection, Selection::Only(paths) if !paths.contains("")) {
        walk.directory(packing.name.as_bytes(), &stat)?;
    }
    walk.children(root, packing.name.as_bytes(), "", 0)?;
    close(tar)
}

/// Keeps a tar that is complete. Blocking.
pub(super) fn keep(store: &Arc<Store>, bytes: &[u8]) -> Result<(ImageLayer, Blob), Failure> {
    let mut sink = sink(store)?;
    sink.write_all(bytes).map_err(Failure::store)?;
    finish(sink)
}

type Sink = Digesting<GzEncoder<cofferdam_store::BlobWriter>>;

fn sink(store: &Arc<Store>) -> Result<Sink, Failure> {
    let writer = store.blob_writer(None).map_err(Failure::store)?;
    Ok(Digesting::new(GzEncoder::new(writer, Compression::fast())))
}

fn open(store: &Arc<Store>) -> Result<Tar, Failure> {
    Ok(LayerTar::new(sink(store)?))
}

fn close(tar: Tar) -> Result<(ImageLayer, Blob), Failure> {
    finish(tar.finish().map_err(Failure::of)?)
}

fn finish(sink: Sink) -> Result<(ImageLayer, Blob), Failure> {
    let (encoder, diff_id, _) = sink.finish();
    let writer = encoder.finish().map_err(Failure::store)?;
    let blob = writer.commit().map_err(Failure::store)?;
    let layer = ImageLayer {
        diff_id,
        digest: blob.digest(),
        size: blob.size(),
        media_type: media::OCI_LAYER_GZIP.to_owned(),
        origin: None,
    };
    Ok((layer, blob))
}

struct Walk<'a, 'b> {
    packing: &'a Packing<'a>,
    ids: IdRange,
    entries: usize,
    tar: &'b mut Tar,
}

impl Walk<'_, '_> {
    fn owner(&self, stat: &Stat) -> Result<(u32, u32), Failure> {
        if let Some(owner) = self.packing.owner {
            return Ok(owner);
        }
        let uid = self.ids.from_disk(stat.st_uid);
        let owner = uid.zip(self.ids.from_disk(stat.st_gid));
        owner.ok_or_else(|| Failure::invalid("a file's owner is outside a build's range"))
    }

    fn directory(&mut self, name: &[u8], stat: &Stat) -> Result<(), Failure> {
        let (uid, gid) = self.owner(stat)?;
        self.tar.directory(name, uid, gid, stat.st_mode & 0o7777).map_err(Failure::of)
    }

    fn children(
        &mut self,
        directory: &Root,
        name: &[u8],
        relative: &str,
        depth: usize,
    ) -> Result<(), Failure> {
        if depth > MAX_DEPTH {
            return Err(Failure::invalid(format!(
                "{:?} is more than {MAX_DEPTH} levels deep",
                self.packing.name
            )));
        }
        for child in directory.names().map_err(Failure::store)? {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Failure::invalid(format!(
                    "{:?} has more than {MAX_ENTRIES} entries",
                    self.packing.name
                )));
            }
            let mut path = name.to_vec();
            if path != b"/" {
                path.push(b'/');
            }
            path.extend_from_slice(child.as_bytes());
            let text = child.to_string_lossy();
            let inner = match relative {
                "" => text.into_owned(),
                relative => format!("{relative}/{text}"),
            };
            self.entry(directory, &child, &path, &inner, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: &Root,
        child: &OsStr,
        path: &[u8],
        inner: &str,
        depth: usize,
    ) -> Result<(), Failure> {
        let stat = rustix::fs::statat(parent.as_fd(), child.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Failure::of)?;
        let wanted = match self.packing.selection {
            Selection::All => true,
            Selection::Only(paths) => paths.contains(inner),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            if wanted {
                self.directory(path, &stat)?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent.as_fd(), child.as_bytes(), flags, Mode::empty())
                .map_err(Failure::of)?;
            return self.children(&Root::new(fd), path, inner, depth + 1);
        }
        if !wanted {
            return Ok(());
        }
        let (uid, gid) = self.owner(&stat)?;
        let mode = stat.st_mode & 0o7777;
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent.as_fd(), child.as_bytes(), flags, Mode::empty())
                    .map_err(Failure::of)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.tar.file(path, uid, gid, mode, size, &mut File::from(fd)).map_err(Failure::of)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent.as_fd(), child.as_bytes(), Vec::new())
                    .map_err(Failure::of)?;
                self.tar.symlink(path, target.as_bytes(), uid, gid, mode).map_err(Failure::of)
            }
            FileType::Fifo => self.tar.fifo(path, uid, gid, mode).map_err(Failure::of),
            FileType::Socket => Ok(()),
            _ => {
                let path = String::from_utf8_lossy(path);
                Err(Failure::invalid(format!("{path:?} is a device, which no layer may have")))
            }
        }
    }
}
