//! An image, or several, as one tar: the OCI layout, and Docker's on top of it.
//!
//! Follows the [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md);
//! `manifest.json` is what `docker load` reads. Blobs are streamed in the order they are given,
//! each once, and the result depends on nothing else. Nothing is written after an error.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use cofferdam_digest::{Digest, Digesting};
use serde::Serialize;
use tar::{EntryType, Header};

use crate::Index;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes one layout.
pub struct LayoutWriter<W: Write> {
    out: W,
    mtime: u64,
    written: BTreeSet<Digest>,
}

/// One image of Docker's `manifest.json`.
#[derive(Debug, Clone)]
pub struct DockerImage {
    /// Digest of the image config.
    pub config: Digest,
    /// Names with tags: `docker.io/library/x:1`.
    pub repo_tags: Vec<String>,
    /// Digests of the layers as stored, bottom first.
    pub layers: Vec<Digest>,
}

/// A layout that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The destination failed.
    #[error("failed to write the image archive")]
    Write(#[source] io::Error),
    /// A blob could not be read.
    #[error("failed to read blob {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob is not what it is called.
    #[error("blob {digest} has other content or another size than its name says")]
    Mismatch {
        /// The blob.
        digest: Digest,
    },
    /// An index that cannot be written as JSON.
    #[error("failed to write the index")]
    Json(#[source] serde_json::Error),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl<W: Write> LayoutWriter<W> {
    /// Starts a layout. `epoch`: the time of every entry, in seconds since 1970.
    ///
    /// # Errors
    /// The destination failed.
    pub fn new(out: W, epoch: Option<i64>) -> Result<Self, LayoutError> {
        let mtime = u64::try_from(epoch.unwrap_or(0)).unwrap_or(0);
        let mut writer = Self { out, mtime, written: BTreeSet::new() };
        writer.header("blobs/", EntryType::Directory, 0o755, 0)?;
        writer.header("blobs/sha256/", EntryType::Directory, 0o755, 0)?;
        Ok(writer)
    }

    /// Whether the blob is in the layout already.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.written.contains(digest)
    }

    /// Adds a blob, unless it is there. Its size and digest are verified on the way.
    ///
    /// # Errors
    /// Reading or writing failed, or the content is not what it is called.
    pub fn blob(
        &mut self,
        digest: &Digest,
        size: u64,
        content: impl Read,
    ) -> Result<(), LayoutError> {
        if !self.written.insert(*digest) {
            return Ok(());
        }
        self.header(&blob_path(digest), EntryType::Regular, 0o444, size)?;
        let mut content = Digesting::new(content.take(size));
        copy(&mut content, &mut self.out, digest)?;
        let (mut rest, actual, length) = content.finish();
        rest.set_limit(1);
        let more =
            rest.read(&mut [0]).map_err(|source| LayoutError::Blob { digest: *digest, source })?;
        if actual != *digest || length != size || more != 0 {
            return Err(LayoutError::Mismatch { digest: *digest });
        }
        self.pad(size)
    }

    /// Writes `index.json`, `manifest.json` when there are `docker` images, and `oci-layout`.
    ///
    /// # Errors
    /// The destination failed.
    pub fn finish(mut self, index: &Index, docker: &[DockerImage]) -> Result<W, LayoutError> {
        let bytes = serde_json::to_vec(index).map_err(LayoutError::Json)?;
        self.file("index.json", &bytes)?;
        if !docker.is_empty() {
            let entries: Vec<DockerEntry> = docker.iter().map(DockerEntry::from).collect();
            let bytes = serde_json::to_vec(&entries).map_err(LayoutError::Json)?;
            self.file("manifest.json", &bytes)?;
        }
        self.file("oci-layout", LAYOUT)?;
        self.out.write_all(&[0; 1024]).map_err(LayoutError::Write)?;
        self.out.flush().map_err(LayoutError::Write)?;
        Ok(self.out)
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        self.header(path, EntryType::Regular, 0o444, bytes.len() as u64)?;
        self.out.write_all(bytes).map_err(LayoutError::Write)?;
        self.pad(bytes.len() as u64)
    }

    fn header(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        size: u64,
    ) -> Result<(), LayoutError> {
        let mut header = Header::new_ustar();
        header.set_path(path).map_err(LayoutError::Write)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(LayoutError::Write)
    }

    fn pad(&mut self, size: u64) -> Result<(), LayoutError> {
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.out.write_all(&[0; 512][..padding]).map_err(LayoutError::Write)
    }
}

/// Copies, telling trouble of the source from trouble of the destination.
fn copy(content: &mut impl Read, out: &mut impl Write, digest: &Digest) -> Result<(), LayoutError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(LayoutError::Blob { digest: *digest, source }),
        };
        out.write_all(&buffer[..count]).map_err(LayoutError::Write)?;
    }
}

impl From<&DockerImage> for DockerEntry {
    fn from(image: &DockerImage) -> Self {
        Self {
            config: blob_path(&image.config),
            repo_tags: if image.repo_tags.is_empty() {
                None
            } else {
                Some(image.repo_tags.clone())
            },
            layers: image.layers.iter().map(blob_path).collect(),
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
