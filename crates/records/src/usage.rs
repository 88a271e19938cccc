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

/// Sums of a project's builds; the window is [`$2`, `$3`).
const SUMS: &str = "SELECT projects.id, projects.name, projects.hardware, projects.created_at AS made_at,
    count(builds.id) AS builds, coalesce(sum(max(finished_at - coalesce(started_at, builds.created_at), 0)), 0) AS took,
    coalesce(sum(saved), 0) AS saved
    FROM projects LEFT JOIN builds ON builds.project = projects.id AND builds.created_at >= $2 AND builds.created_at < $3";

fn read(row: &SqliteRow) -> Result<(i64, ProjectUsage), sqlx::Error> {
    let took: i64 = row.try_get("took")?;
    let usage = ProjectUsage {
        project: row.try_get("id")?,
        name: row.try_get("name")?,
        hardware: row.try_get("hardware")?,
        builds: size(row.try_get("builds")?),
        duration: Duration::from_micros(size(took)),
        saved: duration(row.try_get("saved")?),
    };
    Ok((row.try_get("made_at")?, usage))
}

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
        let query = format!("{SUMS} WHERE projects.id = $1 GROUP BY projects.id");
        let row = sqlx::query(&query)
            .bind(project)
            .bind(micros(start))
            .bind(micros(end))
            .fetch_optional(&self.read)
            .await;
        row.and_then(|row| row.as_ref().map(read).transpose())
            .map(|found| found.map(|(_, usage)| usage))
            .map_err(RecordsError::database("sum up a project's builds"))
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
            "{SUMS} WHERE projects.organization = $1 AND deleting = 0 AND (projects.created_at, projects.id) < ($4, $5)
             GROUP BY projects.id ORDER BY projects.created_at DESC, projects.id DESC LIMIT $6"
        );
        let rows = sqlx::query(&query)
            .bind(organization)
            .bind(micros(start))
            .bind(micros(end))
            .bind(at)
            .bind(id)
            .bind(asked.limit())
            .fetch_all(&self.read)
            .await;
        let found: Vec<(i64, ProjectUsage)> = rows
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("sum up an organization's builds"))?;
        let page = asked.page(found, |(at, usage)| (*at, usage.project.clone()));
        let items = page.items.into_iter().map(|(_, usage)| usage).collect();
        Ok(Page { items, next: page.next })
    }
}
