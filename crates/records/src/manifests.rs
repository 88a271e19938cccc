//! The registry's index: manifests, what they refer to, and the tags that name them.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::error::RecordsError;
use crate::records::Records;
use crate::row::{micros, now, size, stored, time};

/// Most manifests that refer to one and are listed.
const MOST_REFERRERS: i64 = 10_000;

/// A manifest in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRow {
    /// The project.
    pub project: String,
    /// The repository's whole name.
    pub repository: String,
    /// Digest of its bytes.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// The manifest it says something about.
    pub subject: Option<String>,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Its annotations, as a JSON object.
    pub annotations: String,
    /// When it was pushed.
    pub pushed_at: DateTime<Utc>,
    /// Its length with everything it refers to.
    pub total_size: u64,
    /// Digests of the blobs it keeps.
    pub blobs: Vec<String>,
    /// Digests of the manifests it keeps.
    pub manifests: Vec<String>,
}

/// What names a manifest in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A tag.
    Tag(String),
    /// A digest.
    Digest(String),
}

fn read(row: &SqliteRow) -> Result<ManifestRow, sqlx::Error> {
    Ok(ManifestRow {
        project: row.try_get("project")?,
        repository: row.try_get("repository")?,
        digest: row.try_get("digest")?,
        media_type: row.try_get("media_type")?,
        size: size(row.try_get("size")?),
        subject: row.try_get("subject")?,
        artifact_type: row.try_get("artifact_type")?,
        annotations: row.try_get("annotations")?,
        pushed_at: time(row.try_get("pushed_at")?),
        total_size: size(row.try_get("total_size")?),
        blobs: Vec::new(),
        manifests: Vec::new(),
    })
}

impl Records {
    /// Records a manifest and lets a tag name it. Projects that are gone or going take none.
    ///
    /// # Errors
    /// The records cannot be written; then nothing was.
    pub async fn put_manifest(
        &self,
        row: ManifestRow,
        tag: Option<&str>,
    ) -> Result<(), RecordsError> {
        let failed = RecordsError::database;
        let action = "record a manifest";
        let mut transaction =
            self.write.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        insert(&mut transaction, &row).await.map_err(failed(action))?;
        if let Some(tag) = tag {
            unname(&mut transaction, &row.project, &row.repository, tag, &row.digest)
                .await
                .map_err(failed(action))?;
            sqlx::query(
                "INSERT INTO tags (project, repository, tag, digest, pushed_at)
                 SELECT id, $2, $3, $4, $5 FROM projects WHERE id = $1 AND deleting = 0
                 ON CONFLICT (project, repository, tag) DO UPDATE SET digest = excluded.digest, pushed_at = excluded.pushed_at",
            )
            .bind(&row.project)
            .bind(&row.repository)
            .bind(tag)
            .bind(&row.digest)
            .bind(micros(row.pushed_at))
            .execute(&mut *transaction)
            .await
            .map_err(failed(action))?;
        }
        transaction.commit().await.map_err(failed(action))
    }

    /// A manifest with what it keeps.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn manifest(
        &self,
        project: &str,
        repository: &str,
        reference: Reference,
    ) -> Result<Option<ManifestRow>, RecordsError> {
        let failed = RecordsError::database;
        let action = "read a manifest";
        let (query, name) = match reference {
            Reference::Digest(digest) => (
                "SELECT * FROM manifests WHERE project = $1 AND repository = $2 AND digest = $3",
                digest,
            ),
            Reference::Tag(tag) => (
                "SELECT manifests.* FROM tags JOIN manifests USING (project, repository, digest)
                 WHERE project = $1 AND repository = $2 AND tag = $3",
                tag,
            ),
        };
        let query = sqlx::query(query).bind(project).bind(repository).bind(name);
        let found = query.fetch_optional(&self.read).await.map_err(failed(action))?;
        let Some(mut found) = found.as_ref().map(read).transpose().map_err(failed(action))? else {
            return Ok(None);
        };
        let parts = sqlx::query(
            "SELECT part, is_manifest FROM manifest_parts WHERE project = $1 AND repository = $2 AND manifest = $3",
        )
        .bind(project)
        .bind(repository)
        .bind(&found.digest)
        .fetch_all(&self.read)
        .await
        .map_err(failed(action))?;
        for part in parts {
            let digest = part.try_get(0).map_err(failed(action))?;
            let list = match part.try_get(1).map_err(failed(action))? {
                true => &mut found.manifests,
                false => &mut found.blobs,
            };
            list.push(digest);
        }
        Ok(Some(found))
    }

    /// Deletes a manifest and the tags that name it. What it lists loses a name at this moment. False when there is none.
    ///
    /// # Errors
    /// The records cannot be written; then nothing was.
    pub async fn delete_manifest(
        &self,
        project: &str,
        repository: &str,
        digest: &str,
    ) -> Result<bool, RecordsError> {
        let failed = RecordsError::database;
        let action = "delete a manifest";
        let mut transaction =
            self.write.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        sqlx::query(
            "UPDATE manifests SET named_until = $4 WHERE project = $1 AND repository = $2 AND digest IN
             (SELECT part FROM manifest_parts WHERE project = $1 AND repository = $2 AND manifest = $3 AND is_manifest = 1)",
        )
        .bind(project)
        .bind(repository)
        .bind(digest)
        .bind(micros(now()))
        .execute(&mut *transaction)
        .await
        .map_err(failed(action))?;
        let mut deleted = 0;
        for statement in [
            "DELETE FROM tags WHERE project = $1 AND repository = $2 AND digest = $3",
            "DELETE FROM manifest_parts WHERE project = $1 AND repository = $2 AND manifest = $3",
            "DELETE FROM manifests WHERE project = $1 AND repository = $2 AND digest = $3",
        ] {
            let query = sqlx::query(statement).bind(project).bind(repository).bind(digest);
            let done = query.execute(&mut *transaction).await.map_err(failed(action))?;
            deleted = done.rows_affected();
        }
        transaction.commit().await.map_err(failed(action))?;
        Ok(deleted > 0)
    }

    /// Deletes a tag. False when there is none.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn delete_tag(
        &self,
        project: &str,
        repository: &str,
        tag: &str,
    ) -> Result<bool, RecordsError> {
        let failed = RecordsError::database;
        let action = "delete a tag";
        let mut transaction =
            self.write.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        unname(&mut transaction, project, repository, tag, "").await.map_err(failed(action))?;
        let query = "DELETE FROM tags WHERE project = $1 AND repository = $2 AND tag = $3";
        let query = sqlx::query(query).bind(project).bind(repository).bind(tag);
        let deleted = query.execute(&mut *transaction).await.map_err(failed(action))?;
        transaction.commit().await.map_err(failed(action))?;
        Ok(deleted.rows_affected() > 0)
    }

    /// Manifests of a project in their order, as repository and digest, at most `n`, after one of these.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn manifest_names(
        &self,
        project: &str,
        repository: &str,
        digest: &str,
        n: usize,
    ) -> Result<Vec<(String, String)>, RecordsError> {
        sqlx::query_as(
            "SELECT repository, digest FROM manifests WHERE project = $1 AND (repository, digest) > ($2, $3)
             ORDER BY repository, digest LIMIT $4",
        )
        .bind(project)
        .bind(repository)
        .bind(digest)
        .bind(i64::try_from(n).unwrap_or(i64::MAX))
        .fetch_all(&self.read)
        .await
        .map_err(RecordsError::database("list manifests"))
    }

    /// Tags of a repository in their order, at most `n`, after `last`.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn tags(
        &self,
        project: &str,
        repository: &str,
        n: usize,
        last: Option<&str>,
    ) -> Result<Vec<String>, RecordsError> {
        let query = "SELECT tag FROM tags WHERE project = $1 AND repository = $2 AND tag > $3 ORDER BY tag LIMIT $4";
        sqlx::query_scalar(query)
            .bind(project)
            .bind(repository)
            .bind(last.unwrap_or_default())
            .bind(i64::try_from(n).unwrap_or(i64::MAX))
            .fetch_all(&self.read)
            .await
            .map_err(RecordsError::database("list tags"))
    }

    /// Repositories of a project in their order, at most `n`, after `last`.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn repositories(
        &self,
        project: &str,
        n: usize,
        last: Option<&str>,
    ) -> Result<Vec<String>, RecordsError> {
        let query =
            "SELECT DISTINCT repository FROM manifests WHERE project = $1 AND repository > $2
            ORDER BY repository LIMIT $3";
        sqlx::query_scalar(query)
            .bind(project)
            .bind(last.unwrap_or_default())
            .bind(i64::try_from(n).unwrap_or(i64::MAX))
            .fetch_all(&self.read)
            .await
            .map_err(RecordsError::database("list repositories"))
    }

    /// Manifests that say something about another one.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn referrers(
        &self,
        project: &str,
        repository: &str,
        digest: &str,
        artifact_type: Option<&str>,
    ) -> Result<Vec<ManifestRow>, RecordsError> {
        sqlx::query(
            "SELECT * FROM manifests WHERE project = $1 AND repository = $2 AND subject = $3
             AND ($4 IS NULL OR artifact_type = $4) ORDER BY digest LIMIT $5",
        )
        .bind(project)
        .bind(repository)
        .bind(digest)
        .bind(artifact_type)
        .bind(MOST_REFERRERS)
        .fetch_all(&self.read)
        .await
        .and_then(|rows| rows.iter().map(read).collect())
        .map_err(RecordsError::database("list referrers"))
    }

    /// Whether a manifest of the project keeps a blob or manifest.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn blob_is_referenced(
        &self,
        project: &str,
        digest: &str,
    ) -> Result<bool, RecordsError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM manifest_parts WHERE project = $1 AND part = $2)",
        )
        .bind(project)
        .bind(digest)
        .fetch_one(&self.read)
        .await
        .map_err(RecordsError::database("find what refers to a blob"))
    }
}

/// Notes for the manifest that a tag names, unless that is `but`, that the tag is taken from it now.
async fn unname(
    transaction: &mut Transaction<'_, Sqlite>,
    project: &str,
    repository: &str,
    tag: &str,
    but: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE manifests SET named_until = $5 WHERE project = $1 AND repository = $2 AND digest =
         (SELECT digest FROM tags WHERE project = $1 AND repository = $2 AND tag = $3 AND digest <> $4)",
    )
    .bind(project)
    .bind(repository)
    .bind(tag)
    .bind(but)
    .bind(micros(now()))
    .execute(&mut **transaction)
    .await
    .map(|_| ())
}

async fn insert(
    transaction: &mut Transaction<'_, Sqlite>,
    row: &ManifestRow,
) -> Result<(), sqlx::Error> {
    let inserted = sqlx::query(
        "INSERT INTO manifests (project, repository, digest, media_type, size, total_size, subject, artifact_type, annotations, pushed_at)
         SELECT id, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM projects WHERE id = $1 AND deleting = 0
         ON CONFLICT (project, repository, digest) DO UPDATE SET pushed_at = excluded.pushed_at, media_type = excluded.media_type",
    )
    .bind(&row.project)
    .bind(&row.repository)
    .bind(&row.digest)
    .bind(&row.media_type)
    .bind(stored(row.size))
    .bind(stored(row.total_size))
    .bind(&row.subject)
    .bind(&row.artifact_type)
    .bind(&row.annotations)
    .bind(micros(row.pushed_at))
    .execute(&mut **transaction)
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(sqlx::Error::RowNotFound);
    }
    let parts = row.blobs.iter().map(|blob| (blob, false));
    let parts = parts.chain(row.manifests.iter().map(|manifest| (manifest, true)));
    for (part, is_manifest) in parts {
        sqlx::query(
            "INSERT INTO manifest_parts (project, repository, manifest, part, is_manifest) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(&row.project)
        .bind(&row.repository)
        .bind(&row.digest)
        .bind(part)
        .bind(is_manifest)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
