//! What waits for the next batch, kept for the case that the process is killed before it.
//!
//! A process that is killed loses what it has in memory; what it wrote to files is with the
//! kernel. So all that waits goes into a file, without any sync, when somebody asks for that with
//! [`Store::secure`], and the next open makes the batch of it that was missed. Must never be used
//! after the machine itself went down: the rows would name data that the disk does not have.
//!
//! Not covered is a file system that loses what the kernel has of it while the machine goes on, as
//! a disk that is detached by force: blobs are read before they are taken over, layers are not.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use cofferdam_digest::Digest;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::database::Database;
use crate::directory::DirectoryRow;
use crate::error::RecordError;
use crate::flush::{self, Batch};
use crate::ids::LayerId;
use crate::layer::LayerInfo;
use crate::loss;
use crate::record::Record;
use crate::root::{self, Root};
use crate::state::{Pending, State, lock};
use crate::store::Store;
use crate::sweep::boot_id;

#[cfg(test)]
mod tests;

const FILE: &str = "journal";
/// The next one, until it is complete.
const NEXT: &str = "journal-next";
/// Of how the file is written.
const VERSION: u32 = 1;
/// Beyond this a batch is the better way.
const MAX_BYTES: usize = 32 << 20;
/// No store comes to give out this number: a higher one is damage, and would leave none to give
/// out.
const MAX_ID: u64 = 1 << 63;

/// The file of an open store.
pub(crate) struct Journal {
    /// Which run of the machine this is; empty when that cannot be known.
    boot: String,
    /// Whether there may be a file.
    exists: bool,
    /// Whether it is of this process, and to be kept up to date.
    ours: bool,
    /// The disk lost writes, and what it has is being looked at: nothing is to be noted.
    suspended: bool,
    /// Too much waited at the last try: not worth another one before a batch has ended.
    too_much: bool,
}

/// What is in the file, as one line; the bytes of the documents follow it.
#[derive(Serialize, Deserialize)]
struct Noted {
    version: u32,
    boot: String,
    next_id: u64,
    layers: Vec<(LayerId, LayerInfo)>,
    removed_layers: Vec<LayerId>,
    directories: Vec<(u64, DirectoryRow)>,
    removed_directories: Vec<u64>,
    records: Vec<Record>,
    removed_records: Vec<Digest>,
    aliases: Vec<(Digest, Digest)>,
    fresh: Vec<Digest>,
    documents: Vec<NotedDocument>,
}

#[derive(Serialize, Deserialize)]
struct NotedDocument {
    kind: String,
    key: String,
    blobs: Vec<Digest>,
    size: usize,
}

impl Journal {
    pub(crate) fn new() -> Self {
        // What an earlier process left may have stayed when it could not be removed.
        Self { boot: boot_id(), exists: true, ours: false, suspended: false, too_much: false }
    }

    /// Writes what waits, or removes the file when nothing does. After a failure there is none: an
    /// old one could bring back what was removed since.
    fn write(&mut self, store: &Store) -> io::Result<()> {
        let written = self.try_write(store);
        if !matches!(written, Ok(true)) {
            self.remove(&store.root);
        }
        let is_large = |error: &io::Error| error.kind() == io::ErrorKind::FileTooLarge;
        self.too_much = written.as_ref().is_err_and(is_large);
        written.map(drop)
    }

    /// Whether there was anything to write.
    fn try_write(&mut self, store: &Store) -> io::Result<bool> {
        if self.boot.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if self.suspended {
            return Err(io::Error::other("the disk lost writes, and what it has is looked at"));
        }
        let noted = Noted::gather(&lock(&store.state), &self.boot)?;
        let Some((noted, documents)) = noted else { return Ok(false) };
        let bytes = noted.to_bytes(&documents)?;
        if bytes.len() > MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if let Err(error) = put(&store.root, &bytes) {
            // A part of it would only take room, of which there may be none.
            unlink(&store.root, NEXT);
            return Err(error);
        }
        (self.exists, self.ours) = (true, true);
        Ok(true)
    }

    /// Removes the file; one that cannot be removed is tried again.
    fn remove(&mut self, root: &Root) {
        self.ours = false;
        if self.exists {
            self.exists = !forget(root);
        }
    }

    /// Brings the file up to date, if there is one.
    fn renew(&mut self, store: &Store) {
        if !self.exists {
            return;
        }
        if !self.ours || self.suspended || self.too_much {
            self.remove(&store.root);
            return;
        }
        if let Err(error) = self.write(store) {
            tracing::warn!(%error, "what waits cannot be noted: it is written at once");
            store.flusher.schedule(Duration::ZERO);
        }
    }
}

/// Writes the file, or leaves the old one and a part of the new.
fn put(root: &Root, bytes: &[u8]) -> io::Result<()> {
    let top = root.top.as_fd();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    File::from(root::open(top, NEXT, flags)?).write_all(bytes)?;
    Ok(rustix::fs::renameat(top, NEXT, top, FILE)?)
}

impl Noted {
    /// Everything that waits at this moment with the bytes of the documents; `None` when nothing
    /// does that somebody was told is done. Fails when it is too much to be copied.
    fn gather(state: &State, boot: &str) -> io::Result<Option<(Self, Vec<u8>)>> {
        let promised = state.promised.values().map(|document| document.bytes.len());
        if promised.sum::<usize>() > MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut changes = state.pending.clone();
        changes.restore(state.writing.clone());
        if !changes.is_work() && state.promised.is_empty() {
            return Ok(None);
        }
        let layers = changes.layers.iter();
        let layers = layers.filter_map(|id| Some((*id, state.layers.get(id)?.info.clone())));
        let directories = changes.directories.iter();
        let directories =
            directories.filter_map(|id| Some((*id, state.directories.get(id)?.row.clone())));
        // One that is being written may have lost a layer meanwhile.
        let whole = |record: &Record| record.layers().all(|id| state.layers.contains_key(&id));
        let (mut documents, mut bytes) = (Vec::new(), Vec::new());
        for ((kind, key), document) in &state.promised {
            documents.push(NotedDocument {
                kind: kind.clone(),
                key: key.clone(),
                blobs: document.blobs.clone(),
                size: document.bytes.len(),
            });
            bytes.extend_from_slice(&document.bytes);
        }
        let noted = Self {
            version: VERSION,
            boot: boot.to_owned(),
            next_id: state.next_id,
            layers: layers.collect(),
            removed_layers: changes.removed_layers.iter().copied().collect(),
            directories: directories.collect(),
            removed_directories: changes.removed_directories.iter().copied().collect(),
            records: changes.records.values().filter(|record| whole(record)).cloned().collect(),
            removed_records: changes.removed_records.iter().copied().collect(),
            aliases: changes.aliases.iter().map(|(alias, identity)| (*alias, *identity)).collect(),
            fresh: changes.fresh.iter().copied().collect(),
            documents,
        };
        Ok(Some((noted, bytes)))
    }

    /// What goes into the file.
    fn to_bytes(&self, documents: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(documents);
        Ok(bytes)
    }

    /// Whether everything has a number that was given out, and there are more to give out.
    fn numbers_fit(&self) -> bool {
        let layers = self.layers.iter().map(|(id, _)| id.0);
        let mut numbers = layers.chain(self.directories.iter().map(|(id, _)| *id));
        self.next_id <= MAX_ID && numbers.all(|number| number < self.next_id)
    }

    /// Makes the batch and stores the documents. Without the batch only those go that need
    /// nothing of it.
    fn apply(
        mut self,
        mut bytes: &[u8],
        root: &Root,
        database: &Database,
    ) -> Result<(), RecordError> {
        let documents = std::mem::take(&mut self.documents);
        let batch = self.apply_batch(root, database);
        for NotedDocument { kind, key, blobs, size } in documents {
            let Some((body, rest)) = bytes.split_at_checked(size) else {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(RecordError::Journal { source });
            };
            bytes = rest;
            if batch.is_ok() || blobs.is_empty() {
                database.write_document(&kind, &key, Some((body, &blobs[..])), true)?;
            }
        }
        batch
    }

    /// Makes the batch: data first, then the rows that name it.
    fn apply_batch(self, root: &Root, database: &Database) -> Result<(), RecordError> {
        let failed = |source| RecordError::Journal { source };
        let mut fresh: HashSet<Digest> = self.fresh.iter().copied().collect();
        rustix::fs::syncfs(&root.top).map_err(|errno| failed(errno.into()))?;
        let lost = leave_out_spoilt(root, &mut fresh);
        flush::move_blobs(root, &fresh).map_err(failed)?;
        flush::sync_blob_directories(root).map_err(|errno| failed(errno.into()))?;
        let records = self.whole_records(database, &lost)?;
        let batch = Batch {
            next_id: self.next_id,
            layers: rows(&self.layers).map_err(failed)?,
            directories: rows(&self.directories).map_err(failed)?,
            changes: Pending {
                layers: self.layers.iter().map(|(id, _)| *id).collect(),
                removed_layers: self.removed_layers.into_iter().collect(),
                directories: self.directories.iter().map(|(id, _)| *id).collect(),
                removed_directories: self.removed_directories.into_iter().collect(),
                records,
                removed_records: self.removed_records.into_iter().collect(),
                aliases: self.aliases.into_iter().collect(),
                fresh,
                ..Pending::default()
            },
        };
        database.apply(&batch)?;
        Ok(())
    }

    /// The records of which all is there: each layer has a row or gets one, and no blob is `lost`.
    fn whole_records(
        &self,
        database: &Database,
        lost: &HashSet<Digest>,
    ) -> Result<HashMap<Digest, Record>, RecordError> {
        let mut layers = database.layer_ids()?;
        layers.extend(self.layers.iter().map(|(id, _)| *id));
        let whole = |record: &Record| {
            record.layers().all(|id| layers.contains(&id))
                && !record.blobs.iter().any(|blob| lost.contains(blob))
        };
        let records = self.records.iter().filter(|record| whole(record));
        Ok(records.map(|record| (record.identity, record.clone())).collect())
    }
}

/// Takes those out of `fresh` whose bytes are not on disk; gives those of them of which there is
/// no older copy either.
fn leave_out_spoilt(root: &Root, fresh: &mut HashSet<Digest>) -> HashSet<Digest> {
    let mut lost = HashSet::new();
    fresh.retain(|digest| {
        let name = digest.hex();
        let looked = match root::open(root.fresh.as_fd(), &name, OFlags::RDONLY) {
            // A batch moved it, or it was evicted.
            Err(Errno::NOENT) => return true,
            opened => opened
                .map_err(io::Error::from)
                .and_then(|file| loss::has_digest(file, digest, true)),
        };
        if matches!(looked, Ok(true)) {
            return true;
        }
        tracing::warn!(%digest, "a blob that a killed process left is not on disk as it was");
        if root::file_size(root.content.as_fd(), &name).is_none() {
            lost.insert(*digest);
        }
        false
    });
    lost
}

/// Entries as the database keeps them.
fn rows<K: Copy, V: Serialize>(entries: &[(K, V)]) -> io::Result<Vec<(K, Vec<u8>)>> {
    entries.iter().map(|(id, value)| Ok((*id, serde_json::to_vec(value)?))).collect()
}

/// Brings the file, if there is one, up to date after something in it became durable or void.
pub(crate) fn renew(store: &Store) {
    lock(&store.journal).renew(store);
}

/// The same after a batch: less waits now.
pub(crate) fn batch_ended(store: &Store) {
    let mut journal = lock(&store.journal);
    journal.too_much = false;
    journal.renew(store);
}

/// Removes the file, for what it tells of is not to be trusted, and has none written until
/// [`resume`]. Whether there was one.
pub(crate) fn suspend(store: &Store) -> bool {
    let mut journal = lock(&store.journal);
    let noted = journal.ours;
    journal.suspended = true;
    journal.remove(&store.root);
    noted
}

/// Ends what [`suspend`] began; notes what is still there, if there was a file before.
pub(crate) fn resume(store: &Store, noted: bool) {
    let mut journal = lock(&store.journal);
    journal.suspended = false;
    if noted && let Err(error) = journal.write(store) {
        tracing::warn!(%error, "what waits to be written is lost should the builder be killed");
    }
}

/// Removes what an earlier process left, or at least what it says. Whether it is gone.
pub(crate) fn forget(root: &Root) -> bool {
    let gone = unlink(root, FILE);
    unlink(root, NEXT);
    if !gone && let Ok(file) = root::open(root.top.as_fd(), FILE, OFlags::WRONLY | OFlags::TRUNC) {
        drop(file);
    }
    gone
}

fn unlink(root: &Root, name: &str) -> bool {
    let unlinked = root::unlink(root.top.as_fd(), name);
    if let Err(error) = unlinked {
        tracing::warn!(name, %error, "cannot remove what was noted for a killed process");
    }
    unlinked.is_ok()
}

/// Makes the batch that a killed process did not come to, before the rows are read. Trouble with
/// it is no reason not to open the store.
pub(crate) fn replay(root: &Root, database: &Database) {
    match read(root) {
        Ok(None) => {}
        Ok(Some((noted, documents))) => {
            let (records, layers) = (noted.records.len(), noted.layers.len());
            match noted.apply(&documents, root, database) {
                Ok(()) => {
                    tracing::info!(records, layers, "took over what a killed process left");
                }
                Err(error) => {
                    let error = flush::chain(&error);
                    tracing::warn!(error, "cannot take over what a killed process left");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "cannot read what a killed process left"),
    }
    forget(root);
}

/// What the file says, when it is of this run of the machine.
fn read(root: &Root) -> io::Result<Option<(Noted, Vec<u8>)>> {
    let file = match root::open(root.top.as_fd(), FILE, OFlags::RDONLY) {
        Err(Errno::NOENT) => return Ok(None),
        opened => File::from(opened?),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64).read_to_end(&mut bytes)?;
    let (noted, documents) = parse(bytes)?;
    let boot = boot_id();
    let ours = noted.version == VERSION && noted.boot == boot && !boot.is_empty();
    Ok(ours.then_some((noted, documents)))
}

/// What such a file says, of whichever run of the machine, and the bytes of its documents.
fn parse(mut bytes: Vec<u8>) -> io::Result<(Noted, Vec<u8>)> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let documents = bytes.split_off(end.ok_or(io::ErrorKind::UnexpectedEof)? + 1);
    let noted: Noted = serde_json::from_slice(&bytes)?;
    if !noted.numbers_fit() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((noted, documents))
}

/// For fuzzing: whatever is accepted is written and read again as the same.
pub(crate) fn exercise(data: &[u8]) {
    let Ok((noted, documents)) = parse(data.to_vec()) else { return };
    let written = noted.to_bytes(&documents).unwrap_or_default();
    let again = parse(written.clone()).and_then(|(noted, rest)| noted.to_bytes(&rest));
    assert_eq!(again.ok(), Some(written));
}

impl Store {
    /// Has everything that was committed and promised so far outlive this process, should it be
    /// killed at this moment: one small write and no sync, and nothing at all when nothing waits.
    /// Against the end of the machine itself there are [`Store::settled`] and [`Store::flush`].
    /// *Blocking.*
    ///
    /// # Errors
    /// The disk is full or failing, too much waits, or the kernel does not tell one run of the
    /// machine from another: only a batch helps then.
    pub fn secure(&self) -> Result<(), RecordError> {
        let mut journal = lock(&self.journal);
        journal.write(self).map_err(|source| RecordError::Journal { source })
    }
}
