//! The records as a whole: the database's connections and the directory of logs.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, SqlitePool};

use crate::backup;
use crate::error::RecordsError;
use crate::logs::Logs;
use crate::schema;

/// Connections that read at once.
const READERS: u32 = 8;
/// How long a writer waits for another, also one of another process.
const BUSY: Duration = Duration::from_secs(15);
/// How long a caller waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(30);
/// Pages kept in memory by each connection that writes, in KiB (the minus is SQLite's): what a transaction changes and does not find
/// room for here is written to the journal before its end.
const WRITERS_CACHE: &str = "-500";
/// The same by each connection that reads. Whatever is written empties these caches, so that one holds little more than what its last
/// query read, which grows with the records up to this bound; the kernel has the file's pages anyway. It is the way down a few trees.
const READERS_CACHE: &str = "-100";

/// Bytes of the journal that are kept for what comes: after a burst, what is over goes back to the disk.
const JOURNAL: &str = "67108864";

/// The records. Clones are the same records.
#[derive(Clone, Debug)]
pub struct Records {
    /// Any number of readers.
    pub(crate) read: SqlitePool,
    /// One writer whose commits are on the disk.
    pub(crate) write: SqlitePool,
    /// One writer whose commits may be lost with the machine's power, for what running builds report.
    pub(crate) stream: SqlitePool,
    pub(crate) logs: Arc<Logs>,
}

impl Records {
    /// Opens the records in a directory, which is made if need be; brings an older form up to date. What was there before is
    /// copied first, beside it: `records.db.before-<version>`.
    ///
    /// # Errors
    /// The directory or the database cannot be used, or a newer program wrote it.
    pub async fn open(dir: &Path) -> Result<Self, RecordsError> {
        Self::open_with(dir, true).await
    }

    /// Opens the records in a directory as they are: for who comes beside a server that may be an older program.
    ///
    /// # Errors
    /// The directory or the database cannot be used, or a program with another form of the records wrote it.
    pub async fn open_as_is(dir: &Path) -> Result<Self, RecordsError> {
        Self::open_with(dir, false).await
    }

    async fn open_with(dir: &Path, upgrade: bool) -> Result<Self, RecordsError> {
        let logs = dir.join("logs");
        create(&logs)?;
        let file = dir.join("records.db");
        // Made here for its mode: it holds hashes of tokens.
        let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&file);
        made.map_err(|source| RecordsError::File { action: "create", path: file.clone(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(BUSY)
            .foreign_keys(false)
            .pragma("cache_size", WRITERS_CACHE)
            .pragma("journal_size_limit", JOURNAL)
            .pragma("temp_store", "memory");
        let pool = |most: u32, options: SqliteConnectOptions| async move {
            // All from the beginning and for good: how many descriptors a server has does not depend on its load.
            let pool = SqlitePoolOptions::new()
                .min_connections(most)
                .max_connections(most)
                .idle_timeout(None)
                .max_lifetime(None)
                .acquire_timeout(ACQUIRE)
                .after_release(|connection, _| Box::pin(is_clean(connection)));
            pool.connect_with(options).await.map_err(RecordsError::database("open the records"))
        };
        let full = options.clone().synchronous(SqliteSynchronous::Full);
        let normal = options.synchronous(SqliteSynchronous::Normal);
        let write = pool(1, full).await?;
        bring_up_to_date(&write, &file, upgrade).await?;
        let stream = pool(1, normal.clone()).await?;
        let read =
            pool(READERS, normal.read_only(true).pragma("cache_size", READERS_CACHE)).await?;
        let logs = Logs::open(&logs)?;
        Ok(Self { read, write, stream, logs: Arc::new(logs) })
    }

    /// Closes the database; what comes later fails.
    pub async fn close(&self) {
        self.read.close().await;
        self.stream.close().await;
        self.write.close().await;
    }
}

/// Whether a connection can be used again. On a full disk the database itself takes back what could not be committed, after which the
/// connection believes for ever that it is within a transaction, and every further one fails.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if !connection.is_in_transaction() {
        return Ok(true);
    }
    // The end of a transaction that was given up may be on its way; this comes after it.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Sees to it that the database has the form that this program knows.
async fn bring_up_to_date(
    write: &SqlitePool,
    file: &Path,
    upgrade: bool,
) -> Result<(), RecordsError> {
    let (found, known) = (schema::version(write).await?, schema::known());
    if found == known {
        return Ok(());
    }
    // Records that are made now are nobody's yet.
    if found > 0 {
        if !upgrade {
            return Err(RecordsError::Older { found, known });
        }
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".before-{known}"));
        backup::copy(write, Path::new(&name)).await?;
    }
    schema::migrate(write).await
}

fn create(path: &Path) -> Result<(), RecordsError> {
    let failed = |source| RecordsError::File { action: "create", path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{CachePolicy, NewProject};

    #[tokio::test]
    async fn what_the_disk_ended_is_not_in_the_way_of_what_comes_next() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        let organization = records.create_organization("acme").await.unwrap().id;
        let new = |name: String| NewProject {
            organization: organization.clone(),
            name,
            region: "us-east-1".to_owned(),
            cache: CachePolicy::default(),
            hardware: 0,
        };
        let pages = async |most: u32| {
            let limit = format!("PRAGMA max_page_count = {most}");
            sqlx::query(&limit).fetch_all(&records.write).await.unwrap();
        };
        for _ in 0..3 {
            pages(1).await;
            let error = records.create_project(new("x".repeat(1 << 20))).await.unwrap_err();
            assert!(error.is_full(), "{error:?}");
        }
        pages(1 << 20).await;
        let made = records.create_project(new("small".to_owned())).await.unwrap();
        assert_eq!(records.project(&made.id).await.unwrap().unwrap().name, "small");
    }
}
