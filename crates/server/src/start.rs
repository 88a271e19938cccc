//! The data directory: made, locked against a second server, and given its first organization.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use cofferdam_access::{TokenKind, mint};
use cofferdam_records::{NewToken, Records};

use crate::run::ServerError;

/// Name of the organization that a first start makes.
const FIRST_ORGANIZATION: &str = "default";

/// An organization and the only copy of a token for it.
pub struct FirstToken {
    /// The organization's id.
    pub organization: String,
    /// The token. Only its hash is kept.
    pub secret: String,
}

/// Holds a data directory for one server; given up when dropped.
pub(crate) struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the directory and takes it.
    pub(crate) fn take(path: &Path) -> Result<Self, ServerError> {
        create(path)?;
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(|source| ServerError::DataDir { path: file.clone(), source })?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ServerError::Taken { path: path.to_owned() }),
            Err(error) => Err(ServerError::DataDir { path: file, source: error.into() }),
        }
    }
}

/// Makes a data directory. Builders run as other users and reach their own stores below; every file and folder beside those is
/// closed to them.
fn create(path: &Path) -> Result<(), ServerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| ServerError::DataDir { path: path.to_owned(), source })
}

/// The first organization with its token, when there is no organization yet.
pub(crate) async fn first_token(records: &Records) -> Result<Option<FirstToken>, ServerError> {
    if !records.organizations().await?.is_empty() {
        return Ok(None);
    }
    Ok(Some(organization(records, FIRST_ORGANIZATION).await?))
}

/// Makes a further organization in a data directory, also while a server uses it, and a token for it. Records of an older program
/// stay as they are: the server that uses them may be that program.
///
/// # Errors
/// The records cannot be opened or written, or another program's form of them is there.
pub async fn create_organization(data_dir: &Path, name: &str) -> Result<FirstToken, ServerError> {
    crate::layout::SERVER.expect(data_dir)?;
    create(data_dir)?;
    let records = Records::open_as_is(data_dir).await?;
    organization(&records, name).await
}

async fn organization(records: &Records, name: &str) -> Result<FirstToken, ServerError> {
    let organization = records.create_organization(name).await?;
    let (secret, hash) = mint(TokenKind::Organization);
    records
        .create_token(NewToken {
            kind: TokenKind::Organization,
            organization: organization.id.clone(),
            project: None,
            build: None,
            parent: None,
            description: "made with the organization".to_owned(),
            hash,
            expires_at: None,
        })
        .await?;
    Ok(FirstToken { organization: organization.id, secret })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use cofferdam_records::RecordsError;

    use super::*;

    #[tokio::test]
    async fn an_organization_is_not_made_in_records_of_an_older_program() {
        let directory = tempfile::tempdir().unwrap();
        // SQLite: a table `schema` that says version 1, and nothing else.
        let older = include_bytes!("../fixtures/records-1.db");
        std::fs::write(directory.path().join("records.db"), older).unwrap();
        let error = create_organization(directory.path(), "further").await.err().unwrap();
        let known = matches!(error, ServerError::Records(RecordsError::Older { found: 1, .. }));
        assert!(known, "{error:?}");
        let above = tempfile::tempdir().unwrap();
        let empty = above.path().join("new");
        for name in ["one", "two"] {
            create_organization(&empty, name).await.unwrap();
        }
        // Builders pass it, as one that a server made.
        let served = above.path().join("served");
        let _data = DataDir::take(&served).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
        assert_eq!(mode(&empty), mode(&served));
        let records = Records::open(&empty).await.unwrap();
        assert_eq!(records.organizations().await.unwrap().len(), 2);
    }
}
