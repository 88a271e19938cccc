//! A tar that somebody else writes, compressed as a layer.
//!
//! The bytes of the tar are the caller's; where they are cut follows from what the caller says about
//! its entries, so that equal tars with equal entries make equal layers.

use std::io::{self, Write};

use super::cutter::Sink;
use super::error::PackError;
use super::{PackOptions, Packed, pipeline};

/// Where the caller of [`pack_tar`] writes its tar.
pub struct TarSink<'a>(&'a mut dyn Sink);

impl TarSink<'_> {
    /// Says that the next bytes are an entry's: its headers, then `size` bytes of content.
    ///
    /// # Errors
    /// The layer cannot be written; [`pack_tar`] says why.
    pub fn entry(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.0.entry(path).map_err(io::Error::other)?;
        // Headers are counted as content: distances are fixed from the entry's start.
        self.0.data_follows(size).map_err(io::Error::other)
    }
}

impl Write for TarSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses the tar that `build` writes, without its end, into a layer. `build` returns the number
/// of entries; when it fails for a reason of its own it says [`PackError::Worker`]. The ids and the
/// epoch of `options` have no meaning here, and an eStargz is plain gzip.
///
/// # Errors
/// See [`PackError`]; `out` then holds a part and should be thrown away.
pub fn pack_tar(
    options: &PackOptions<'_>,
    out: impl Write + Send,
    build: impl FnOnce(TarSink<'_>) -> Result<u64, PackError>,
) -> Result<Packed, PackError> {
    pipeline::run(options, out, |sink| build(TarSink(sink)))
}
