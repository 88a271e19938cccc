//! Blobs by digest: finding, opening, listing.
//!
//! A finished blob first lies in `fresh/` and moves to `content/` when a batch has made its
//! bytes durable; `fresh/` does not survive a restart. A name in either always has the right
//! bytes, and no file here is ever written to again.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use cofferdam_digest::Digest;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::{self, Root, file_size, unlink};
use crate::state::{State, lock};
use crate::store::Store;
use crate::walk;

/// A stored blob. Holding it keeps the blob from being deleted.
#[derive(Clone)]
pub struct Blob(Arc<PinnedBlob>);

pub(crate) struct PinnedBlob {
    digest: Digest,
    size: u64,
    root: Arc<Root>,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({} bytes)", self.0.digest, self.0.size)
    }
}

impl Blob {
    /// The blob's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// No descriptor is free, or somebody else deleted the file.
    pub fn open(&self) -> io::Result<File> {
        let name = self.0.digest.hex();
        // It may move from one place to the other between two looks, but only once.
        for dir in [&self.0.root.fresh, &self.0.root.content] {
            match root::open(dir.as_fd(), &name, OFlags::RDONLY) {
                Ok(fd) => return Ok(fd.into()),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Store {
    /// A stored blob.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> Option<Blob> {
        self.pin_blob(&mut lock(&self.state), digest)
    }

    /// All blobs with their sizes in bytes, in no order. *Blocking.*
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn blobs(&self) -> io::Result<Vec<(Digest, u64)>> {
        let digests = stored(&self.root)?;
        Ok(digests
            .into_iter()
            .filter_map(|digest| Some((digest, size_of(&self.root, &digest)?)))
            .collect())
    }

    /// A handle that keeps the blob; the state is locked by the caller.
    pub(crate) fn pin_blob(&self, state: &mut State, digest: &Digest) -> Option<Blob> {
        if let Some(pinned) = state.blobs.get(digest).and_then(std::sync::Weak::upgrade) {
            return Some(Blob(pinned));
        }
        let pinned = Arc::new(PinnedBlob {
            digest: *digest,
            size: size_of(&self.root, digest)?,
            root: self.root.clone(),
        });
        state.blobs.insert(*digest, Arc::downgrade(&pinned));
        Some(Blob(pinned))
    }
}

/// The size of a stored blob.
pub(crate) fn size_of(root: &Root, digest: &Digest) -> Option<u64> {
    let name = digest.hex();
    file_size(root.fresh.as_fd(), &name).or_else(|| file_size(root.content.as_fd(), &name))
}

/// The digests of all stored blobs.
pub(crate) fn stored(root: &Root) -> io::Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for dir in [&root.fresh, &root.content] {
        for name in walk::names(dir.as_fd())? {
            digests.extend(Digest::parse(&format!("sha256:{name}")).ok());
        }
    }
    digests.sort_unstable();
    digests.dedup();
    Ok(digests)
}

/// Deletes a stored blob.
pub(crate) fn delete(root: &Root, digest: &Digest) -> io::Result<()> {
    let name = digest.hex();
    unlink(root.fresh.as_fd(), &name)?;
    Ok(unlink(root.content.as_fd(), &name)?)
}
