//! Copies of the database: each is one file, whole, as the records were at one moment, made while others read and write.
//!
//! Logs are files beside the database and in no copy of it. What is written here is never a file that somebody else made.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sqlx::SqlitePool;

use crate::error::RecordsError;
use crate::records::Records;

impl Records {
    /// Writes a copy of the database to a file that is not there yet. Logs are not in it.
    ///
    /// # Errors
    /// The file is there already or cannot be written, or the records cannot be read; then there is no copy.
    pub async fn backup_to(&self, path: &Path) -> Result<(), RecordsError> {
        if path.symlink_metadata().is_ok() {
            return Err(failed(path)(std::io::ErrorKind::AlreadyExists.into()));
        }
        copy(&self.read, path).await
    }

    /// Digests of what the registry's index of a project names, manifests themselves too, in their order: at most `n`, after `last`.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn named_content(
        &self,
        project: &str,
        last: &str,
        n: usize,
    ) -> Result<Vec<String>, RecordsError> {
        sqlx::query_scalar(
            "SELECT digest FROM manifests WHERE project = $1 AND digest > $2
             UNION SELECT part FROM manifest_parts WHERE project = $1 AND part > $2
             ORDER BY 1 LIMIT $3",
        )
        .bind(project)
        .bind(last)
        .bind(i64::try_from(n).unwrap_or(i64::MAX))
        .fetch_all(&self.read)
        .await
        .map_err(RecordsError::database("list what the registry's index names"))
    }
}

/// Writes a copy of a database; an older copy gives way to it.
pub(crate) async fn copy(pool: &SqlitePool, path: &Path) -> Result<(), RecordsError> {
    let part = beside(path);
    let copied = write(pool, &part, path).await;
    if copied.is_err() {
        // The first error is the one that matters.
        std::fs::remove_file(&part).ok();
    }
    copied
}

async fn write(pool: &SqlitePool, part: &Path, path: &Path) -> Result<(), RecordsError> {
    let file = empty(part).map_err(failed(path))?;
    let Some(text) = part.to_str().map(str::to_owned) else {
        return Err(failed(path)(std::io::ErrorKind::InvalidInput.into()));
    };
    sqlx::query("VACUUM INTO $1")
        .bind(text)
        .execute(pool)
        .await
        .map_err(RecordsError::database("copy the records"))?;
    let (from, to) = (part.to_owned(), path.to_owned());
    let kept = tokio::task::spawn_blocking(move || keep(&file, &from, &to)).await;
    kept.map_err(std::io::Error::other).and_then(|kept| kept).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> RecordsError {
    let path = path.to_owned();
    move |source| RecordsError::File { action: "copy the records to", path, source }
}

/// Where a copy is written before it has its name.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// An empty file that only its owner can read: there are hashes of tokens in the records. SQLite fills it.
fn empty(path: &Path) -> std::io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Gives a copy its name once its bytes are on the disk.
fn keep(file: &File, part: &Path, path: &Path) -> std::io::Result<()> {
    file.sync_all()?;
    std::fs::rename(part, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
