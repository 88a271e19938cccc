//! Questions about a repository of the registry that need no rows to answer.

use crate::error::RecordsError;
use crate::records::Records;

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
