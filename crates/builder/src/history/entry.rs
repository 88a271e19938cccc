//! One record as it is kept: what it is called, what it names, and whether it is on disk.

use buffa::Message;
use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;
use cofferdam_store::{Blob, Document, Store};
use cofferdam_wire::moby::buildkit::v1 as wire;

use super::Record;

/// Whose build it is and what its client calls it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    owner: String,
    reference: String,
}

impl Key {
    pub(super) fn new(owner: &str, reference: &str) -> Self {
        Self { owner: owner.to_owned(), reference: reference.to_owned() }
    }

    /// The key of a document. Owners have no slash in their names.
    pub(super) fn of_document(name: &str) -> Option<Self> {
        name.split_once('/').map(|(owner, reference)| Self::new(owner, reference))
    }

    pub(super) fn document(&self) -> String {
        format!("{}/{}", self.owner, self.reference)
    }

    pub(super) fn is_of(&self, owner: &str) -> bool {
        self.owner == owner
    }

    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    pub(super) fn reference(&self) -> &str {
        &self.reference
    }
}

/// A build that has ended.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) created: DateTime<Utc>,
    pub(super) completed: DateTime<Utc>,
    pub(super) pinned: bool,
    /// Bytes of the record and of its blobs.
    pub(super) size: u64,
    pub(super) blobs: Vec<Digest>,
    /// What an older version of the record named; goes when this version is on disk.
    pub(super) stale: Vec<Digest>,
    /// Whether some version of the record is on disk.
    pub(super) on_disk: bool,
    /// The record, while this version is not on disk.
    pub(super) unwritten: Option<Unwritten>,
}

/// A record on its way to disk.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) record: Record,
    /// Keeps them from being deleted until the document names them.
    _blobs: Vec<Blob>,
}

impl Entry {
    /// A record that is new, with the blobs that it names.
    pub(super) fn new(record: Record, mut blobs: Vec<Blob>) -> Self {
        // Kept once, however often it was told.
        blobs.sort_unstable_by_key(Blob::digest);
        blobs.dedup_by_key(|blob| blob.digest());
        let names: Vec<Digest> = blobs.iter().map(Blob::digest).collect();
        let bytes: u64 = blobs.iter().map(Blob::size).sum();
        Self {
            created: time(&record.CreatedAt),
            completed: time(&record.CompletedAt),
            pinned: record.pinned,
            size: bytes.saturating_add(u64::from(record.encoded_len())),
            blobs: names,
            stale: Vec::new(),
            on_disk: false,
            unwritten: Some(Unwritten { record, _blobs: blobs }),
        }
    }

    /// A record on disk; none when it cannot be read or a blob is gone.
    pub(super) fn of_document(store: &Store, document: &Document) -> Option<Self> {
        let record = decode(&document.bytes)?;
        let sizes = document.blobs.iter().map(|digest| Some(store.blob(digest)?.size()));
        let bytes = sizes.sum::<Option<u64>>()?;
        Some(Self {
            created: time(&record.CreatedAt),
            completed: time(&record.CompletedAt),
            pinned: record.pinned,
            size: bytes.saturating_add(document.bytes.len() as u64),
            blobs: document.blobs.clone(),
            stale: Vec::new(),
            on_disk: true,
            unwritten: None,
        })
    }

    /// Takes the place of an older version.
    pub(super) fn replaces(&mut self, older: Self) {
        self.on_disk |= older.on_disk;
        self.stale = older.stale;
        let gone = older.blobs.into_iter().filter(|digest| !self.blobs.contains(digest));
        self.stale.extend(gone);
    }
}

fn time(
    field: &buffa::MessageField<
        buffa_types::google::protobuf::Timestamp,
        buffa::Inline<buffa_types::google::protobuf::Timestamp>,
    >,
) -> DateTime<Utc> {
    field
        .as_option()
        .and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?))
        .unwrap_or_default()
}

pub(super) fn encode(record: &wire::BuildHistoryRecord) -> Vec<u8> {
    record.encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Option<wire::BuildHistoryRecord> {
    wire::BuildHistoryRecord::decode_from_slice(bytes).ok()
}

/// What `old` names and `new` does not.
pub(super) fn replaced(
    old: &wire::BuildHistoryRecord,
    new: &wire::BuildHistoryRecord,
) -> Vec<Digest> {
    let stay = named(new);
    named(old).into_iter().filter(|digest| !stay.contains(digest)).collect()
}

/// Every blob that a record itself names.
fn named(record: &wire::BuildHistoryRecord) -> Vec<Digest> {
    let results = record.Result.as_option().into_iter().chain(record.Results.values());
    let of_results = results.flat_map(|result| {
        let named = result.ResultDeprecated.as_option().into_iter();
        named.chain(&result.Attestations).chain(result.Results.values())
    });
    [&record.logs, &record.trace, &record.externalError]
        .into_iter()
        .filter_map(|field| field.as_option())
        .chain(of_results)
        .filter_map(|descriptor| Digest::parse(&descriptor.digest).ok())
        .collect()
}
