//! Steps of builds, in the order of their first appearance.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::error::RecordsError;
use crate::page::{Asked, Bounds, Page, PageRequest};
use crate::records::Records;
use crate::row::{count, duration, micros, nanos, time};

const PAGES: Bounds = Bounds { default: 1000, most: 10_000 };

/// What is known of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepUpdate {
    /// Its digest, which names it in its build.
    pub digest: String,
    /// Its name.
    pub name: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it ended, if it has.
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether the cache answered it.
    pub cached: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What the cache saved.
    pub saved: Duration,
    /// Digests of the steps it uses.
    pub inputs: Vec<String>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its place in the build, from 0.
    pub ordinal: u32,
    /// Its digest.
    pub digest: String,
    /// Its name.
    pub name: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it ended, if it has.
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether the cache answered it.
    pub cached: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What the cache saved.
    pub saved: Duration,
    /// Whether it wrote anything.
    pub has_logs: bool,
    /// Digests of the steps it uses.
    pub inputs: Vec<String>,
}

fn read(row: &SqliteRow) -> Result<Step, sqlx::Error> {
    let completed: Option<i64> = row.try_get("completed_at")?;
    let inputs: String = row.try_get("inputs")?;
    Ok(Step {
        ordinal: count(row.try_get("ordinal")?),
        digest: row.try_get("digest")?,
        name: row.try_get("name")?,
        started_at: time(row.try_get("started_at")?),
        completed_at: completed.map(time),
        cached: row.try_get("cached")?,
        error: row.try_get("error")?,
        saved: duration(row.try_get("saved")?),
        has_logs: row.try_get("has_logs")?,
        inputs: inputs.split(' ').filter(|text| !text.is_empty()).map(str::to_owned).collect(),
    })
}

impl Records {
    /// Records what is known of some steps. A step is told by its digest; what is said later counts, except that a step that
    /// ended stays ended. Steps of unknown builds are ignored.
    ///
    /// # Errors
    /// The records cannot be written; then none of the steps was.
    pub async fn record_steps(
        &self,
        build: &str,
        steps: &[StepUpdate],
    ) -> Result<(), RecordsError> {
        let failed = RecordsError::database;
        let action = "record steps";
        let mut transaction =
            self.stream.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        for step in steps {
            record(&mut transaction, build, step).await.map_err(failed(action))?;
        }
        sqlx::query(
            "UPDATE builds SET (total_steps, cached_steps, saved) =
             (SELECT count(*), coalesce(sum(cached), 0), coalesce(sum(saved), 0) FROM steps WHERE build = $1)
             WHERE id = $1",
        )
        .bind(build)
        .execute(&mut *transaction)
        .await
        .map_err(failed(action))?;
        transaction.commit().await.map_err(failed(action))
    }

    /// The steps of a build, in the order of their first appearance.
    ///
    /// # Errors
    /// A page request that makes no sense, or the records cannot be read.
    pub async fn steps(
        &self,
        build: &str,
        request: PageRequest<'_>,
    ) -> Result<Page<Step>, RecordsError> {
        let asked = Asked::read(request, format!("steps:{build}"), &PAGES)?;
        let after = asked.after.as_ref().map_or(-1, |(ordinal, _)| *ordinal);
        let query =
            "SELECT * FROM steps WHERE build = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3";
        let query = sqlx::query(query).bind(build).bind(after).bind(asked.limit());
        let rows = query.fetch_all(&self.read).await;
        let steps: Vec<Step> = rows
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list steps"))?;
        Ok(asked.page(steps, |step| (i64::from(step.ordinal), String::new())))
    }

    /// A step by its place.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn step(&self, build: &str, ordinal: u32) -> Result<Option<Step>, RecordsError> {
        let query = sqlx::query("SELECT * FROM steps WHERE build = $1 AND ordinal = $2");
        let row = query.bind(build).bind(ordinal).fetch_optional(&self.read).await;
        row.and_then(|row| row.as_ref().map(read).transpose())
            .map_err(RecordsError::database("read a step"))
    }

    /// A step by its digest.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn step_by_digest(
        &self,
        build: &str,
        digest: &str,
    ) -> Result<Option<Step>, RecordsError> {
        let query = sqlx::query("SELECT * FROM steps WHERE build = $1 AND digest = $2");
        let row = query.bind(build).bind(digest).fetch_optional(&self.read).await;
        row.and_then(|row| row.as_ref().map(read).transpose())
            .map_err(RecordsError::database("read a step"))
    }
}

async fn record(
    transaction: &mut Transaction<'_, Sqlite>,
    build: &str,
    step: &StepUpdate,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO steps (build, ordinal, project, digest, name, started_at, completed_at, cached, error, saved, inputs)
         SELECT id, (SELECT coalesce(max(ordinal) + 1, 0) FROM steps WHERE build = $1), project,
                $2, $3, $4, $5, $6, $7, $8, $9 FROM builds WHERE id = $1
         ON CONFLICT (build, digest) DO UPDATE SET name = excluded.name, started_at = excluded.started_at,
             completed_at = excluded.completed_at, cached = excluded.cached, error = excluded.error,
             saved = excluded.saved, inputs = excluded.inputs
         WHERE excluded.completed_at IS NOT NULL OR steps.completed_at IS NULL",
    )
    .bind(build)
    .bind(&step.digest)
    .bind(&step.name)
    .bind(micros(step.started_at))
    .bind(step.completed_at.map(micros))
    .bind(step.cached)
    .bind(&step.error)
    .bind(nanos(step.saved))
    .bind(step.inputs.join(" "))
    .execute(&mut **transaction)
    .await
    .map(|_| ())
}
