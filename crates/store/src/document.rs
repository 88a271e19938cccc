//! Documents: small named values that are never evicted, such as the history of builds, except
//! for kinds of which that was asked for.
//!
//! A document keeps the blobs it names until it is removed. Writes are durable when they
//! return, except for notes: what can be made again is not worth a sync.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;

use crate::clock::Jump;
use crate::database::{Ages, DocumentName};
use crate::error::RecordError;
use crate::state::lock;
use crate::store::Store;
use crate::{flush, journal};

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
        check_size(&document.key, &document.bytes)?;
        // Its blobs must be durable before it names them.
        if !document.blobs.is_empty() {
            flush::write_pending(self)?;
        }
        let name = (kind.to_owned(), document.key.clone());
        self.note_use(kind, &document.key);
        let old = lock(&self.state).document_blobs.insert(name.clone(), document.blobs.clone());
        let row = Some((&document.bytes[..], &document.blobs[..]));
        if let Err(error) = self.database.write_document(kind, &document.key, row, true) {
            let mut state = lock(&self.state);
            match old {
                Some(blobs) => state.document_blobs.insert(name, blobs),
                None => state.document_blobs.remove(&name),
            };
            return Err(error.into());
        }
        // A newer one may have been promised meanwhile.
        self.end_promise(kind, &document.key, |promised| promised == document);
        Ok(())
    }

    /// Lets [`Store::secure`] keep a document that is about to be stored by
    /// [`Store::put_document`], with the blobs it names. Nobody finds it before that. One that is
    /// larger than 16 MiB is not kept.
    pub fn promise_document(&self, kind: &str, document: Document) {
        if document.bytes.len() <= MAX_DOCUMENT_BYTES {
            let name = (kind.to_owned(), document.key.clone());
            lock(&self.state).promised.insert(name, document);
        }
    }

    /// Takes a promise back: the document will not be stored.
    pub fn break_promise(&self, kind: &str, key: &str) {
        self.end_promise(kind, key, |_| true);
    }

    fn end_promise(&self, kind: &str, key: &str, ends: impl FnOnce(&Document) -> bool) {
        let name = (kind.to_owned(), key.to_owned());
        {
            let mut state = lock(&self.state);
            if !state.promised.get(&name).is_some_and(ends) {
                return;
            }
            state.promised.remove(&name);
        }
        journal::renew(self);
    }

    /// One document.
    ///
    /// # Errors
    /// The disk is failing.
    pub fn document(&self, kind: &str, key: &str) -> Result<Option<Document>, RecordError> {
        let found = self.database.document(kind, key)?;
        if found.is_some() {
            self.note_use(kind, key);
        }
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
        self.remove_row(kind, key, true)
    }

    /// Stores a document that keeps no blobs and can be made again, replacing an older one: it is
    /// durable with the next batch, and a crash before that takes it. *Blocking.*
    ///
    /// # Errors
    /// It is larger than 16 MiB, or the disk is full or failing.
    pub fn note_document(&self, kind: &str, key: &str, bytes: &[u8]) -> Result<(), RecordError> {
        check_size(key, bytes)?;
        self.note_use(kind, key);
        let no_blobs: &[Digest] = &[];
        self.database.write_document(kind, key, Some((bytes, no_blobs)), false)?;
        lock(&self.state).document_blobs.remove(&(kind.to_owned(), key.to_owned()));
        Ok(())
    }

    /// Removes a document; a crash before the next batch brings it back. *Blocking.*
    ///
    /// # Errors
    /// The disk is full or failing.
    pub fn forget_document(&self, kind: &str, key: &str) -> Result<(), RecordError> {
        self.remove_row(kind, key, false)
    }

    /// From now on documents of this kind go by age, as layers do, and at most `most` of them are
    /// kept: for what can be had again. [`Store::document`] and storing one are its uses.
    pub fn let_documents_age(&self, kind: &str, most: usize) {
        lock(&self.state).aging.insert(kind.to_owned(), most);
    }

    /// Before the row is written: a document must not go by its old age right after.
    fn note_use(&self, kind: &str, key: &str) {
        let mut state = lock(&self.state);
        if state.aging.contains_key(kind) {
            let name = (kind.to_owned(), key.to_owned());
            state.document_uses.insert(name, self.now());
        }
    }

    /// Removes what was not used after `cut`, and what is too many of its kind.
    pub(crate) fn age_documents(
        &self,
        now: DateTime<Utc>,
        cut: Option<DateTime<Utc>>,
    ) -> Result<(), RecordError> {
        let (noted, ages) = {
            let mut state = lock(&self.state);
            let noted = std::mem::take(&mut state.document_uses);
            let seconds = noted.iter().map(|(name, used)| (name.clone(), used.timestamp()));
            let ages = Ages {
                kinds: state.aging.clone(),
                noted: seconds.collect(),
                jumps: std::mem::take(&mut state.document_jumps),
                now: now.timestamp(),
                cut: cut.map(|cut| cut.timestamp()),
            };
            (noted, ages)
        };
        if ages.kinds.is_empty() {
            return Ok(());
        }
        let stamped = self.database.stamp_documents(&ages);
        let going = stamped.inspect_err(|_| self.put_uses_back(noted, ages.jumps))?;
        if going.is_empty() {
            return Ok(());
        }
        let used_since = |name: &DocumentName| lock(&self.state).document_uses.contains_key(name);
        let removed = self.database.remove_documents(going, used_since)?;
        let mut state = lock(&self.state);
        for name in removed {
            state.document_blobs.remove(&name);
        }
        Ok(())
    }

    /// Takes back notes of use and jumps of the clock that the database did not take.
    fn put_uses_back(&self, noted: HashMap<DocumentName, DateTime<Utc>>, jumps: Vec<Jump>) {
        let mut state = lock(&self.state);
        let since = std::mem::replace(&mut state.document_jumps, jumps);
        for (name, used) in noted {
            let used = since.iter().fold(used, |used, jump| jump.followed_by(used));
            state.document_uses.entry(name).or_insert(used);
        }
        state.document_jumps.extend(since);
    }

    fn remove_row(&self, kind: &str, key: &str, durable: bool) -> Result<(), RecordError> {
        // First: one that is killed between the two must not bring back what was to go.
        self.break_promise(kind, key);
        self.database.write_document(kind, key, None, durable)?;
        lock(&self.state).document_blobs.remove(&(kind.to_owned(), key.to_owned()));
        Ok(())
    }
}

fn check_size(key: &str, bytes: &[u8]) -> Result<(), RecordError> {
    if bytes.len() <= MAX_DOCUMENT_BYTES {
        return Ok(());
    }
    let (key, size) = (key.to_owned(), bytes.len());
    Err(RecordError::DocumentSize { key, size, limit: MAX_DOCUMENT_BYTES })
}
