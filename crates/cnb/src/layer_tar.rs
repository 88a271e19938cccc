//! Layers as tars, byte for byte as lifecycles made with Go's `archive/tar` write them, so that an
//! unchanged layer keeps its digest whichever lifecycle exports it.
//!
//! Every entry has the same time and no owner names. Entries are USTAR; what does not fit is in PAX
//! records. Files are streamed. Order is the caller's: parents first, names by bytes.

use std::io::{self, Read, Write};

use header::{Entry, Owner};

mod header;

/// The time of every entry: 1980-01-01T00:00:01Z, in seconds.
pub const LAYER_TIME: u64 = 315_532_801;

/// Longest path or link target: the kernel's `PATH_MAX`, which no file of a layer exceeds.
const MAX_PATH: usize = 4096;
/// Tars are made of blocks of this many bytes.
const BLOCK: usize = 512;

/// An entry that cannot be written, or a writer that failed.
#[derive(Debug, thiserror::Error)]
pub enum LayerTarError {
    /// A path that is not absolute and clean.
    #[error("path {0:?} is not absolute, has empty or dot components, or is too long")]
    Path(String),
    /// A target that no symbolic link has.
    #[error("symbolic link {0:?} has no target, one with NUL, or one that is too long")]
    Target(String),
    /// A number that has no place in a tar.
    #[error("{path:?}: {what} {number} does not fit into a tar")]
    Number {
        /// The entry.
        path: String,
        /// Which number.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// A file that changed while it was read.
    #[error("{path:?} has not the {size} bytes that were announced")]
    Size {
        /// The entry.
        path: String,
        /// Its announced size.
        size: u64,
    },
    /// A file that cannot be read.
    #[error("read {path:?}")]
    Read {
        /// The entry.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The output failed.
    #[error("write a layer")]
    Write(#[source] io::Error),
}

/// A special file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// Writes one layer. After an error the output is worthless.
#[derive(Debug)]
pub struct LayerTar<W: Write> {
    out: W,
}

impl<W: Write> LayerTar<W> {
    /// An empty layer; `out` should be buffered.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// The output, for whoever has to tell it where an entry begins. Without [`LayerTar::finish`] the tar
    /// has no end.
    pub const fn output(&mut self) -> &mut W {
        &mut self.out
    }

    /// Adds a directory. `path` is absolute, without a slash at the end (save `/` itself). `mode`,
    /// here and below, is permissions with the set-id and sticky bits; others are not written.
    ///
    /// # Errors
    /// See [`LayerTarError`].
    pub fn directory(
        &mut self,
        path: impl AsRef<[u8]>,
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> Result<(), LayerTarError> {
        self.header(&Entry::new(path.as_ref(), b'5', Owner { uid, gid, mode }))
    }

    /// Adds a file of exactly `size` bytes, which come from `reader`.
    ///
    /// # Errors
    /// See [`LayerTarError`]; also when the reader has fewer or more bytes.
    pub fn file(
        &mut self,
        path: impl AsRef<[u8]>,
        uid: u32,
        gid: u32,
        mode: u32,
        size: u64,
        reader: &mut dyn Read,
    ) -> Result<(), LayerTarError> {
        let (path, owner) = (path.as_ref(), Owner { uid, gid, mode });
        self.header(&Entry { size, ..Entry::new(path, b'0', owner) })?;
        self.contents(path, size, reader)?;
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        // Less than a block, so the conversion is exact.
        self.write(&[0; BLOCK][..padding as usize])
    }

    /// Adds a symbolic link; its target is written as it is.
    ///
    /// # Errors
    /// See [`LayerTarError`].
    pub fn symlink(
        &mut self,
        path: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> Result<(), LayerTarError> {
        let (path, target) = (path.as_ref(), target.as_ref());
        if target.is_empty() || target.contains(&0) || target.len() > MAX_PATH {
            return Err(LayerTarError::Target(shown(path)));
        }
        let owner = Owner { uid, gid, mode };
        self.header(&Entry { target, ..Entry::new(path, b'2', owner) })
    }

    /// Adds a fifo.
    ///
    /// # Errors
    /// See [`LayerTarError`].
    pub fn fifo(
        &mut self,
        path: impl AsRef<[u8]>,
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> Result<(), LayerTarError> {
        self.header(&Entry::new(path.as_ref(), b'6', Owner { uid, gid, mode }))
    }

    /// Adds a device.
    ///
    /// # Errors
    /// See [`LayerTarError`].
    pub fn device(
        &mut self,
        path: impl AsRef<[u8]>,
        kind: Device,
        (major, minor): (u32, u32),
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> Result<(), LayerTarError> {
        let owner = Owner { uid, gid, mode };
        let flag = match kind {
            Device::Char => b'3',
            Device::Block => b'4',
        };
        self.header(&Entry { major, minor, ..Entry::new(path.as_ref(), flag, owner) })
    }

    /// Ends the layer and returns the output, flushed.
    ///
    /// # Errors
    /// The output failed.
    pub fn finish(mut self) -> Result<W, LayerTarError> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(LayerTarError::Write)?;
        Ok(self.out)
    }

    fn header(&mut self, entry: &Entry<'_>) -> Result<(), LayerTarError> {
        let clean = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
        let fits = match entry.path.strip_prefix(b"/") {
            Some(b"") => entry.flag == b'5',
            Some(rest) => rest.split(|byte| *byte == b'/').all(clean),
            None => false,
        };
        if !fits || entry.path.len() > MAX_PATH || entry.path.contains(&0) {
            return Err(LayerTarError::Path(shown(entry.path)));
        }
        let blocks = entry.blocks().map_err(|(what, number)| LayerTarError::Number {
            path: shown(entry.path),
            what,
            number,
        })?;
        self.write(&blocks)
    }

    fn contents(
        &mut self,
        path: &[u8],
        size: u64,
        reader: &mut dyn Read,
    ) -> Result<(), LayerTarError> {
        let mut buffer = [0; 32 << 10];
        let mut left = size;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(LayerTarError::Read { path: shown(path), source }),
            };
            if count as u64 > left || (count == 0 && left > 0) {
                return Err(LayerTarError::Size { path: shown(path), size });
            }
            if count == 0 {
                return Ok(());
            }
            self.write(&buffer[..count])?;
            left -= count as u64;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerTarError> {
        self.out.write_all(bytes).map_err(LayerTarError::Write)
    }
}

/// A path in an error: short, as text.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

#[cfg(test)]
mod tests;
