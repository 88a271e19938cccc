//! What can go wrong, one type for each thing attempted.
//!
//! A full disk shows as the `source` of the attempt it stopped; nothing that was committed
//! before is lost by it.

use std::io;
use std::path::PathBuf;

use cofferdam_digest::Digest;

use crate::database::DatabaseError;
use crate::ids::LayerId;

/// Opening a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another open store uses this directory.
    #[error("store {} is in use by process {holder}", root.display())]
    Locked {
        /// The directory.
        root: PathBuf,
        /// What the lock file says about its holder; "unknown" when it says nothing.
        holder: String,
    },
    /// The directory cannot be prepared.
    #[error("cannot prepare store {}: {attempt}", root.display())]
    Prepare {
        /// The directory.
        root: PathBuf,
        /// What was tried.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The records cannot be used.
    #[error("cannot open the records of store {}", root.display())]
    Records {
        /// The directory.
        root: PathBuf,
        /// Why it failed.
        #[source]
        source: DatabaseError,
    },
}

/// Writing or reading a blob failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// A file operation failed.
    #[error("cannot {attempt}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The bytes are not those that were expected. They were thrown away.
    #[error("blob has digest {found} instead of {expected}")]
    Digest {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what arrived.
        found: Digest,
    },
    /// There are more or fewer bytes than expected.
    #[error("blob {expected} has {found} bytes instead of {size}")]
    Size {
        /// The digest asked for.
        expected: Digest,
        /// The size asked for.
        size: u64,
        /// The size of what arrived.
        found: u64,
    },
    /// Another download of the same blob is under way.
    #[error("blob {digest} is already being written")]
    Busy {
        /// The blob.
        digest: Digest,
    },
}

/// Making or changing a layer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A file operation failed.
    #[error("cannot {attempt} layer {id}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// The layer.
        id: LayerId,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Taking a mutable directory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A file operation failed.
    #[error("cannot {attempt} directory {id}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// The directory's id.
        id: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Reading or writing records failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record names a layer that is not in the store.
    #[error("record {identity} names layer {layer}, which does not exist")]
    UnknownLayer {
        /// The record.
        identity: Digest,
        /// The missing layer.
        layer: LayerId,
    },
    /// A document is larger than the limit.
    #[error("document {key:?} has {size} bytes, more than {limit}")]
    DocumentSize {
        /// The document's key.
        key: String,
        /// Its size in bytes.
        size: usize,
        /// The most a document may have.
        limit: usize,
    },
    /// Making data durable failed.
    #[error("cannot flush the store's data to disk")]
    Sync {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A batch that somebody waited for failed.
    #[error("cannot make the store's changes durable: {reason}")]
    Unsettled {
        /// What the batch said.
        reason: String,
    },
    /// What waits could not be noted for the case that the process is killed.
    #[error("cannot note what waits to be written")]
    Journal {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store cannot be compared with its records.
    #[error("cannot look at the store's files")]
    Verify {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The database failed.
    #[error("cannot use the store's records")]
    Database {
        /// Why it failed.
        #[source]
        source: DatabaseError,
    },
}

impl From<DatabaseError> for RecordError {
    fn from(source: DatabaseError) -> Self {
        Self::Database { source }
    }
}
