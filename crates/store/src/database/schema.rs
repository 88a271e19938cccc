//! The tables of the records' file and its versions.
//!
//! Keys are fixed binary, values JSON so that a row can gain fields without a migration. Every
//! table is listed here and nowhere else.

use cofferdam_digest::Digest;
use redb::{MultimapTableDefinition, ReadableTable, TableDefinition, WriteTransaction};

use super::DatabaseError;
use crate::record::Record;

/// Numbers about the store itself.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const LAYERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("layers");
pub(super) const DIRECTORIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("directories");
/// Identity to record.
pub(super) const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// Other keys to identity.
pub(super) const ALIASES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("aliases");
/// Layer to the identities of records of which it is the uppermost: those below go after it.
pub(super) const LAYER_RECORDS: MultimapTableDefinition<'_, u64, &[u8]> =
    MultimapTableDefinition::new("layer_records");
/// Identity to the blobs a record keeps, 32 bytes each; only records that keep any.
pub(super) const RECORD_BLOBS: TableDefinition<'_, &[u8], &[u8]> =
    TableDefinition::new("record_blobs");
/// Top layer, tree and selector to a content digest.
pub(super) const CONTENTS: TableDefinition<'_, ContentRow<'_>, &[u8]> =
    TableDefinition::new("contents");
pub(super) type ContentRow<'a> = (u64, &'a [u8], &'a [u8]);
/// Kind and key to the document and the blobs it keeps, 32 bytes each.
pub(super) const DOCUMENTS: TableDefinition<'_, (&str, &str), DocumentRow<'_>> =
    TableDefinition::new("documents");
pub(super) type DocumentRow<'a> = (&'a [u8], &'a [u8]);
/// Kind and key to the second at which a document was last used; only of kinds that go by age.
/// Made when it is first written: files of this schema may lack it.
pub(super) const DOCUMENT_USES: TableDefinition<'_, (&str, &str), i64> =
    TableDefinition::new("document_uses");

pub(super) const SCHEMA_KEY: &str = "schema";
pub(super) const NEXT_ID_KEY: &str = "next_id";

/// Steps from older schemas: the step at index `n` turns schema `n + 1` into `n + 2`.
pub(super) const MIGRATIONS: &[Migration] = &[index_by_uppermost];
pub(super) type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// Creates the tables and brings an older file to this version's schema, all in one
/// transaction. A newer file is refused by the inner result and left as it is.
pub(super) fn migrate(
    transaction: &WriteTransaction,
    migrations: &[Migration],
) -> Result<Result<(), DatabaseError>, redb::Error> {
    let supported = migrations.len() as u64 + 1;
    let mut meta = transaction.open_table(META)?;
    let found = meta.get(SCHEMA_KEY)?.map(|value| value.value());
    match found {
        Some(found) if found > supported => {
            return Ok(Err(DatabaseError::Newer { found, supported }));
        }
        Some(found) => {
            let done = usize::try_from(found.saturating_sub(1)).unwrap_or(usize::MAX);
            for migration in migrations.iter().skip(done) {
                migration(transaction)?;
            }
        }
        None => {}
    }
    if found != Some(supported) {
        meta.insert(SCHEMA_KEY, supported)?;
    }
    transaction.open_table(LAYERS)?;
    transaction.open_table(DIRECTORIES)?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(ALIASES)?;
    transaction.open_multimap_table(LAYER_RECORDS)?;
    transaction.open_table(RECORD_BLOBS)?;
    transaction.open_table(CONTENTS)?;
    transaction.open_table(DOCUMENTS)?;
    Ok(Ok(()))
}

/// Schema 1 had a row for each layer of a record: as many as the square of a long build's steps.
fn index_by_uppermost(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.delete_multimap_table(LAYER_RECORDS)?;
    let mut index = transaction.open_multimap_table(LAYER_RECORDS)?;
    for row in transaction.open_table(RECORDS)?.iter()? {
        let (identity, record) = row?;
        let Ok(record) = serde_json::from_slice::<Record>(record.value()) else { continue };
        for layer in record.tops() {
            index.insert(layer.get(), identity.value())?;
        }
    }
    Ok(())
}

pub(super) fn to_digest(bytes: &[u8]) -> Option<Digest> {
    Some(Digest::from_bytes(bytes.try_into().ok()?))
}

pub(super) fn to_digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.chunks_exact(32).filter_map(to_digest).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use redb::ReadableDatabase;

    use super::*;

    const ADDED: TableDefinition<'_, u64, u64> = TableDefinition::new("added");

    fn open(path: &std::path::Path) -> redb::Database {
        redb::Database::create(path).unwrap()
    }

    fn run(database: &redb::Database, migrations: &[Migration]) -> Result<(), DatabaseError> {
        let transaction = database.begin_write().unwrap();
        migrate(&transaction, migrations).unwrap()?;
        transaction.commit().unwrap();
        Ok(())
    }

    fn version(database: &redb::Database) -> u64 {
        let transaction = database.begin_read().unwrap();
        let meta = transaction.open_table(META).unwrap();
        meta.get(SCHEMA_KEY).unwrap().unwrap().value()
    }

    #[test]
    fn older_files_are_migrated_step_by_step_and_only_once() {
        let temp = tempfile::tempdir().unwrap();
        let database = open(&temp.path().join("records"));
        run(&database, &[]).unwrap();
        assert_eq!(version(&database), 1);
        let first: Migration = |transaction| {
            transaction.open_table(ADDED)?.insert(1, 10)?;
            Ok(())
        };
        let second: Migration = |transaction| {
            let mut added = transaction.open_table(ADDED)?;
            let value = added.get(1)?.map_or(0, |row| row.value());
            added.insert(1, value + 1)?;
            Ok(())
        };
        run(&database, &[first]).unwrap();
        for _ in 0..2 {
            run(&database, &[first, second]).unwrap();
            assert_eq!(version(&database), 3);
            let transaction = database.begin_read().unwrap();
            let added = transaction.open_table(ADDED).unwrap();
            assert_eq!(added.get(1).unwrap().unwrap().value(), 11);
        }
    }

    #[test]
    fn records_are_found_by_their_uppermost_layers_alone() {
        let temp = tempfile::tempdir().unwrap();
        let database = open(&temp.path().join("records"));
        run(&database, &[]).unwrap();
        let key = |name: &str| Digest::of(name);
        let row = |name: &str, outputs: &str| {
            let identity = serde_json::to_string(&key(name)).unwrap();
            format!(r#"{{"identity":{identity},"outputs":{outputs}}}"#)
        };
        let rows = [
            ("chain", row("chain", "[[1,2,3]]")),
            ("two outputs", row("two outputs", "[[1,2],[4],[]]")),
            ("damaged", "{".to_owned()),
        ];
        let transaction = database.begin_write().unwrap();
        for (name, row) in &rows {
            let mut records = transaction.open_table(RECORDS).unwrap();
            records.insert(&key(name).as_bytes()[..], row.as_bytes()).unwrap();
            let mut index = transaction.open_multimap_table(LAYER_RECORDS).unwrap();
            for layer in 1..=4 {
                index.insert(layer, &key(name).as_bytes()[..]).unwrap();
            }
        }
        transaction.commit().unwrap();
        run(&database, MIGRATIONS).unwrap();
        let transaction = database.begin_read().unwrap();
        let index = transaction.open_multimap_table(LAYER_RECORDS).unwrap();
        let of = |layer: u64| -> Vec<Digest> {
            index.get(layer).unwrap().filter_map(|row| to_digest(row.unwrap().value())).collect()
        };
        assert_eq!(of(1), []);
        assert_eq!(of(2), [key("two outputs")]);
        assert_eq!(of(3), [key("chain")]);
        assert_eq!(of(4), [key("two outputs")]);
    }

    #[test]
    fn new_files_are_not_migrated() {
        let temp = tempfile::tempdir().unwrap();
        let database = open(&temp.path().join("records"));
        let never: Migration = |_| Err(redb::Error::InvalidSavepoint);
        run(&database, &[never]).unwrap();
        assert_eq!(version(&database), 2);
    }

    #[test]
    fn newer_files_are_refused_by_name_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("records");
        let transaction = open(&path).begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(SCHEMA_KEY, 7).unwrap();
        transaction.commit().unwrap();
        let error = crate::Store::open(temp.path(), crate::Options::default()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "records have schema 7, this version knows up to 2");
        assert_eq!(version(&open(&path)), 7);
    }
}
