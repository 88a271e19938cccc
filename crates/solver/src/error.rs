//! What can go wrong in a build, in a form that can be sent to its client.
//!
//! Codes are gRPC's, because that is what clients of a builder expect. Typed context travels as
//! details, which are opaque here.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_graph::SourceRange;

/// What kind of failure; numbers are those of gRPC's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(i32)]
pub enum ErrorCode {
    /// Nobody wants the result any more.
    Canceled = 1,
    /// An ordinary failure, such as a command with a bad exit code.
    #[default]
    Unknown = 2,
    /// The request can never work.
    InvalidArgument = 3,
    /// Took too long.
    DeadlineExceeded = 4,
    /// Something named does not exist.
    NotFound = 5,
    /// Something that should be new exists.
    AlreadyExists = 6,
    /// Not allowed.
    PermissionDenied = 7,
    /// Out of disk, memory or quota.
    ResourceExhausted = 8,
    /// The system is not in the state that this needs.
    FailedPrecondition = 9,
    /// A conflict with concurrent work.
    Aborted = 10,
    /// Past the end of something.
    OutOfRange = 11,
    /// Not supported here.
    Unimplemented = 12,
    /// A broken invariant or a broken disk.
    Internal = 13,
    /// Worth trying again.
    Unavailable = 14,
    /// Data is lost for good.
    DataLoss = 15,
    /// Who is asking could not be established.
    Unauthenticated = 16,
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// Why a step failed.
#[derive(Debug)]
pub struct StepError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// The text for the user, lower case, without the cause.
    pub message: String,
    /// Typed context: type URL and encoded value.
    pub details: Vec<(String, Bytes)>,
    /// What it came from.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl StepError {
    /// A failure with a code and a text.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), source: None }
    }

    /// An ordinary failure.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unknown, message)
    }

    /// The failure of work that was cancelled.
    #[must_use]
    pub fn canceled() -> Self {
        Self::new(ErrorCode::Canceled, CANCELED)
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same failure with one more detail.
    #[must_use]
    pub fn with_detail(mut self, type_url: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.details.push((type_url.into(), value.into()));
        self
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for StepError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// The text that clients of BuildKit know a cancelled step by.
pub(crate) const CANCELED: &str = "context canceled";

/// Why an output could not be had.
#[derive(Debug, Clone)]
pub enum SolveError {
    /// A vertex failed.
    Step {
        /// The vertex that failed, which may lie far below the one asked for.
        vertex: Digest,
        /// Its display name.
        name: String,
        /// Where the asking job's sources speak of it, in the definition's order.
        sources: Vec<SourceRange>,
        /// What happened.
        error: Arc<StepError>,
    },
    /// The job was cancelled or closed.
    Canceled,
    /// The work ended without a result; a bug in the runtime or the end of the process.
    Abandoned {
        /// The vertex whose work ended.
        vertex: Digest,
    },
}

impl SolveError {
    /// The code to answer the client with.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Step { error, .. } => error.code,
            Self::Canceled => ErrorCode::Canceled,
            Self::Abandoned { .. } => ErrorCode::Internal,
        }
    }

    /// The vertex that failed.
    #[must_use]
    pub fn vertex(&self) -> Option<Digest> {
        match self {
            Self::Step { vertex, .. } | Self::Abandoned { vertex } => Some(*vertex),
            Self::Canceled => None,
        }
    }

    /// Where the failing vertex comes from.
    #[must_use]
    pub fn sources(&self) -> &[SourceRange] {
        match self {
            Self::Step { sources, .. } => sources,
            _ => &[],
        }
    }

    /// The step's own error.
    #[must_use]
    pub fn step(&self) -> Option<&Arc<StepError>> {
        match self {
            Self::Step { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for SolveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { error, .. } => fmt::Display::fmt(error, formatter),
            Self::Canceled => formatter.write_str(CANCELED),
            Self::Abandoned { vertex } => {
                write!(formatter, "work on vertex {vertex} ended without a result")
            }
        }
    }
}

impl Error for SolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The step's text is this error's text, so what follows is the step's cause.
        self.step().and_then(|error| error.source())
    }
}

/// Why a job could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Its id is in use.
    #[error("job ID {0} exists")]
    Exists(String),
}
