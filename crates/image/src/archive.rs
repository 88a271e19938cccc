//! What `ADD` unpacks by itself: tar archives, plain or compressed with gzip, bzip2, xz or zstd.
//!
//! Formats are recognised by their first bytes, never by name. Unpacking obeys the same walls as
//! applying a layer, but names like whiteouts are ordinary files here, and links that are already
//! in the destination are followed inside it, never out of it.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use crate::layer::{
    Applied, ApplyError, ApplyOptions, Limits, Source, TarStream, Wrapping, unpack_tar,
};

const WRAPPINGS: [Wrapping; 5] =
    [Wrapping::None, Wrapping::Gzip, Wrapping::Zstd, Wrapping::Bzip2, Wrapping::Xz];

/// Uncompressed bytes looked at to see whether something is an archive: some extended headers and
/// the first real one.
const PROBE: u64 = 4 << 20;

/// Whether `reader` starts with a tar archive, compressed or not. Reads only its beginning.
///
/// # Errors
/// Reading failed; content that merely is no archive is `Ok(false)`.
pub fn is_archive(reader: impl Read) -> io::Result<bool> {
    let limits = Limits { output_bytes: PROBE, ..Limits::default() };
    let mut reader = Watched { inner: reader, error: None };
    let found = Source::open(&mut reader, &WRAPPINGS, &limits)
        .is_ok_and(|source| matches!(TarStream::new(source.take(PROBE)).next(), Ok(Some(_))));
    match reader.error {
        Some(error) => Err(error),
        None => Ok(found),
    }
}

/// When the newest entry of an archive changed, in seconds since 1970; `None` for what is no archive.
///
/// # Errors
/// Reading failed. An archive that is broken further on has the time of what could be read.
pub fn newest(reader: impl Read) -> io::Result<Option<i64>> {
    let mut reader = Watched { inner: reader, error: None };
    let mut newest = None;
    if let Ok(source) = Source::open(&mut reader, &WRAPPINGS, &Limits::default()) {
        let mut entries = TarStream::new(source);
        while let Ok(Some(entry)) = entries.next() {
            newest = newest.max(Some(entry.mtime.0));
        }
    }
    match reader.error {
        Some(error) => Err(error),
        None => Ok(newest),
    }
}

/// Unpacks an archive into `root`, over what is there.
///
/// # Errors
/// See [`ApplyError`].
pub fn unpack(
    reader: impl Read + Send,
    root: BorrowedFd<'_>,
    options: &ApplyOptions<'_>,
) -> Result<Applied, ApplyError> {
    unpack_tar(reader, &WRAPPINGS, root, options, false)
}

/// Remembers the first error of the file itself, which decoders do not tell from broken content.
struct Watched<R> {
    inner: R,
    error: Option<io::Error>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                self.error.get_or_insert(error);
                Err(kind.into())
            }
            other => other,
        }
    }
}
