//! Why a tree could not be packed.

use std::io;

/// A tree that could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The tree could not be read.
    #[error("failed to {action} {path:?}")]
    Read {
        /// What was attempted.
        action: &'static str,
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry that a layer cannot hold.
    #[error("{path:?} cannot be put into a layer: {reason}")]
    Unrepresentable {
        /// The entry.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// An id on disk outside the range.
    #[error("id {id} of {path:?} is outside the range of this builder")]
    UnmappedId {
        /// The id on disk.
        id: u32,
        /// The entry.
        path: String,
    },
    /// The destination failed.
    #[error("failed to write the layer")]
    Write(#[source] io::Error),
    /// The compressor failed.
    #[error("failed to compress the layer")]
    Compress(#[source] io::Error),
    /// A thread could not be started.
    #[error("failed to start a thread of the packing pipeline")]
    Thread(#[source] io::Error),
    /// A worker thread ended without a result, or its results are no longer wanted.
    #[error("a worker of the packing pipeline ended unexpectedly")]
    Worker,
}

impl PackError {
    pub(super) fn read(
        action: &'static str,
        path: &[u8],
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = crate::layer::error::display(path);
        move |errno| Self::Read { action, path, source: errno.into() }
    }

    pub(super) fn unrepresentable(path: &[u8], reason: &'static str) -> Self {
        Self::Unrepresentable { path: crate::layer::error::display(path), reason }
    }
}
