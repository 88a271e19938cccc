//! What was built in a window of time, project by project.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::page::{Asked, Bounds, Page, PageRequest};
use crate::records::Records;
use crate::row::{duration, micros, size};

const PAGES: Bounds = Bounds { default: 50, most: 250 };

/// What one project built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectUsage {
    /// The project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Size of its builder.
    pub hardware: i32,
    /// Builds that were created in the window.
    pub builds: u64,
    /// How long those that have ended took together.
    pub duration: Duration,
    /// What the cache saved in them.
    pub saved: Duration,
}

/// A project without its builds.
const PROJECT: &str = "SELECT id, name, hardware, created_at FROM projects";
/// Sums of the builds of project `$1`; the window is [`$2`, `$3`). They are read one after the other in the order of their table:
/// to group them by project SQLite would gather all of them in memory first.
const SUMS: &str = "SELECT count(*) AS builds,
    coalesce(sum(max(finished_at - coalesce(started_at, created_at), 0)), 0) AS took, coalesce(sum(saved), 0) AS saved
    FROM builds WHERE project = $1 AND created_at >= $2 AND created_at < $3";

/// A moment from which on builds count, and one from which on they do not any more.
type Window = (DateTime<Utc>, DateTime<Utc>);

impl Records {
    /// What a project built in a window, its end excluded. None when there is no such project.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn project_usage(
        &self,
        project: &str,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Result<Option<ProjectUsage>, RecordsError> {
        let query = format!("{PROJECT} WHERE id = $1");
        let found = async {
            let row = sqlx::query(&query).bind(project).fetch_optional(&self.read).await?;
            match row {
                Some(row) => Ok(Some(self.summed_up(&row, (start, end)).await?.1)),
                None => Ok(None),
            }
        };
        found.await.map_err(RecordsError::database("sum up a project's builds"))
    }

    /// What the project of a row built, and when the project was made.
    async fn summed_up(
        &self,
        project: &SqliteRow,
        (start, end): Window,
    ) -> Result<(i64, ProjectUsage), sqlx::Error> {
        let id: String = project.try_get("id")?;
        let sums = sqlx::query(SUMS).bind(&id).bind(micros(start)).bind(micros(end));
        let sums = sums.fetch_one(&self.read).await?;
        let usage = ProjectUsage {
            project: id,
            name: project.try_get("name")?,
            hardware: project.try_get("hardware")?,
            builds: size(sums.try_get("builds")?),
            duration: Duration::from_micros(size(sums.try_get("took")?)),
            saved: duration(sums.try_get("saved")?),
        };
        Ok((project.try_get("created_at")?, usage))
    }

    /// What the projects of an organization built in a window, newest project first.
    ///
    /// # Errors
    /// A page request that makes no sense, or the records cannot be read.
    pub async fn organization_usage(
        &self,
        organization: &str,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
        request: PageRequest<'_>,
    ) -> Result<Page<ProjectUsage>, RecordsError> {
        let list = format!("usage:{organization}:{}:{}", micros(start), micros(end));
        let asked = Asked::read(request, list, &PAGES)?;
        let (at, id) = asked.after.clone().unwrap_or((i64::MAX, String::new()));
        let query = format!(
            "{PROJECT} WHERE organization = $1 AND deleting = 0 AND (created_at, id) < ($2, $3)
             ORDER BY created_at DESC, id DESC LIMIT $4"
        );
        let projects = sqlx::query(&query).bind(organization).bind(at).bind(id).bind(asked.limit());
        let found = async {
            let mut found = Vec::new();
            for project in projects.fetch_all(&self.read).await? {
                found.push(self.summed_up(&project, (start, end)).await?);
            }
            Ok(found)
        };
        let found: Vec<(i64, ProjectUsage)> =
            found.await.map_err(RecordsError::database("sum up an organization's builds"))?;
        let page = asked.page(found, |(at, usage)| (*at, usage.project.clone()));
        let items = page.items.into_iter().map(|(_, usage)| usage).collect();
        Ok(Page { items, next: page.next })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn builds_are_summed_up_without_being_gathered() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        let plan = async |query: &str| {
            let query = format!("EXPLAIN QUERY PLAN {query}");
            let rows = sqlx::query(&query).fetch_all(&records.read).await.unwrap();
            let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            steps.join("; ")
        };
        let found = plan(SUMS).await;
        assert!(found.contains("SEARCH builds") && !found.contains("TEMP"), "{found}");
        let grouped = plan(
            "SELECT count(builds.id) FROM projects LEFT JOIN builds ON builds.project = projects.id
             GROUP BY projects.created_at",
        );
        assert!(grouped.await.contains("TEMP"), "control: this one is gathered");
    }
}
