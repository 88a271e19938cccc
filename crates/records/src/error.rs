//! What can go wrong with records.

use std::path::PathBuf;

/// The version of this program.
pub(crate) const PROGRAM: &str = env!("CARGO_PKG_VERSION");

fn written_by(program: &str) -> String {
    if program.is_empty() { String::new() } else { format!(", written by cofferdam {program}") }
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// A directory or file of the records.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error("{action}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why it did not work.
        #[source]
        source: sqlx::Error,
    },
    /// The database was written by a newer program.
    #[error(
        "the records have version {found}{}, and this program ({PROGRAM}) knows versions up to {known}: use the newer program",
        written_by(program)
    )]
    Newer {
        /// Its version.
        found: i64,
        /// The newest one known.
        known: i64,
        /// The version of the program that brought it there; empty when that is not known.
        program: String,
    },
    /// The database was written by an older program and is not to be changed.
    #[error(
        "the records have version {found}, and this program ({PROGRAM}) needs version {known}: start the server with this program first"
    )]
    Older {
        /// Its version.
        found: i64,
        /// The one needed.
        known: i64,
    },
    /// All id ranges are taken.
    #[error("there is no id range left for another project: delete one first")]
    NoSlot,
    /// A page size that means nothing.
    #[error("page_size must not be negative")]
    PageSize,
    /// A page token of another list, or none at all.
    #[error("page_token is not one of this list: start again without it")]
    PageToken,
}

impl RecordsError {
    /// Whether the caller asked for something that makes no sense, rather than the records failing.
    #[must_use]
    pub const fn is_bad_request(&self) -> bool {
        matches!(self, Self::PageSize | Self::PageToken)
    }

    /// Names the attempt for an error of the database.
    pub(crate) fn database(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { action, source }
    }
}
