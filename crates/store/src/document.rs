//! Documents: small named values that are never evicted, such as the history of builds.
//!
//! A document keeps the blobs it names until it is removed. Writes are durable when they
//! return.

use cofferdam_digest::Digest;

use crate::error::RecordError;
use crate::flush;
use crate::state::lock;
use crate::store::Store;

/// A build's record with its steps stays far below this; larger things belong into blobs.
const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// A named value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name within its kind.
    pub key: String,
    /// The value.
    pub bytes: Vec<u8>,
    /// The blobs it keeps.
    pub blobs: Vec<Digest>,
}

impl Store {
    /// Stores a document durably, replacing an older one. The caller holds its blobs.
    /// *Blocking.*
    ///
    /// # Errors
    /// It is larger than 16 MiB, or the disk is full or failing.
    pub fn put_document(&self, kind: &str, document: &Document) -> Result<(), RecordError> {
        if document.bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(RecordError::DocumentSize {
                key: document.key.clone(),
                size: document.bytes.len(),
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        // Its blobs must be durable before it names them.
        if !document.blobs.is_empty() {
            flush::write_pending(self)?;
        }
        let name = (kind.to_owned(), document.key.clone());
        let old = lock(&self.state).document_blobs.insert(name.clone(), document.blobs.clone());
        let row = Some((&document.bytes[..], &document.blobs[..]));
        if let Err(error) = self.database.write_document(kind, &document.key, row) {
            let mut state = lock(&self.state);
            match old {
                Some(blobs) => state.document_blobs.insert(name, blobs),
                None => state.document_blobs.remove(&name),
            };
            return Err(error.into());
        }
        Ok(())
    }

    /// One document.
    ///
    /// # Errors
    /// The disk is failing.
    pub fn document(&self, kind: &str, key: &str) -> Result<Option<Document>, RecordError> {
        let found = self.database.document(kind, key)?;
        Ok(found.map(|(bytes, blobs)| Document { key: key.to_owned(), bytes, blobs }))
    }

    /// All documents of a kind, ordered by key. *Blocking* when there are many.
    ///
    /// # Errors
    /// The disk is failing.
    pub fn documents(&self, kind: &str) -> Result<Vec<Document>, RecordError> {
        let found = self.database.documents(kind)?;
        Ok(found.into_iter().map(|(key, (bytes, blobs))| Document { key, bytes, blobs }).collect())
    }

    /// Removes a document durably; its blobs may go with the next prune. *Blocking.*
    ///
    /// # Errors
    /// The disk is full or failing.
    pub fn remove_document(&self, kind: &str, key: &str) -> Result<(), RecordError> {
        self.database.write_document(kind, key, None)?;
        lock(&self.state).document_blobs.remove(&(kind.to_owned(), key.to_owned()));
        Ok(())
    }
}
