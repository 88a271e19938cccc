//! The rows on disk: one redb file, read row by row and written in batches.
//!
//! A failed write leaves the file as it was; it is
//! opened again before the next use, because redb refuses a file that failed once.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use cofferdam_digest::Digest;
use redb::{Durability, ReadableDatabase, ReadableTable, WriteTransaction};
use rustix::fs::OFlags;

use crate::directory::DirectoryRow;
use crate::flush::Batch;
use crate::ids::LayerId;
use crate::layer::LayerInfo;
use crate::record::{ContentKey, Record};
use crate::root::{self, Root};
use crate::state::lock;
use crate::trash::Reaper;

mod ages;
mod batch;
mod error;
mod fresh;
mod schema;

use ages::stamp;
pub(crate) use ages::{Ages, DocumentName};
use batch::apply;
pub use error::DatabaseError;
use error::failed;
use fresh::Fresh;
use schema::{
    ALIASES, CONTENTS, DIRECTORIES, DOCUMENT_USES, DOCUMENTS, LAYERS, META, MIGRATIONS,
    NEXT_ID_KEY, RECORD_BLOBS, RECORDS, SCHEMA_KEY, migrate, to_digest, to_digests,
};

/// Rows are small and the file is read at random; redb's default of 1 GiB would dwarf the
/// builder.
const CACHE_BYTES: usize = 4 << 20;
const FILE: &str = "records";
/// The file that says that damage was met: the records are checked as a whole at the next open.
const SUSPECT_MARK: &str = "records-suspect";
/// How often the file is tried again that others of this process have not closed yet.
const OPEN_TRIES: u32 = 200;
const OPEN_DELAY: std::time::Duration = std::time::Duration::from_millis(10);
/// A smaller file is not worth the look for free pages.
const COMPACT_FROM: u64 = 32 << 20;

/// Rows as read at open.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) next_id: u64,
    pub(crate) layers: Vec<(LayerId, LayerInfo)>,
    pub(crate) directories: Vec<(u64, DirectoryRow)>,
    pub(crate) record_blobs: Vec<(Digest, Vec<Digest>)>,
    pub(crate) document_blobs: Vec<((String, String), Vec<Digest>)>,
}

/// A document as stored: its bytes and the blobs it keeps.
pub(crate) type StoredDocument = (Vec<u8>, Vec<Digest>);

/// The open file.
pub(crate) struct Database {
    root: Arc<Root>,
    /// `None` after a failure, until the next use.
    handle: Mutex<Option<Arc<redb::Database>>>,
}

fn builder() -> redb::Builder {
    let mut builder = redb::Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

impl Database {
    pub(crate) fn open(root: Arc<Root>) -> Result<Self, DatabaseError> {
        let database = Self { root, handle: Mutex::new(None) };
        if root::file_size(database.root.top.as_fd(), FILE).is_none() {
            database.create()?;
        } else if !database.is_current()? {
            database.write("prepare the tables", Durability::Immediate, |transaction| {
                migrate(transaction, MIGRATIONS)
            })??;
        }
        database.compact();
        Ok(database)
    }

    /// Makes the file.
    fn create(&self) -> Result<(), DatabaseError> {
        let top = self.root.top.as_fd();
        let lost = |source| DatabaseError::File { source };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let part = root::open(top, fresh::PART, flags).map_err(|errno| lost(errno.into()))?;
        let (backend, making) =
            Fresh::begin(File::from(part)).map_err(failed("lock the records' file"))?;
        let opened = builder().create_with_backend(backend);
        let handle = opened.map_err(failed("make the records' file"))?;
        *lock(&self.handle) = Some(Arc::new(handle));
        self.write("prepare the tables", Durability::Immediate, |transaction| {
            migrate(transaction, MIGRATIONS)
        })??;
        making.finish().map_err(lost)?;
        root::rename_new(top, fresh::PART, top, FILE).map_err(|errno| lost(errno.into()))
    }

    /// Moves a damaged file out of the way; none is open.
    pub(crate) fn set_aside(root: &Root, reaper: &Reaper) -> Result<(), DatabaseError> {
        let moved = reaper.discard(root.top.as_fd(), FILE);
        moved.map_err(|source| DatabaseError::File { source })?;
        let unmarked = root::unlink(root.top.as_fd(), SUSPECT_MARK);
        unmarked.map_err(|errno| DatabaseError::File { source: errno.into() })
    }

    /// Gives a large file's free pages back when they are the larger part of it. Trouble with it
    /// is no reason not to open the store.
    fn compact(&self) {
        let size = root::file_size(self.root.top.as_fd(), FILE).unwrap_or(0);
        if size < COMPACT_FROM {
            return;
        }
        let used = self.write("count pages", Durability::None, |transaction| {
            let stats = transaction.stats()?;
            Ok(stats.allocated_pages().saturating_mul(stats.page_size() as u64))
        });
        let Ok(used) = used else { return };
        let handle = lock(&self.handle).take();
        let Some(handle) = handle else { return };
        if used > size / 2 {
            *lock(&self.handle) = Some(handle);
            return;
        }
        // Nobody else has it while the store is being opened.
        let Some(mut database) = Arc::into_inner(handle) else { return };
        match database.compact() {
            Ok(_) => *lock(&self.handle) = Some(Arc::new(database)),
            Err(error) => tracing::warn!(%error, "cannot make the records' file smaller"),
        }
    }

    /// Whether the file needs no change, so that opening it needs no durable write.
    fn is_current(&self) -> Result<bool, DatabaseError> {
        self.read("read the schema", |transaction| match transaction.open_table(META) {
            Ok(meta) => {
                let found = meta.get(SCHEMA_KEY)?.map(|value| value.value());
                Ok(found == Some(MIGRATIONS.len() as u64 + 1))
            }
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    fn handle(&self) -> Result<Arc<redb::Database>, DatabaseError> {
        let mut slot = lock(&self.handle);
        if let Some(handle) = &*slot {
            return Ok(handle.clone());
        }
        let suspect = root::file_size(self.root.top.as_fd(), SUSPECT_MARK).is_some();
        let mut tries = OPEN_TRIES;
        let handle = loop {
            let opened = self.open_file(suspect);
            let is_open = matches!(&opened, Err(DatabaseError::Access { source, .. })
                if matches!(**source, redb::Error::DatabaseAlreadyOpen));
            if !is_open || tries == 0 {
                break opened?;
            }
            // Others still work with the handle of before a failure, and fail soon.
            tries -= 1;
            std::thread::sleep(OPEN_DELAY);
        };
        if suspect {
            let _ = root::unlink(self.root.top.as_fd(), SUSPECT_MARK);
        }
        Ok(slot.insert(Arc::new(handle)).clone())
    }

    fn open_file(&self, suspect: bool) -> Result<redb::Database, DatabaseError> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = root::open(self.root.top.as_fd(), FILE, flags)
            .map_err(|errno| DatabaseError::File { source: errno.into() })?;
        if suspect {
            // What counts is what the disk has, not what the kernel remembers.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
        let backend = redb::backends::FileBackend::new(File::from(file))
            .map_err(failed("lock the records' file"))?;
        let mut builder = builder();
        builder.set_check_integrity_on_open(suspect);
        builder.create_with_backend(backend).map_err(failed("read the records' file"))
    }

    /// Forgets a handle that failed: redb refuses all work after one failed write.
    fn check<T>(&self, result: Result<T, DatabaseError>) -> Result<T, DatabaseError> {
        if let Err(DatabaseError::Access { source, .. }) = &result
            && matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            *lock(&self.handle) = None;
        }
        if let Err(error) = &result
            && error.is_damage()
        {
            // The next to open the file reads all of it before trusting any of it.
            let flags = OFlags::WRONLY | OFlags::CREATE;
            if root::open(self.root.top.as_fd(), SUSPECT_MARK, flags).is_err() {
                tracing::warn!("cannot mark the records as suspect");
            }
        }
        result
    }

    fn write<T>(
        &self,
        attempt: &'static str,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, DatabaseError> {
        let mut handle = self.handle()?;
        let mut begun = handle.begin_write();
        if begun.as_ref().is_err_and(|error| {
            matches!(error, redb::TransactionError::Storage(redb::StorageError::PreviousIo))
        }) {
            // Another one's failure, which says nothing of why: this one has its own.
            self.forget(&handle);
            drop(handle);
            handle = self.handle()?;
            begun = handle.begin_write();
        }
        let run = || -> Result<T, redb::Error> {
            let mut transaction = begun?;
            transaction.set_durability(durability)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        let result = run().map_err(failed(attempt));
        drop(handle);
        self.check(result)
    }

    fn read<T>(
        &self,
        attempt: &'static str,
        work: impl Fn(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, DatabaseError> {
        let mut handle = self.handle()?;
        let mut result = handle.begin_read().map_err(Into::into).and_then(|begun| work(&begun));
        if matches!(result, Err(redb::Error::PreviousIo)) {
            // Another one's failure, which says nothing of why: this one has its own.
            self.forget(&handle);
            drop(handle);
            handle = self.handle()?;
            result = handle.begin_read().map_err(Into::into).and_then(|begun| work(&begun));
        }
        drop(handle);
        self.check(result.map_err(failed(attempt)))
    }

    /// Has the file opened again, unless that happened since `handle` was had.
    fn forget(&self, handle: &Arc<redb::Database>) {
        drop(lock(&self.handle).take_if(|current| Arc::ptr_eq(current, handle)));
    }

    /// Reads what an open store keeps in memory. Rows that cannot be decoded are left out: what
    /// they name is then swept.
    pub(crate) fn load(&self) -> Result<Rows, DatabaseError> {
        self.read("read the rows", |transaction| {
            let mut rows = Rows::default();
            let meta = transaction.open_table(META)?;
            rows.next_id = meta.get(NEXT_ID_KEY)?.map_or(1, |value| value.value());
            for row in transaction.open_table(LAYERS)?.iter()? {
                let (id, info) = row?;
                if let Ok(info) = serde_json::from_slice(info.value()) {
                    rows.layers.push((LayerId(id.value()), info));
                }
            }
            for row in transaction.open_table(DIRECTORIES)?.iter()? {
                let (id, directory) = row?;
                if let Ok(directory) = serde_json::from_slice(directory.value()) {
                    rows.directories.push((id.value(), directory));
                }
            }
            for row in transaction.open_table(RECORD_BLOBS)?.iter()? {
                let (identity, blobs) = row?;
                if let Some(identity) = to_digest(identity.value()) {
                    rows.record_blobs.push((identity, to_digests(blobs.value())));
                }
            }
            for row in transaction.open_table(DOCUMENTS)?.iter()? {
                let (key, value) = row?;
                let (kind, key) = key.value();
                let blobs = to_digests(value.value().1);
                rows.document_blobs.push(((kind.to_owned(), key.to_owned()), blobs));
            }
            Ok(rows)
        })
    }

    /// Writes a batch in one transaction. Gives the identities of records that died with
    /// layers of theirs.
    pub(crate) fn apply(&self, batch: &Batch) -> Result<Vec<Digest>, DatabaseError> {
        let changes = &batch.changes;
        let removes = !(changes.removed_layers.is_empty() && changes.removed_records.is_empty());
        let directories = !changes.directories.is_empty();
        let durability = if changes.names_data() || removes || directories {
            Durability::Immediate
        } else {
            // Notes of use and digests that can be computed again are not worth a sync.
            Durability::None
        };
        self.write("write a batch", durability, |transaction| apply(transaction, batch))
    }

    /// The layers that have a row.
    pub(crate) fn layer_ids(&self) -> Result<HashSet<LayerId>, DatabaseError> {
        self.read("list layers", |transaction| {
            let layers = transaction.open_table(LAYERS)?;
            let ids = layers.iter()?.map(|row| Ok(LayerId(row?.0.value())));
            ids.collect()
        })
    }

    /// The record behind an identity or alias.
    pub(crate) fn record(&self, key: &Digest) -> Result<Option<Record>, DatabaseError> {
        self.read("read a record", |transaction| {
            let records = transaction.open_table(RECORDS)?;
            let aliases = transaction.open_table(ALIASES)?;
            let row = match records.get(&key.as_bytes()[..])? {
                Some(row) => Some(row),
                None => match aliases.get(&key.as_bytes()[..])? {
                    Some(identity) => records.get(identity.value())?,
                    None => None,
                },
            };
            Ok(row.and_then(|row| serde_json::from_slice(row.value()).ok()))
        })
    }

    /// A content digest computed earlier.
    pub(crate) fn content(&self, key: &ContentKey) -> Result<Option<Digest>, DatabaseError> {
        self.read("read a content digest", |transaction| {
            let contents = transaction.open_table(CONTENTS)?;
            Ok(contents.get(key.row())?.and_then(|row| to_digest(row.value())))
        })
    }

    /// Identities of records that name no layer at all and thus never die with one.
    pub(crate) fn records_without_layers(&self) -> Result<Vec<Record>, DatabaseError> {
        self.read("list records", |transaction| {
            let mut found = Vec::new();
            for row in transaction.open_table(RECORDS)?.iter()? {
                let record = serde_json::from_slice::<Record>(row?.1.value());
                if let Ok(record) = record
                    && record.layers().next().is_none()
                {
                    found.push(record);
                }
            }
            Ok(found)
        })
    }

    /// Stores or removes a document: durably, or with the next batch that is.
    pub(crate) fn write_document(
        &self,
        kind: &str,
        key: &str,
        document: Option<(&[u8], &[Digest])>,
        durable: bool,
    ) -> Result<(), DatabaseError> {
        let durability = if durable { Durability::Immediate } else { Durability::None };
        self.write("write a document", durability, |transaction| {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            match document {
                Some((bytes, blobs)) => {
                    let blobs = blobs.iter().flat_map(|blob| *blob.as_bytes()).collect::<Vec<u8>>();
                    documents.insert((kind, key), (bytes, &blobs[..]))?;
                }
                None => {
                    documents.remove((kind, key))?;
                    transaction.open_table(DOCUMENT_USES)?.remove((kind, key))?;
                }
            }
            Ok(())
        })
    }

    /// Writes when documents of aging kinds were used, and lists those that are to go.
    pub(crate) fn stamp_documents(&self, ages: &Ages) -> Result<Vec<DocumentName>, DatabaseError> {
        self.write("note uses of documents", Durability::None, |transaction| {
            stamp(transaction, ages)
        })
    }

    /// Removes documents, except those that `spared` tells of.
    pub(crate) fn remove_documents(
        &self,
        names: Vec<DocumentName>,
        spared: impl Fn(&DocumentName) -> bool,
    ) -> Result<Vec<DocumentName>, DatabaseError> {
        self.write("remove documents", Durability::Immediate, |transaction| {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            let mut uses = transaction.open_table(DOCUMENT_USES)?;
            let mut removed = Vec::new();
            for name in names {
                if spared(&name) {
                    continue;
                }
                documents.remove((name.0.as_str(), name.1.as_str()))?;
                uses.remove((name.0.as_str(), name.1.as_str()))?;
                removed.push(name);
            }
            Ok(removed)
        })
    }

    /// Identities of records that cannot be read as such.
    pub(crate) fn unreadable_records(&self) -> Result<Vec<Digest>, DatabaseError> {
        self.read("read all records", |transaction| {
            let mut found = Vec::new();
            for row in transaction.open_table(RECORDS)?.iter()? {
                let (identity, record) = row?;
                if serde_json::from_slice::<Record>(record.value()).is_err() {
                    found.extend(to_digest(identity.value()));
                }
            }
            Ok(found)
        })
    }

    /// One document.
    pub(crate) fn document(
        &self,
        kind: &str,
        key: &str,
    ) -> Result<Option<StoredDocument>, DatabaseError> {
        self.read("read a document", |transaction| {
            let documents = transaction.open_table(DOCUMENTS)?;
            Ok(documents.get((kind, key))?.map(|row| {
                let (bytes, blobs) = row.value();
                (bytes.to_vec(), to_digests(blobs))
            }))
        })
    }

    /// All documents of a kind, ordered by key.
    pub(crate) fn documents(
        &self,
        kind: &str,
    ) -> Result<Vec<(String, StoredDocument)>, DatabaseError> {
        self.read("list documents", |transaction| {
            let documents = transaction.open_table(DOCUMENTS)?;
            let mut found = Vec::new();
            for row in documents.range((kind, "")..)? {
                let (key, value) = row?;
                let (row_kind, key) = key.value();
                if row_kind != kind {
                    break;
                }
                let (bytes, blobs) = value.value();
                found.push((key.to_owned(), (bytes.to_vec(), to_digests(blobs))));
            }
            Ok(found)
        })
    }
}
