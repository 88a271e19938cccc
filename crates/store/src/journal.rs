//! What waits for the next batch, kept for the case that the process is killed before it.
//!
//! A process that is killed loses what it has in memory; what it wrote to files is with the
//! kernel. So all that waits goes into a file, without any sync, when somebody asks for that with
//! [`Store::secure`], and the next open makes the batch of it that was missed. Must never be used
//! after the machine itself went down: the rows would name data that the disk does not have.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

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

/// The file of an open store.
pub(crate) struct Journal {
    /// Which run of the machine this is; empty when that cannot be known.
    boot: String,
    /// Whether there is a file.
    exists: bool,
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
        Self { boot: boot_id(), exists: false }
    }

    /// Writes what waits, or removes the file when nothing does. After a failure there is none: an
    /// old one could bring back what was removed since.
    fn write(&mut self, store: &Store) -> io::Result<()> {
        let written = self.try_write(store);
        if !matches!(written, Ok(true)) {
            self.remove(&store.root);
        }
        written.map(drop)
    }

    /// Whether there was anything to write.
    fn try_write(&mut self, store: &Store) -> io::Result<bool> {
        if self.boot.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let noted = Noted::gather(&lock(&store.state), &self.boot);
        let Some((noted, documents)) = noted else { return Ok(false) };
        let mut bytes = serde_json::to_vec(&noted)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&documents);
        if bytes.len() > MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let top = store.root.top.as_fd();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        File::from(root::open(top, NEXT, flags)?).write_all(&bytes)?;
        rustix::fs::renameat(top, NEXT, top, FILE)?;
        self.exists = true;
        Ok(true)
    }

    fn remove(&mut self, root: &Root) {
        if self.exists {
            forget(root);
            self.exists = false;
        }
    }
}

impl Noted {
    /// Everything that waits at this moment with the bytes of the documents; `None` when nothing
    /// does that somebody was told is done.
    fn gather(state: &State, boot: &str) -> Option<(Self, Vec<u8>)> {
        let mut changes = state.pending.clone();
        changes.restore(state.writing.clone());
        if !changes.is_work() && state.promised.is_empty() {
            return None;
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
        Some((noted, bytes))
    }

    /// Makes the batch: data first, then the rows that name it.
    fn apply(self, mut bytes: &[u8], root: &Root, database: &Database) -> Result<(), RecordError> {
        let failed = |source| RecordError::Journal { source };
        let fresh: HashSet<Digest> = self.fresh.iter().copied().collect();
        rustix::fs::syncfs(&root.top).map_err(|errno| failed(errno.into()))?;
        flush::move_blobs(root, &fresh).map_err(failed)?;
        flush::sync_blob_directories(root).map_err(|errno| failed(errno.into()))?;
        let documents = self.documents;
        let batch = Batch {
            next_id: self.next_id,
            layers: rows(&self.layers).map_err(failed)?,
            directories: rows(&self.directories).map_err(failed)?,
            changes: Pending {
                layers: self.layers.iter().map(|(id, _)| *id).collect(),
                removed_layers: self.removed_layers.into_iter().collect(),
                directories: self.directories.iter().map(|(id, _)| *id).collect(),
                removed_directories: self.removed_directories.into_iter().collect(),
                records: self.records.into_iter().map(|record| (record.identity, record)).collect(),
                removed_records: self.removed_records.into_iter().collect(),
                aliases: self.aliases.into_iter().collect(),
                fresh,
                ..Pending::default()
            },
        };
        database.apply(&batch)?;
        for NotedDocument { kind, key, blobs, size } in documents {
            let Some((body, rest)) = bytes.split_at_checked(size) else {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            };
            bytes = rest;
            database.write_document(&kind, &key, Some((body, &blobs[..])), true)?;
        }
        Ok(())
    }
}

/// Entries as the database keeps them.
fn rows<K: Copy, V: Serialize>(entries: &[(K, V)]) -> io::Result<Vec<(K, Vec<u8>)>> {
    entries.iter().map(|(id, value)| Ok((*id, serde_json::to_vec(value)?))).collect()
}

/// Brings the file, if there is one, up to date after something in it became durable or void.
pub(crate) fn renew(store: &Store) {
    let mut journal = lock(&store.journal);
    if !journal.exists {
        return;
    }
    if let Err(error) = journal.write(store) {
        tracing::warn!(%error, "what waits to be written is lost should the builder be killed");
    }
}

/// Removes the file: what it tells of is not to be trusted.
pub(crate) fn discard(store: &Store) {
    lock(&store.journal).remove(&store.root);
}

/// Removes what an earlier process left.
pub(crate) fn forget(root: &Root) {
    for name in [FILE, NEXT] {
        if let Err(error) = root::unlink(root.top.as_fd(), name) {
            tracing::warn!(name, %error, "cannot remove what was noted for a killed process");
        }
    }
}

/// Makes the batch that a killed process did not come to, before the rows are read. Trouble with
/// it is no reason not to open the store.
pub(crate) fn replay(root: &Root, database: &Database) {
    match read(root) {
        Ok(None) => return,
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
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let documents = bytes.split_off(end.ok_or(io::ErrorKind::UnexpectedEof)? + 1);
    let noted: Noted = serde_json::from_slice(&bytes)?;
    let boot = boot_id();
    let ours = noted.version == VERSION && noted.boot == boot && !boot.is_empty();
    if !ours {
        forget(root);
    }
    Ok(ours.then_some((noted, documents)))
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
