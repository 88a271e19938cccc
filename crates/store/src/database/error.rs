//! What can go wrong with the records' file, and whether the file itself is at fault.

use crate::loss;

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

impl DatabaseError {
    /// Whether the file itself is at fault, so that trying again is of no use.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Newer { .. } => false,
            Self::File { source } => loss::is_damage(source),
            Self::Access { source, .. } => match &**source {
                redb::Error::Io(error) => {
                    let kinds =
                        [std::io::ErrorKind::InvalidData, std::io::ErrorKind::UnexpectedEof];
                    kinds.contains(&error.kind()) || loss::is_damage(error)
                }
                redb::Error::Corrupted(_)
                | redb::Error::UpgradeRequired(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TableIsNotMultimap(_)
                | redb::Error::TypeDefinitionChanged { .. }
                | redb::Error::TableDoesNotExist(_) => true,
                _ => false,
            },
        }
    }
}

/// An access failed that was this attempt.
pub(super) fn failed<E: Into<redb::Error>>(
    attempt: &'static str,
) -> impl FnOnce(E) -> DatabaseError {
    move |source| DatabaseError::Access { attempt, source: Box::new(source.into()) }
}
