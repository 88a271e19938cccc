//! The end of old builds: their rows and their logs go, a few at a time.
//!
//! A build that runs, has ended a moment ago or is shared never goes by itself.

use chrono::{DateTime, Utc};

use crate::error::RecordsError;
use crate::records::Records;
use crate::removal::{Shared, remove_build};
use crate::row::micros;

/// Builds that go at a time: other writers get their turn in between.
const BATCH: i64 = 50;
const HOUR: i64 = 3600 * 1_000_000;
const DAY: i64 = 24 * HOUR;

/// How long builds are kept; 0 is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepBuilds {
    /// So many of each project, the newest.
    pub builds: u32,
    /// So many days after their end.
    pub days: u32,
}

/// What went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Builds.
    pub builds: u64,
    /// What their logs took of the disk.
    pub log_bytes: u64,
}

/// What can go at all. The end of a build may be reported before the last of its steps.
const MAY_GO: &str = "status <> 1 AND finished_at < $2
    AND NOT EXISTS (SELECT 1 FROM shares WHERE shares.build = builds.id)";

impl Records {
    /// Removes ended builds that are not to be kept any longer, with their logs. Shared builds stay.
    ///
    /// # Errors
    /// The records or the logs cannot be changed; what went before is gone, and another call takes up the rest.
    pub async fn expire(
        &self,
        keep: KeepBuilds,
        now: DateTime<Utc>,
    ) -> Result<Expired, RecordsError> {
        let mut gone = Expired::default();
        let recent = micros(now).saturating_sub(HOUR);
        if keep.days > 0 {
            let old = micros(now).saturating_sub(i64::from(keep.days).saturating_mul(DAY));
            let query = format!(
                "SELECT project, id FROM builds WHERE finished_at < $1 AND {MAY_GO} ORDER BY finished_at LIMIT $3"
            );
            while self.expire_batch(&query, old, recent, None, &mut gone).await? {}
        }
        if keep.builds > 0 {
            let query = format!(
                "SELECT project, id FROM builds WHERE project = $4 AND (created_at, id) <=
                 (SELECT created_at, id FROM builds WHERE project = $4 ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET $1)
                 AND {MAY_GO} LIMIT $3"
            );
            let kept = i64::from(keep.builds);
            for project in self.projects_with_builds().await? {
                while self.expire_batch(&query, kept, recent, Some(&project), &mut gone).await? {}
            }
        }
        Ok(gone)
    }

    async fn projects_with_builds(&self) -> Result<Vec<String>, RecordsError> {
        sqlx::query_scalar(
            "SELECT id FROM projects WHERE EXISTS (SELECT 1 FROM builds WHERE builds.project = projects.id)",
        )
        .fetch_all(&self.read)
        .await
        .map_err(RecordsError::database("list projects with builds"))
    }

    /// Removes some of the builds that a query finds. False when there are none left that can go.
    async fn expire_batch(
        &self,
        query: &str,
        bound: i64,
        recent: i64,
        project: Option<&str>,
        gone: &mut Expired,
    ) -> Result<bool, RecordsError> {
        let failed = RecordsError::database;
        let action = "remove old builds";
        let builds: Vec<(String, String)> = sqlx::query_as(query)
            .bind(bound)
            .bind(recent)
            .bind(BATCH)
            .bind(project)
            .fetch_all(&self.read)
            .await
            .map_err(failed(action))?;
        if builds.is_empty() {
            return Ok(false);
        }
        let mut transaction =
            self.stream.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        let (mut removed, mut log_bytes) = (0, 0);
        // The logs go before the rows are gone for good: whoever is interrupted here finds the rows again, and nobody would
        // look for the logs. Nobody can share a build meanwhile.
        for (project, build) in &builds {
            let removed_now = remove_build(&mut transaction, build, Shared::Stay).await;
            if removed_now.map_err(failed(action))? {
                log_bytes += self.logs.remove_build(project, build).await?;
                removed += 1;
            }
        }
        transaction.commit().await.map_err(failed(action))?;
        gone.builds += removed;
        gone.log_bytes += log_bytes;
        Ok(removed > 0)
    }
}
