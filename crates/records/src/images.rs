//! Images of a project as people list them: tags, newest first.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::page::{Asked, Bounds, Page, PageRequest};
use crate::records::Records;
use crate::row::{micros, size, time};

const PAGES: Bounds = Bounds { default: 100, most: 100 };

/// A tag and what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The repository's whole name.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// Digest of the manifest.
    pub digest: String,
    /// When the tag was pushed.
    pub pushed_at: DateTime<Utc>,
    /// Bytes of the image with everything it refers to.
    pub size_bytes: u64,
}

fn read(row: &SqliteRow) -> Result<ImageRow, sqlx::Error> {
    Ok(ImageRow {
        repository: row.try_get("repository")?,
        tag: row.try_get("tag")?,
        digest: row.try_get("digest")?,
        pushed_at: time(row.try_get("tagged_at")?),
        size_bytes: size(row.try_get("total_size")?),
    })
}

impl Records {
    /// The images of a project, newest first.
    ///
    /// # Errors
    /// A page request that makes no sense, or the records cannot be read.
    pub async fn images(
        &self,
        project: &str,
        request: PageRequest<'_>,
    ) -> Result<Page<ImageRow>, RecordsError> {
        let asked = Asked::read(request, format!("images:{project}"), &PAGES)?;
        let (at, name) = asked.after.clone().unwrap_or((i64::MAX, String::new()));
        // Repositories and tags hold no blank.
        let (repository, tag) = name.split_once(' ').unwrap_or_default();
        let rows = sqlx::query(
            "SELECT tags.repository, tag, digest, tags.pushed_at AS tagged_at, total_size
             FROM tags JOIN manifests USING (project, repository, digest)
             WHERE project = $1 AND (tags.pushed_at, tags.repository, tag) < ($2, $3, $4)
             ORDER BY tags.pushed_at DESC, tags.repository DESC, tag DESC LIMIT $5",
        )
        .bind(project)
        .bind(at)
        .bind(repository)
        .bind(tag)
        .bind(asked.limit())
        .fetch_all(&self.read)
        .await;
        let images: Vec<ImageRow> = rows
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list images"))?;
        Ok(asked.page(images, |image| {
            (micros(image.pushed_at), format!("{} {}", image.repository, image.tag))
        }))
    }

    /// Bytes of a project's images, what several share counted for each manifest that keeps it.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn registry_bytes(&self, project: &str) -> Result<u64, RecordsError> {
        let query = "SELECT coalesce(sum(total_size), 0) FROM manifests WHERE project = $1
            AND digest IN (SELECT digest FROM tags WHERE project = $1)";
        let bytes: Result<i64, _> =
            sqlx::query_scalar(query).bind(project).fetch_one(&self.read).await;
        bytes.map(size).map_err(RecordsError::database("measure a project's images"))
    }
}
