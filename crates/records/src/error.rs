//! What can go wrong with records.

use std::io::ErrorKind;
use std::path::PathBuf;

/// The version of this program.
pub(crate) const PROGRAM: &str = env!("CARGO_PKG_VERSION");
/// SQLite's number for a write that found no room.
const SQLITE_FULL: &str = "13";

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

    /// Whether the disk has no room for what was to be written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } | Self::Database { source: sqlx::Error::Io(source), .. } => {
                matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            }
            Self::Database { source: sqlx::Error::Database(source), .. } => {
                source.code().is_some_and(|code| code == SQLITE_FULL)
            }
            _ => false,
        }
    }

    /// Names the attempt for an error of the database.
    pub(crate) fn database(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { action, source }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::{NewBuild, Records};

    #[tokio::test]
    async fn a_database_without_room_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        let new = |options: String| NewBuild {
            id: None,
            project: "project".to_owned(),
            organization: "organization".to_owned(),
            token: None,
            command: 1,
            options,
        };
        // No more pages than there are.
        sqlx::query("PRAGMA max_page_count = 1").fetch_all(&records.write).await.unwrap();
        let error = records.create_build(new("x".repeat(1 << 20))).await.unwrap_err();
        assert!(error.is_full(), "{error:?}");
        let missing = sqlx::query("SELECT * FROM missing").execute(&records.read).await;
        let error = super::RecordsError::database("look")(missing.unwrap_err());
        assert!(!error.is_full(), "{error:?}");
    }
}
