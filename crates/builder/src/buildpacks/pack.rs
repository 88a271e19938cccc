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
use cofferdam_digest::Digest;
use cofferdam_image::layer::{self, Compression, PackError, PackOptions, TarSink};
use cofferdam_image::media;
use cofferdam_store::{Blob, IdRange, Store};
use flate2::write::GzEncoder;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::export::blocks::PackedBlocks;
use crate::failure::Failure;
use crate::rooted::Root;

/// Directories below each other; deeper ones are a bomb.
const MAX_DEPTH: usize = 256;
/// Entries of one layer.
const MAX_ENTRIES: usize = 2_000_000;
/// Of gzip: every build makes such layers, and time counts more than their size.
const LEVEL: u32 = 1;

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

/// Packs `root`; the blob stays while it is held. Blocking.
pub(super) fn pack(
    blocks: &PackedBlocks,
    root: &Root,
    packing: &Packing<'_>,
) -> Result<(ImageLayer, Blob), Failure> {
    let store = blocks.store();
    let mut writer = store.blob_writer(None).map_err(Failure::store)?;
    let earlier = blocks.source();
    let options = PackOptions {
        compression: Compression::Gzip(LEVEL),
        index: true,
        prior: Some(&earlier),
        ..PackOptions::default()
    };
    let mut failed = None;
    let packed = layer::pack_tar(&options, &mut writer, |sink| {
        write(store.ids(), root, packing, sink).map_err(|failure| {
            failed = Some(failure);
            PackError::Worker
        })
    });
    // When the output failed, what the walk says about it is the consequence.
    let packed = packed.map_err(|error| match (error, failed) {
        (PackError::Worker, Some(failure)) => failure,
        (error, _) => Failure::of(error),
    })?;
    let blob = writer.commit().map_err(Failure::store)?;
    blocks.remember(&packed);
    Ok((described(&blob, packed.diff_id), blob))
}

/// Writes the tar without its end; gives the number of entries.
fn write(
    ids: IdRange,
    root: &Root,
    packing: &Packing<'_>,
    sink: TarSink<'_>,
) -> Result<u64, Failure> {
    let mut walk = Walk { packing, ids, entries: 0, tar: LayerTar::new(sink) };
    for (name, (uid, gid), mode) in packing.parents {
        walk.begin(name.as_bytes(), 0)?;
        walk.tar.directory(name, *uid, *gid, *mode).map_err(Failure::of)?;
    }
    let stat = rustix::fs::fstat(root.as_fd()).map_err(Failure::of)?;
    if !matches!(packing.selection, Selection::Only(paths) if !paths.contains("")) {
        walk.directory(packing.name.as_bytes(), &stat)?;
    }
    walk.children(root, packing.name.as_bytes(), "", 0)?;
    Ok(walk.entries as u64)
}

/// Keeps a tar that is complete. Blocking.
pub(super) fn keep(store: &Arc<Store>, bytes: &[u8]) -> Result<(ImageLayer, Blob), Failure> {
    let writer = store.blob_writer(None).map_err(Failure::store)?;
    let mut encoder = GzEncoder::new(writer, flate2::Compression::new(LEVEL));
    encoder.write_all(bytes).map_err(Failure::store)?;
    let writer = encoder.finish().map_err(Failure::store)?;
    let blob = writer.commit().map_err(Failure::store)?;
    Ok((described(&blob, Digest::of(bytes)), blob))
}

fn described(blob: &Blob, diff_id: Digest) -> ImageLayer {
    ImageLayer {
        diff_id,
        digest: blob.digest(),
        size: blob.size(),
        media_type: media::OCI_LAYER_GZIP.to_owned(),
        origin: None,
    }
}

struct Walk<'a, 's> {
    packing: &'a Packing<'a>,
    ids: IdRange,
    entries: usize,
    tar: LayerTar<TarSink<'s>>,
}

impl Walk<'_, '_> {
    /// Says that an entry follows, so that a change of it stays local.
    fn begin(&mut self, path: &[u8], size: u64) -> Result<(), Failure> {
        self.tar.output().entry(path, size).map_err(Failure::of)
    }

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
        self.begin(name, 0)?;
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
        let is_file = kind == FileType::RegularFile;
        let size = if is_file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        self.begin(path, size)?;
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent.as_fd(), child.as_bytes(), flags, Mode::empty())
                    .map_err(Failure::of)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use cofferdam_store::Options;

    use super::*;

    #[test]
    fn a_layer_is_the_tar_that_a_lifecycle_writes() {
        let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let blocks = PackedBlocks::new(Store::open(home.path(), Options::default()).unwrap());
        let big: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
        for (name, content) in [("a", &b"small"[..]), ("big", &big[..]), ("c", &b""[..])] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        }
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            Root::new(rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap())
        };
        let packing = Packing {
            name: "/layers/x",
            parents: &[("/layers".to_owned(), (0, 0), 0o755)],
            owner: Some((1, 2)),
            selection: &Selection::All,
        };
        let (layer, blob) = pack(&blocks, &open(), &packing).unwrap();
        let mut found = Vec::new();
        let file = blob.open().unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut found).unwrap();
        let mode = rustix::fs::fstat(open().as_fd()).unwrap().st_mode & 0o7777;
        let mut tar = LayerTar::new(Vec::new());
        tar.directory("/layers", 0, 0, 0o755).unwrap();
        tar.directory("/layers/x", 1, 2, mode).unwrap();
        tar.file("/layers/x/a", 1, 2, 0o640, 5, &mut &b"small"[..]).unwrap();
        tar.file("/layers/x/big", 1, 2, 0o640, big.len() as u64, &mut &big[..]).unwrap();
        tar.file("/layers/x/c", 1, 2, 0o640, 0, &mut &b""[..]).unwrap();
        assert!(found == tar.finish().unwrap());
        assert_eq!((layer.diff_id, layer.digest), (Digest::of(&found), blob.digest()));
        // Why it failed, and not that the rest then failed too.
        let relative = Packing { name: "layers", ..packing };
        let failure = pack(&blocks, &open(), &relative).err().unwrap();
        assert!(failure.message().contains("is not absolute"), "{}", failure.message());
    }
}
