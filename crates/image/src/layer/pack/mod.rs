//! Packs an overlay directory into a layer, or a merged tree into a plain tar.
//!
//! Each file is read once. Building the tar, hashing it, compressing and hashing the result run in
//! threads of their own. The bytes depend on the tree and the options only: entries are sorted,
//! names of users are left out, and the tar is compressed in blocks whose bounds follow from the
//! content, so that neither the number of threads nor timing shows. Blocks that an earlier pack
//! compressed already can be taken over instead of being compressed again.

mod codec;
mod cutter;
mod error;
mod estargz;
mod header;
mod listing;
mod pipeline;
mod prior;
mod tar_sink;
mod walk;
mod writer;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::BorrowedFd;

use cofferdam_digest::Digest;

pub use error::PackError;
pub use estargz::ESTARGZ_ANNOTATIONS;
pub use prior::{BlockKey, BlockSource, PriorBlob};
pub use tar_sink::{TarSink, pack_tar};
pub use writer::{TreeOptions, TreeWriter, write_tree};

use super::{IDENTITY, MapId};
use walk::{Flavor, Walk};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// One gzip member; level 0 to 9.
    Gzip(u32),
    /// Gzip members with a table of contents, by which single files can be fetched; level 0 to 9.
    Estargz(u32),
    /// Zstandard frames; level 1 to 22.
    Zstd(i32),
}

impl Compression {
    /// Gzip at the level that suits builds: on source trees its output is 8 % larger than that of
    /// level 6, in half the time.
    pub const GZIP: Self = Self::Gzip(DEFAULT_GZIP_LEVEL);
    /// eStargz at the same level.
    pub const ESTARGZ: Self = Self::Estargz(DEFAULT_GZIP_LEVEL);
    /// Zstandard at its usual level.
    pub const ZSTD: Self = Self::Zstd(3);

    /// The media type of a layer compressed like this, in OCI's or Docker's words.
    #[must_use]
    pub const fn media_type(self, oci: bool) -> &'static str {
        use crate::media;
        match (self, oci) {
            (Self::Uncompressed, true) => media::OCI_LAYER,
            (Self::Uncompressed, false) => media::DOCKER_LAYER,
            (Self::Gzip(_) | Self::Estargz(_), true) => media::OCI_LAYER_GZIP,
            (Self::Gzip(_) | Self::Estargz(_), false) => media::DOCKER_LAYER_GZIP,
            (Self::Zstd(_), true) => media::OCI_LAYER_ZSTD,
            (Self::Zstd(_), false) => media::DOCKER_LAYER_ZSTD,
        }
    }
}

const DEFAULT_GZIP_LEVEL: u32 = 3;

/// How to pack an overlay directory.
pub struct PackOptions<'a> {
    /// Compression of the result.
    pub compression: Compression,
    /// No time in the tar is later than this (`SOURCE_DATE_EPOCH`), in seconds since 1970.
    pub epoch: Option<i64>,
    /// Id on disk to container id.
    pub ids: MapId<'a>,
    /// Threads that compress; the result does not depend on it.
    pub threads: usize,
    /// Whether to list the blocks in [`Packed::blocks`], for a later pack to start from.
    pub index: bool,
    /// Where blocks that were compressed before are found.
    pub prior: Option<&'a dyn BlockSource>,
}

impl Default for PackOptions<'_> {
    fn default() -> Self {
        Self {
            compression: Compression::GZIP,
            epoch: None,
            ids: IDENTITY,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            index: false,
            prior: None,
        }
    }
}

/// A packed layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Their count.
    pub size: u64,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Its size in bytes.
    pub uncompressed_size: u64,
    /// Entries in it.
    pub entries: u64,
    /// What a descriptor of the layer must say about it.
    pub annotations: BTreeMap<String, String>,
    /// The separately compressed blocks, in order; empty unless [`PackOptions::index`].
    pub blocks: Vec<Block>,
    /// How many of them were taken over from [`PackOptions::prior`].
    pub reused_blocks: u64,
}

/// One separately compressed block of a packed layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub key: BlockKey,
    /// Where it starts in the blob.
    pub offset: u64,
    /// Compressed size in bytes.
    pub size: u32,
    /// CRC-32 of the compressed bytes.
    pub crc: u32,
}

/// Packs an overlay upper directory into a layer: character devices 0:0 become `.wh.` entries,
/// opaque directories get `.wh..wh..opq`.
///
/// # Errors
/// See [`PackError`]; `out` then holds a part and should be thrown away.
pub fn pack(
    root: BorrowedFd<'_>,
    options: &PackOptions<'_>,
    out: impl Write + Send,
) -> Result<Packed, PackError> {
    if let Compression::Estargz(level) = options.compression {
        return estargz::pack(options, level, out, |options, out| pack(root, options, out));
    }
    pipeline::run(options, out, |sink| {
        let mut walk = Walk::new(Flavor::Upper, options.epoch, options.ids);
        walk.tree(root, b"", sink)?;
        Ok(walk.entries())
    })
}
