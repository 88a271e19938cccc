//! What projects take of the disk, as it was measured last: figures that outlive the server, where measuring is dear.
//!
//! Nothing is measured here but logs, which are this room's own.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::records::Records;
use crate::row::{micros, size, stored, time};

/// What a project took of the disk for one kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectStorage {
    /// The project.
    pub project: String,
    /// What it is; a name that means nothing here.
    pub kind: String,
    /// Bytes of the disk.
    pub bytes: u64,
    /// When that was measured.
    pub measured_at: DateTime<Utc>,
}

fn read(row: &SqliteRow) -> Result<ProjectStorage, sqlx::Error> {
    Ok(ProjectStorage {
        project: row.try_get("project")?,
        kind: row.try_get("kind")?,
        bytes: size(row.try_get("bytes")?),
        measured_at: time(row.try_get("measured_at")?),
    })
}

impl Records {
    /// Notes what a project takes of the disk for one kind of thing. Projects that are gone or going take nothing.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn set_project_storage(
        &self,
        project: &str,
        kind: &str,
        bytes: u64,
        at: DateTime<Utc>,
    ) -> Result<(), RecordsError> {
        let done = sqlx::query(
            "INSERT INTO project_storage (project, kind, bytes, measured_at)
             SELECT id, $2, $3, $4 FROM projects WHERE id = $1 AND deleting = 0
             ON CONFLICT (project, kind) DO UPDATE SET bytes = excluded.bytes, measured_at = excluded.measured_at",
        )
        .bind(project)
        .bind(kind)
        .bind(stored(bytes))
        .bind(micros(at))
        .execute(&self.stream)
        .await;
        done.map(|_| ()).map_err(RecordsError::database("note what a project takes of the disk"))
    }

    /// What a project took of the disk when that was measured last, by kind.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn project_storage(
        &self,
        project: &str,
    ) -> Result<Vec<ProjectStorage>, RecordsError> {
        sqlx::query("SELECT * FROM project_storage WHERE project = $1 ORDER BY kind")
            .bind(project)
            .fetch_all(&self.read)
            .await
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("read what a project takes of the disk"))
    }

    /// What all projects took of the disk when that was measured last.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn storage(&self) -> Result<Vec<ProjectStorage>, RecordsError> {
        sqlx::query("SELECT * FROM project_storage ORDER BY project, kind")
            .fetch_all(&self.read)
            .await
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("read what projects take of the disk"))
    }

    /// What the logs of a project take of the disk now. All its logs are looked at: for once in a while.
    ///
    /// # Errors
    /// The logs cannot be looked through.
    pub async fn log_bytes(&self, project: &str) -> Result<u64, RecordsError> {
        self.logs.measure(project).await
    }
}
