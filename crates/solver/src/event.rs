//! What a build's audience is told.
//!
//! The shapes follow BuildKit's status stream: a vertex is announced, starts, completes; each
//! message repeats what identifies it, and later messages replace earlier ones. Large parts are
//! shared, so that many readers and late ones cost little.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;
use cofferdam_wire::pb;

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A vertex changed its state.
    Vertex(VertexState),
    /// Part of a vertex's work advanced.
    Status(StatusUpdate),
    /// A vertex printed something.
    Log(LogChunk),
    /// Something is worth the user's attention.
    Warning(WarningUpdate),
}

/// The state of a vertex.
#[derive(Debug, Clone)]
pub struct VertexState {
    /// What the vertex is called in this job's events.
    pub digest: Digest,
    /// The vertices it needs, for ordering.
    pub inputs: Arc<[Digest]>,
    /// For display.
    pub name: Arc<str>,
    /// When it last started.
    pub started: Option<DateTime<Utc>>,
    /// When it completed, if it did since it last started.
    pub completed: Option<DateTime<Utc>>,
    /// Whether its result was known already.
    pub cached: bool,
    /// Why it failed. Only the vertex that failed has it.
    pub error: Option<Arc<str>>,
    /// How long the cached result took to make; what the cache saved.
    pub saved: Option<Duration>,
    /// The group to show it in.
    pub progress_group: Option<pb::ProgressGroup>,
}

/// Progress of a part of a vertex's work, as its worker reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Identifies the part within the vertex, and is its text.
    pub id: String,
    /// What is being done: `downloading`, `extracting`, `done`.
    pub name: String,
    /// How much is done, usually in bytes.
    pub current: i64,
    /// How much there is to do; 0 when unknown.
    pub total: i64,
    /// When it started.
    pub started: Option<DateTime<Utc>>,
    /// When it completed; ends the part.
    pub completed: Option<DateTime<Utc>>,
}

impl Status {
    /// A part that starts now.
    #[must_use]
    pub fn begin(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { id: id.into(), name: name.into(), started: Some(Utc::now()), ..Self::default() }
    }

    /// The same part, further on.
    #[must_use]
    pub fn at(mut self, current: i64, total: i64) -> Self {
        self.current = current;
        self.total = total;
        self
    }

    /// The same part, completed now.
    #[must_use]
    pub fn done(mut self) -> Self {
        self.completed = Some(Utc::now());
        self
    }
}

/// A [`Status`] with where and when.
#[derive(Debug, Clone)]
pub struct StatusUpdate {
    /// The vertex.
    pub vertex: Digest,
    /// What was reported.
    pub status: Arc<Status>,
    /// When.
    pub timestamp: DateTime<Utc>,
}

/// Where output was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum LogStream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// Output of a vertex.
#[derive(Debug, Clone)]
pub struct LogChunk {
    /// The vertex.
    pub vertex: Digest,
    /// Where it was printed.
    pub stream: LogStream,
    /// What was printed; not necessarily whole lines or valid text.
    pub data: Bytes,
    /// When.
    pub timestamp: DateTime<Utc>,
}

/// Something worth the user's attention.
#[derive(Debug, Clone, Default)]
pub struct Warning {
    /// 1 for advice on style.
    pub level: i32,
    /// One line.
    pub short: Bytes,
    /// Further lines.
    pub detail: Vec<Bytes>,
    /// Where to read more.
    pub url: String,
    /// The source file concerned.
    pub info: Option<Arc<pb::SourceInfo>>,
    /// Where in that file.
    pub ranges: Vec<pb::Range>,
}

/// A [`Warning`] with its vertex.
#[derive(Debug, Clone)]
pub struct WarningUpdate {
    /// The vertex.
    pub vertex: Digest,
    /// What was reported.
    pub warning: Arc<Warning>,
}
