//! Compresses single blocks so that they can be put one behind the other.
//!
//! Gzip: every block is a run of deflate blocks that ends on a byte boundary (sync flush) and
//! refers to nothing before it; header, the final empty block and the trailer make all of them one
//! member ([RFC 1951](https://www.rfc-editor.org/rfc/rfc1951), [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)).
//! Zstandard: every block is a frame ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)).

use std::io;

use crc32fast::Hasher as Crc;
use flate2::{Compress, FlushCompress};

use super::{BlockKey, Compression};

/// Part of every key: a change of what the compressors produce must change it. Blocks outlive a
/// version of this program, so these are the exact versions of the compressors.
const CODEC: &str = "cofferdam block 2, zlib-rs 0.6.8, zstd 1.5.7";
/// Magic, deflate, no flags, no time, no extra flags, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A final deflate block with nothing in it.
const DEFLATE_END: [u8; 2] = [3, 0];

/// Compresses blocks one after the other, reusing its state.
pub(super) struct Encoder(State);

enum State {
    Plain,
    Deflate(Box<Compress>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::Uncompressed => State::Plain,
            Compression::Gzip(level) | Compression::Estargz(level) => {
                let level = flate2::Compression::new(level.min(9));
                State::Deflate(Box::new(Compress::new(level, false)))
            }
            Compression::Zstd(level) => State::Zstd(zstd::bulk::Compressor::new(level)?),
        }))
    }

    pub(super) fn encode(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.0 {
            State::Plain => Ok(block.to_vec()),
            State::Deflate(deflate) => encode_deflate(deflate, block),
            State::Zstd(compressor) => compressor.compress(block),
        }
    }
}

fn encode_deflate(deflate: &mut Compress, block: &[u8]) -> io::Result<Vec<u8>> {
    deflate.reset();
    let mut out = Vec::with_capacity(block.len() / 2 + 4096);
    loop {
        let consumed = usize::try_from(deflate.total_in()).map_err(io::Error::other)?;
        deflate
            .compress_vec(&block[consumed..], &mut out, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        let done = usize::try_from(deflate.total_in()).map_err(io::Error::other)? == block.len();
        // Room left over means that the flush is complete.
        if done && out.len() < out.capacity() {
            return Ok(out);
        }
        out.reserve(block.len() / 4 + 4096);
    }
}

/// Names a block: what it is and how it is compressed. The bytes are hashed for the layer's digest already, by SHA-256; BLAKE3 is as
/// hard to deceive and takes a third of the time.
pub(super) fn key(compression: Compression, block: &[u8]) -> BlockKey {
    let mut hasher = blake3::Hasher::new_derive_key(CODEC);
    let compression = format!("{compression:?}");
    hasher.update(&(compression.len() as u64).to_le_bytes());
    hasher.update(compression.as_bytes());
    hasher.update(block);
    BlockKey(hasher.finalize().into())
}

/// The checksum of one block, to be combined in order.
pub(super) fn checksum(compression: Compression, block: &[u8]) -> Crc {
    let mut crc = Crc::new();
    if matches!(compression, Compression::Gzip(_) | Compression::Estargz(_)) {
        crc.update(block);
    }
    crc
}

/// The checksum of what was compressed, by which an index knows it again.
pub(super) fn sum(compressed: &[u8]) -> u32 {
    crc32fast::hash(compressed)
}

/// What comes before the first block.
pub(super) const fn prologue(compression: Compression) -> &'static [u8] {
    match compression {
        Compression::Gzip(_) | Compression::Estargz(_) => &GZIP_HEADER,
        Compression::Uncompressed | Compression::Zstd(_) => &[],
    }
}

/// What comes after the last block, of blocks with this checksum and so many bytes before they were compressed.
pub(super) fn epilogue(compression: Compression, crc: Crc, size: u64) -> Vec<u8> {
    match compression {
        Compression::Gzip(_) | Compression::Estargz(_) => {
            // Of the size the lower half is there.
            let size = &size.to_le_bytes()[..4];
            [&DEFLATE_END[..], &crc.finalize().to_le_bytes(), size].concat()
        }
        Compression::Uncompressed | Compression::Zstd(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A block of an earlier version of a compressor, taken over, would make a layer's bytes
    /// depend on what was packed before.
    #[test]
    fn keys_name_the_compressors_in_use() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        let version = |name: &str| {
            let start = format!("name = \"{name}\"\nversion = \"");
            let (_, rest) = lock.split_once(&start).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let zlib = version("zlib-rs");
        let zstd = version("zstd-sys");
        let (_, zstd) = zstd.split_once("+zstd.").unwrap();
        assert_eq!(CODEC, format!("cofferdam block 2, zlib-rs {zlib}, zstd {zstd}"));
    }
}
