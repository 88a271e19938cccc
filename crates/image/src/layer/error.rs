//! Why a layer could not be applied.

use std::io;

/// A layer or archive that was refused or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The media type is not a layer's.
    #[error("{media_type:?} is not a layer media type")]
    NotALayer {
        /// What was given.
        media_type: String,
    },
    /// The compressed stream could not be read, is broken, or unpacks to more than is allowed.
    #[error("failed to read the archive")]
    Read(#[source] io::Error),
    /// A header that is malformed or that readers would understand differently.
    #[error("malformed archive at byte {offset}: {reason}")]
    Malformed {
        /// Offset of the header in the uncompressed tar.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A name that must not be created.
    #[error("archive entry {path:?} refused: {reason}")]
    Refused {
        /// The entry.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// An id without a place in the builder's range.
    #[error("{kind} id {id} of {path:?} is outside the range this builder can map")]
    UnmappedId {
        /// `user` or `group`.
        kind: &'static str,
        /// The id in the archive.
        id: u64,
        /// The entry.
        path: String,
    },
    /// A bound of [`Limits`](super::Limits) was reached.
    #[error("archive exceeds the limit of {limit} {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The file system refused.
    #[error("failed to {action} {path:?}")]
    Write {
        /// What was attempted.
        action: &'static str,
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A worker ended without a result.
    #[error("the decompression thread ended unexpectedly")]
    Worker,
}

impl ApplyError {
    pub(crate) fn write(
        action: &'static str,
        path: &[u8],
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = display(path);
        move |errno| Self::Write { action, path, source: errno.into() }
    }

    pub(crate) fn refused(path: &[u8], reason: &'static str) -> Self {
        Self::Refused { path: display(path), reason }
    }
}

/// A path for messages, bounded.
pub(crate) fn display(path: &[u8]) -> String {
    const MAX_SHOWN: usize = 300;
    let mut text = String::from_utf8_lossy(&path[..path.len().min(MAX_SHOWN)]).into_owned();
    if path.len() > MAX_SHOWN {
        text.push('…');
    }
    text
}
