//! Links under which everybody who has one can look at a build, by the hashes of their secrets.

use crate::builds::{Build, read};
use crate::error::RecordsError;
use crate::records::Records;
use crate::row::{micros, now};

/// Links of one build that work at the same time; the oldest gives way.
const MOST: i64 = 20;

impl Records {
    /// Adds a link to a build.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn share_build(&self, build: &str, hash: &str) -> Result<(), RecordsError> {
        let failed = RecordsError::database;
        let action = "share a build";
        sqlx::query(
            "INSERT INTO shares (hash, build, project, created_at) SELECT $1, id, project, $3 FROM builds WHERE id = $2",
        )
        .bind(hash)
        .bind(build)
        .bind(micros(now()))
        .execute(&self.write)
        .await
        .map_err(failed(action))?;
        sqlx::query(
            "DELETE FROM shares WHERE build = $1 AND hash NOT IN
             (SELECT hash FROM shares WHERE build = $1 ORDER BY created_at DESC LIMIT $2)",
        )
        .bind(build)
        .bind(MOST)
        .execute(&self.write)
        .await
        .map_err(failed(action))?;
        Ok(())
    }

    /// The build that a link shows.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn build_by_share(&self, hash: &str) -> Result<Option<Build>, RecordsError> {
        sqlx::query(
            "SELECT builds.* FROM builds JOIN shares ON shares.build = builds.id WHERE hash = $1",
        )
        .bind(hash)
        .fetch_optional(&self.read)
        .await
        .and_then(|row| row.as_ref().map(read).transpose())
        .map_err(RecordsError::database("find a shared build"))
    }

    /// Takes all links to a build back. False when there were none.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn stop_sharing(&self, build: &str) -> Result<bool, RecordsError> {
        let query = sqlx::query("DELETE FROM shares WHERE build = $1").bind(build);
        let gone = query.execute(&self.write).await;
        let gone = gone.map_err(RecordsError::database("stop sharing a build"))?;
        Ok(gone.rows_affected() > 0)
    }
}
