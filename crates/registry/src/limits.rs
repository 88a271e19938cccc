//! Every bound of the registry in one place, and why it has its size.

use std::time::Duration;

/// Largest manifest; the specification asks that 4 MiB can be pushed.
pub(crate) const MANIFEST_BYTES: usize = 4 << 20;
/// Descriptors in one manifest: an image has at most a few hundred layers, an index of a cache
/// some thousand blobs.
pub(crate) const DESCRIPTORS: usize = 10_000;
/// Manifests that are received at the same time; each may hold [`MANIFEST_BYTES`] in memory.
pub(crate) const MANIFESTS_AT_ONCE: usize = 32;
/// Annotations of a manifest attached to another: lists of referrers repeat them.
pub(crate) const ATTACHED_ANNOTATIONS: usize = 64 << 10;
/// Tags set by one push of a manifest by digest.
pub(crate) const TAGS_PER_PUSH: usize = 32;
/// Bytes of an upload that wait in memory before they are hashed and written together.
pub(crate) const WRITE_BYTES: usize = 1 << 20;
/// Bytes of a body of unknown length after which it is asked again whether there is room.
pub(crate) const ROOM_BYTES: u64 = 64 << 20;
/// Bytes of a download that are read at once.
pub(crate) const READ_BYTES: usize = 256 << 10;
/// Entries of one page of tags; more are on the next page.
pub(crate) const TAGS_PAGE: usize = 1000;
/// Referrers on one page.
pub(crate) const REFERRERS_PAGE: usize = 200;
/// Bytes of one page of referrers, whose annotations clients choose: as large as a manifest.
pub(crate) const REFERRERS_BYTES: usize = MANIFEST_BYTES;
/// Longest query string; the longest real one holds [`TAGS_PER_PUSH`] tags.
pub(crate) const QUERY_BYTES: usize = 8 << 10;
/// When a client that was turned away for load may come again.
pub(crate) const RETRY_AFTER_SECONDS: u64 = 10;
/// How long a request waits for an earlier one on the same upload to let go.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(10);
/// Manifests that are removed in one turn: pushes get theirs in between.
pub(crate) const MANIFESTS_PER_TURN: usize = 100;
/// How long it counts what a project was found to take of the disk.
pub(crate) const MEASURED: Duration = Duration::from_secs(10);
/// How often uploads are looked through for abandoned ones.
pub(crate) const UPLOAD_ROUND: Duration = Duration::from_secs(60);

/// What an operator may choose.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest blob in bytes.
    pub blob_bytes: u64,
    /// Uploads of one project at the same time.
    pub uploads_per_project: usize,
    /// Uploads of all projects at the same time; each may hold an open file.
    pub uploads: usize,
    /// How long an upload may receive nothing before it is dropped.
    pub upload_idle: Duration,
    /// How long an upload may take in all.
    pub upload_age: Duration,
    /// How long one request may wait for the next bytes of its body.
    pub stall: Duration,
    /// How long a blob that nothing refers to is kept: as long as a push may take from finding
    /// a blob present to sending the manifest that refers to it.
    pub grace: Duration,
    /// How long a manifest is kept once no tag and no other manifest names it; for ever when there is
    /// none. Somebody may use it by its digest.
    pub untagged: Option<Duration>,
    /// Most bytes of the disk that one project may take; nothing is begun once it has them.
    pub project_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob_bytes: 64 << 30,
            uploads_per_project: 200,
            uploads: 2000,
            upload_idle: Duration::from_secs(60 * 60),
            upload_age: Duration::from_secs(24 * 60 * 60),
            stall: Duration::from_secs(120),
            grace: Duration::from_secs(24 * 60 * 60),
            untagged: None,
            project_bytes: None,
        }
    }
}
