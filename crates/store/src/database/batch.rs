//! One batch of changes as one transaction.

use cofferdam_digest::Digest;
use redb::{ReadableTable, WriteTransaction};

use super::schema::{
    ALIASES, CONTENTS, DIRECTORIES, LAYER_RECORDS, LAYERS, META, NEXT_ID_KEY, RECORD_BLOBS,
    RECORDS, to_digest,
};
use crate::flush::Batch;
use crate::ids::LayerId;
use crate::record::Record;

/// Removals come first: an identity may die with its layers and be stored anew in one batch.
pub(super) fn apply(
    transaction: &WriteTransaction,
    batch: &Batch,
) -> Result<Vec<Digest>, redb::Error> {
    let changes = &batch.changes;
    raise_next_id(transaction, batch.next_id)?;
    let mut removed = Vec::new();
    for layer in &changes.removed_layers {
        removed.extend(remove_layer(transaction, *layer)?);
    }
    for identity in &changes.removed_records {
        remove_record(transaction, identity)?;
        removed.push(*identity);
    }
    let mut layers = transaction.open_table(LAYERS)?;
    for (id, row) in &batch.layers {
        layers.insert(id.0, &row[..])?;
    }
    let mut directories = transaction.open_table(DIRECTORIES)?;
    for id in &changes.removed_directories {
        directories.remove(id)?;
    }
    for (id, row) in &batch.directories {
        directories.insert(id, &row[..])?;
    }
    for record in changes.records.values() {
        insert_record(transaction, record)?;
    }
    let mut aliases = transaction.open_table(ALIASES)?;
    for (alias, identity) in &changes.aliases {
        aliases.insert(&alias.as_bytes()[..], &identity.as_bytes()[..])?;
    }
    let mut contents = transaction.open_table(CONTENTS)?;
    for (key, digest) in &changes.contents {
        contents.insert(key.row(), &digest.as_bytes()[..])?;
    }
    Ok(removed)
}

/// Never back: a batch that a killed process left may be older than what was written since, and a
/// number that is given out twice names two things.
fn raise_next_id(transaction: &WriteTransaction, next_id: u64) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let known = meta.get(NEXT_ID_KEY)?.map_or(0, |value| value.value());
    meta.insert(NEXT_ID_KEY, next_id.max(known))?;
    Ok(())
}

/// Removes a layer's row, the records that name it and the digests of trees it tops.
fn remove_layer(transaction: &WriteTransaction, id: LayerId) -> Result<Vec<Digest>, redb::Error> {
    transaction.open_table(LAYERS)?.remove(id.0)?;
    let identities: Vec<Digest> = {
        let mut index = transaction.open_multimap_table(LAYER_RECORDS)?;
        let rows = index.remove_all(id.0)?;
        let mut identities = Vec::new();
        for row in rows {
            identities.extend(to_digest(row?.value()));
        }
        identities
    };
    for identity in &identities {
        remove_record(transaction, identity)?;
    }
    let mut contents = transaction.open_table(CONTENTS)?;
    let next = id.0.saturating_add(1);
    contents.retain_in((id.0, &[][..], &[][..])..(next, &[][..], &[][..]), |_, _| false)?;
    Ok(identities)
}

fn remove_record(transaction: &WriteTransaction, identity: &Digest) -> Result<(), redb::Error> {
    let key = &identity.as_bytes()[..];
    let row = transaction.open_table(RECORDS)?.remove(key)?.map(|row| row.value().to_vec());
    transaction.open_table(RECORD_BLOBS)?.remove(key)?;
    let Some(record) = row.and_then(|row| serde_json::from_slice::<Record>(&row).ok()) else {
        return Ok(());
    };
    let mut aliases = transaction.open_table(ALIASES)?;
    for alias in &record.aliases {
        let alias = &alias.as_bytes()[..];
        // A newer record may have taken the alias over.
        let ours = aliases.get(alias)?.is_some_and(|owner| owner.value() == key);
        if ours {
            aliases.remove(alias)?;
        }
    }
    let mut index = transaction.open_multimap_table(LAYER_RECORDS)?;
    for layer in record.tops() {
        index.remove(layer.0, key)?;
    }
    Ok(())
}

fn insert_record(transaction: &WriteTransaction, record: &Record) -> Result<(), redb::Error> {
    remove_record(transaction, &record.identity)?;
    let key = &record.identity.as_bytes()[..];
    let row = serde_json::to_vec(record)
        .map_err(|error| redb::Error::Io(std::io::Error::other(error)))?;
    transaction.open_table(RECORDS)?.insert(key, &row[..])?;
    let mut aliases = transaction.open_table(ALIASES)?;
    for alias in &record.aliases {
        aliases.insert(&alias.as_bytes()[..], key)?;
    }
    let mut index = transaction.open_multimap_table(LAYER_RECORDS)?;
    for layer in record.tops() {
        index.insert(layer.0, key)?;
    }
    if !record.blobs.is_empty() {
        let blobs = record.blobs.iter().flat_map(|blob| *blob.as_bytes()).collect::<Vec<u8>>();
        transaction.open_table(RECORD_BLOBS)?.insert(key, &blobs[..])?;
    }
    Ok(())
}
