//! The rows on disk: one redb file, read row by row and written in batches.
//!
//! A failed write leaves the file as it was; it is
//! opened again before the next use, because redb refuses a file that failed once.

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

mod batch;
mod schema;

use batch::apply;
use schema::{
    ALIASES, CONTENTS, DIRECTORIES, DOCUMENTS, LAYERS, META, MIGRATIONS, NEXT_ID_KEY, RECORD_BLOBS,
    RECORDS, SCHEMA_KEY, migrate, to_digest, to_digests,
};

/// Rows are small and the file is read at random; redb's default of 1 GiB would dwarf the
/// builder.
const CACHE_BYTES: usize = 4 << 20;

/// Working with the records' file failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file was written by a newer version of this program.
    #[error("records have schema {found}, this version knows up to {supported}")]
    Newer {
        /// The schema of the file.
        found: u64,
        /// The newest schema this version can read.
        supported: u64,
    },
    /// The file cannot be opened.
    #[error("cannot open the records' file")]
    File {
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A read or write failed.
    #[error("cannot {attempt}")]
    Access {
        /// What was tried.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
}

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

impl Database {
    pub(crate) fn open(root: Arc<Root>) -> Result<Self, DatabaseError> {
        let database = Self { root, handle: Mutex::new(None) };
        if !database.is_current()? {
            database.write("prepare the tables", Durability::Immediate, |transaction| {
                migrate(transaction, MIGRATIONS)
            })??;
        }
        Ok(database)
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
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = root::open(self.root.top.as_fd(), "records", flags)
            .map_err(|errno| DatabaseError::File { source: errno.into() })?;
        let backend = redb::backends::FileBackend::new(File::from(file))
            .map_err(failed("lock the records' file"))?;
        let handle = redb::Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(failed("read the records' file"))?;
        Ok(slot.insert(Arc::new(handle)).clone())
    }

    /// Forgets a handle that failed: redb refuses all work after one failed write.
    fn check<T>(&self, result: Result<T, DatabaseError>) -> Result<T, DatabaseError> {
        if let Err(DatabaseError::Access { source, .. }) = &result
            && matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            *lock(&self.handle) = None;
        }
        result
    }

    fn write<T>(
        &self,
        attempt: &'static str,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, DatabaseError> {
        let handle = self.handle()?;
        let run = || -> Result<T, redb::Error> {
            let mut transaction = handle.begin_write()?;
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
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, DatabaseError> {
        let handle = self.handle()?;
        let run = || work(&handle.begin_read()?);
        let result = run().map_err(failed(attempt));
        drop(handle);
        self.check(result)
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

    /// Stores or removes a document, durably.
    pub(crate) fn write_document(
        &self,
        kind: &str,
        key: &str,
        document: Option<(&[u8], &[Digest])>,
    ) -> Result<(), DatabaseError> {
        self.write("write a document", Durability::Immediate, |transaction| {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            match document {
                Some((bytes, blobs)) => {
                    let blobs = blobs.iter().flat_map(|blob| *blob.as_bytes()).collect::<Vec<u8>>();
                    documents.insert((kind, key), (bytes, &blobs[..]))?;
                }
                None => drop(documents.remove((kind, key))?),
            }
            Ok(())
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

fn failed<E: Into<redb::Error>>(attempt: &'static str) -> impl FnOnce(E) -> DatabaseError {
    move |source| DatabaseError::Access { attempt, source: Box::new(source.into()) }
}
