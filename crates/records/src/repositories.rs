//! Questions about a repository of the registry that need no rows to answer.

use chrono::{DateTime, Utc};

use crate::error::RecordsError;
use crate::records::Records;
use crate::row::micros;

impl Records {
    /// Whether a repository has any manifest.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn repository_exists(
        &self,
        project: &str,
        repository: &str,
    ) -> Result<bool, RecordsError> {
        let query =
            "SELECT EXISTS (SELECT 1 FROM manifests WHERE project = $1 AND repository = $2)";
        sqlx::query_scalar(query)
            .bind(project)
            .bind(repository)
            .fetch_one(&self.read)
            .await
            .map_err(RecordsError::database("look for a repository"))
    }

    /// Manifests of a project that nothing names since before a moment: no tag, no other manifest, and they say nothing about
    /// one. At most `n` of them, as repository and digest.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn unnamed_manifests(
        &self,
        project: &str,
        before: DateTime<Utc>,
        n: usize,
    ) -> Result<Vec<(String, String)>, RecordsError> {
        sqlx::query_as(
            "SELECT repository, digest FROM manifests
             WHERE project = $1 AND subject IS NULL AND max(pushed_at, named_until) < $2
             AND NOT EXISTS (SELECT 1 FROM tags WHERE tags.project = manifests.project
                 AND tags.repository = manifests.repository AND tags.digest = manifests.digest)
             AND NOT EXISTS (SELECT 1 FROM manifest_parts AS parts WHERE parts.project = manifests.project
                 AND parts.part = manifests.digest AND parts.repository = manifests.repository
                 AND parts.is_manifest = 1 AND parts.manifest <> manifests.digest)
             LIMIT $3",
        )
        .bind(project)
        .bind(micros(before))
        .bind(i64::try_from(n).unwrap_or(i64::MAX))
        .fetch_all(&self.read)
        .await
        .map_err(RecordsError::database("find manifests that nothing names"))
    }

    /// Whether a tag names a manifest, or another manifest of its repository lists it.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn manifest_is_named(
        &self,
        project: &str,
        repository: &str,
        digest: &str,
    ) -> Result<bool, RecordsError> {
        let query = "SELECT EXISTS (
                SELECT 1 FROM tags WHERE project = $1 AND repository = $2 AND digest = $3
            ) OR EXISTS (
                SELECT 1 FROM manifest_parts WHERE project = $1 AND part = $3 AND repository = $2
                AND is_manifest = 1 AND manifest <> $3
            )";
        sqlx::query_scalar(query)
            .bind(project)
            .bind(repository)
            .bind(digest)
            .fetch_one(&self.read)
            .await
            .map_err(RecordsError::database("find what names a manifest"))
    }
}
