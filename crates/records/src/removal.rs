//! Reset and removal of projects, in steps that can be taken up again after a restart.

use sqlx::{Row, Sqlite, Transaction};

use crate::error::RecordsError;
use crate::projects::{Project, read};
use crate::records::Records;

/// Rows that are deleted at a time: other writers get their turn in between.
const BATCH: i64 = 500;

/// What belongs to a build.
pub(crate) const OF_BUILDS: [&str; 3] = ["steps", "connections", "shares"];
/// What belongs to a project and has no end of its own to wait for.
const OF_PROJECT: [&str; 6] =
    ["manifest_parts", "tags", "manifests", "trust_policies", "tokens", "project_storage"];

impl Records {
    /// Notes that a project's cache is to be removed.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn begin_reset(&self, id: &str) -> Result<(), RecordsError> {
        self.mark("UPDATE projects SET reset_pending = 1 WHERE id = $1", id, "begin a reset").await
    }

    /// Notes that a project's cache is gone.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn finish_reset(&self, id: &str) -> Result<(), RecordsError> {
        self.mark("UPDATE projects SET reset_pending = 0 WHERE id = $1", id, "finish a reset").await
    }

    async fn mark(
        &self,
        statement: &'static str,
        id: &str,
        action: &'static str,
    ) -> Result<(), RecordsError> {
        let done = sqlx::query(statement).bind(id).execute(&self.write).await;
        done.map(|_| ()).map_err(RecordsError::database(action))
    }

    /// Notes that a project is to be deleted: from now on it is in no list and has no tokens. Returns the ids of those.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn begin_delete(&self, id: &str) -> Result<Vec<String>, RecordsError> {
        let failed = RecordsError::database;
        let action = "begin to delete a project";
        let mut transaction =
            self.write.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        sqlx::query("UPDATE projects SET deleting = 1 WHERE id = $1")
            .bind(id)
            .execute(&mut *transaction)
            .await
            .map_err(failed(action))?;
        let tokens: Vec<String> =
            sqlx::query_scalar("DELETE FROM tokens WHERE project = $1 RETURNING id")
                .bind(id)
                .fetch_all(&mut *transaction)
                .await
                .map_err(failed(action))?;
        transaction.commit().await.map_err(failed(action))?;
        Ok(tokens)
    }

    /// Removes everything of a project that is being deleted, and frees its id range.
    ///
    /// # Errors
    /// The records cannot be written; what is left can be removed by another call.
    pub async fn finish_delete(&self, id: &str) -> Result<(), RecordsError> {
        self.logs.remove_project(id).await?;
        while self.delete_builds(id).await? {}
        for table in OF_PROJECT {
            while self.delete_batch(table, id).await? {}
        }
        self.mark("DELETE FROM projects WHERE id = $1 AND deleting = 1", id, "delete a project")
            .await
    }

    /// Deletes some builds with all they have. False when there are none left.
    async fn delete_builds(&self, project: &str) -> Result<bool, RecordsError> {
        let failed = RecordsError::database;
        let action = "delete the builds of a project";
        let builds = sqlx::query("SELECT id FROM builds WHERE project = $1 LIMIT $2")
            .bind(project)
            .bind(BATCH)
            .fetch_all(&self.read)
            .await
            .map_err(failed(action))?;
        if builds.is_empty() {
            return Ok(false);
        }
        let mut transaction =
            self.stream.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        for build in &builds {
            let build: String = build.try_get(0).map_err(failed(action))?;
            remove_build(&mut transaction, &build, Shared::Go).await.map_err(failed(action))?;
        }
        transaction.commit().await.map_err(failed(action))?;
        Ok(true)
    }

    async fn delete_batch(&self, table: &'static str, project: &str) -> Result<bool, RecordsError> {
        let key = match table {
            "manifest_parts" => "project, repository, manifest, part",
            "tags" => "project, repository, tag",
            "manifests" => "project, repository, digest",
            "project_storage" => "project, kind",
            _ => "id",
        };
        let statement = format!(
            "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE project = $1 LIMIT $2)"
        );
        let deleted = sqlx::query(&statement).bind(project).bind(BATCH).execute(&self.stream).await;
        let deleted = deleted.map_err(RecordsError::database("delete what a project has"))?;
        Ok(deleted.rows_affected() > 0)
    }

    /// Projects whose reset or removal has begun and not ended.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<Project>, RecordsError> {
        sqlx::query("SELECT * FROM projects WHERE deleting = 1 OR reset_pending = 1")
            .fetch_all(&self.read)
            .await
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list unfinished removals"))
    }
}

/// What becomes of a build that is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    /// It stays.
    Stay,
    /// It goes like the others.
    Go,
}

/// Removes a build with all its rows. False when it stays, or there is none.
pub(crate) async fn remove_build(
    transaction: &mut Transaction<'_, Sqlite>,
    build: &str,
    shared: Shared,
) -> Result<bool, sqlx::Error> {
    let query = "DELETE FROM builds WHERE id = $1
        AND ($2 OR NOT EXISTS (SELECT 1 FROM shares WHERE shares.build = $1))";
    let query = sqlx::query(query).bind(build).bind(shared == Shared::Go);
    let removed = query.execute(&mut **transaction).await?.rows_affected() > 0;
    if removed {
        for table in OF_BUILDS {
            // The table's name is one of those above.
            let statement = format!("DELETE FROM {table} WHERE build = $1");
            sqlx::query(&statement).bind(build).execute(&mut **transaction).await?;
        }
    }
    Ok(removed)
}
