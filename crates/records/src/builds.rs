//! Builds. A build ends once; nothing changes a state that is an end.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::page::{Asked, Bounds, Page, PageRequest};
use crate::records::Records;
use crate::row::{count, duration, micros, now, time, written};

const PAGES: Bounds = Bounds { default: 30, most: 100 };

/// How a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuildStatus {
    /// It has not ended.
    Running,
    /// It ended with a failure of its own.
    Failed,
    /// It ended well.
    Success,
    /// Its client or its builder was lost.
    Error,
    /// Somebody wanted it to end.
    Canceled,
}

impl BuildStatus {
    /// As it is stored.
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Running => 1,
            Self::Failed => 2,
            Self::Success => 3,
            Self::Error => 4,
            Self::Canceled => 5,
        }
    }

    const fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Running,
            2 => Self::Failed,
            3 => Self::Success,
            4 => Self::Error,
            5 => Self::Canceled,
            _ => return None,
        })
    }
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its id.
    pub id: String,
    /// Its project.
    pub project: String,
    /// The project's organization.
    pub organization: String,
    /// The token it was begun with; a JWT has none.
    pub token: Option<String>,
    /// How it stands.
    pub status: BuildStatus,
    /// Why it did not end well.
    pub error: Option<String>,
    /// What was run, by Depot's number.
    pub command: i32,
    /// What the client said of it, as JSON that means nothing here.
    pub options: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When its builder was there.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Steps that the cache answered.
    pub cached_steps: u32,
    /// Steps that completed or run.
    pub total_steps: u32,
    /// What the cache saved.
    pub saved: Duration,
    /// The level of isolation of its builder; empty before it has one.
    pub isolation: String,
}

/// A build to create.
#[derive(Debug, Clone)]
pub struct NewBuild {
    /// Its id, when it has one already.
    pub id: Option<String>,
    /// Its project.
    pub project: String,
    /// The project's organization.
    pub organization: String,
    /// The token it is begun with.
    pub token: Option<String>,
    /// What is run.
    pub command: i32,
    /// What the client says of it.
    pub options: String,
}

pub(crate) fn read(row: &SqliteRow) -> Result<Build, sqlx::Error> {
    let status: i64 = row.try_get("status")?;
    let status = BuildStatus::from_number(status)
        .ok_or_else(|| sqlx::Error::Decode(format!("unknown state of a build: {status}").into()))?;
    let (started, finished): (Option<i64>, Option<i64>) =
        (row.try_get("started_at")?, row.try_get("finished_at")?);
    Ok(Build {
        id: row.try_get("id")?,
        project: row.try_get("project")?,
        organization: row.try_get("organization")?,
        token: row.try_get("token")?,
        status,
        error: row.try_get("error")?,
        command: row.try_get("command")?,
        options: row.try_get("options")?,
        created_at: time(row.try_get("created_at")?),
        started_at: started.map(time),
        finished_at: finished.map(time),
        cached_steps: count(row.try_get("cached_steps")?),
        total_steps: count(row.try_get("total_steps")?),
        saved: duration(row.try_get("saved")?),
        isolation: row.try_get("isolation")?,
    })
}

impl Records {
    /// Creates a running build.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn create_build(&self, new: NewBuild) -> Result<Build, RecordsError> {
        let id = new.id.unwrap_or_else(crate::id::long);
        sqlx::query(
            "INSERT INTO builds (id, project, organization, token, status, command, options, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *",
        )
        .bind(id)
        .bind(new.project)
        .bind(new.organization)
        .bind(new.token)
        .bind(BuildStatus::Running.number())
        .bind(new.command)
        .bind(new.options)
        .bind(micros(now()))
        .fetch_all(&self.write)
        .await
        .and_then(|rows| read(&written(rows).ok_or(sqlx::Error::RowNotFound)?))
        .map_err(RecordsError::database("create a build"))
    }

    /// A build.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn build(&self, id: &str) -> Result<Option<Build>, RecordsError> {
        sqlx::query("SELECT * FROM builds WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.read)
            .await
            .and_then(|row| row.as_ref().map(read).transpose())
            .map_err(RecordsError::database("read a build"))
    }

    /// The builds of a project, newest first.
    ///
    /// # Errors
    /// A page request that makes no sense, or the records cannot be read.
    pub async fn builds(
        &self,
        project: &str,
        request: PageRequest<'_>,
    ) -> Result<Page<Build>, RecordsError> {
        let asked = Asked::read(request, format!("builds:{project}"), &PAGES)?;
        let (at, id) = asked.after.clone().unwrap_or((i64::MAX, String::new()));
        let rows = sqlx::query(
            "SELECT * FROM builds WHERE project = $1 AND (created_at, id) < ($2, $3)
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .bind(project)
        .bind(at)
        .bind(id)
        .bind(asked.limit())
        .fetch_all(&self.read)
        .await;
        let builds: Vec<Build> = rows
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list builds"))?;
        Ok(asked.page(builds, |build| (micros(build.created_at), build.id.clone())))
    }

    /// All builds that run.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn running_builds(&self) -> Result<Vec<Build>, RecordsError> {
        let rows = sqlx::query("SELECT * FROM builds WHERE status = 1").fetch_all(&self.read).await;
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list running builds"))
    }

    /// The builds of a project that run.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn running_builds_of(&self, project: &str) -> Result<Vec<Build>, RecordsError> {
        let query = sqlx::query("SELECT * FROM builds WHERE status = 1 AND project = $1");
        let rows = query.bind(project).fetch_all(&self.read).await;
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list running builds"))
    }

    /// Notes when a build got its builder, and how that is isolated; the first time counts.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn start_build(
        &self,
        id: &str,
        at: DateTime<Utc>,
        isolation: &str,
    ) -> Result<(), RecordsError> {
        let query = "UPDATE builds SET started_at = $2, isolation = $3 WHERE id = $1 AND started_at IS NULL";
        let query = sqlx::query(query).bind(id).bind(micros(at)).bind(isolation);
        let done = query.execute(&self.stream).await;
        done.map(|_| ()).map_err(RecordsError::database("note the start of a build"))
    }

    /// Ends a build. False when it has ended already; then nothing changes. Its steps that run are ended with it.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn finish_build(
        &self,
        id: &str,
        status: BuildStatus,
        error: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<bool, RecordsError> {
        let failed = RecordsError::database;
        let action = "note the end of a build";
        let mut transaction =
            self.write.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        let ended = sqlx::query(
            "UPDATE builds SET status = $2, error = $3, finished_at = max($4, created_at) WHERE id = $1 AND status = 1",
        )
        .bind(id)
        .bind(status.number())
        .bind(error)
        .bind(micros(at))
        .execute(&mut *transaction)
        .await
        .map_err(failed(action))?
        .rows_affected()
            > 0;
        if ended {
            sqlx::query(
                "UPDATE steps SET completed_at = max($2, started_at), error = coalesce(error, 'the build ended while this step ran')
                 WHERE build = $1 AND completed_at IS NULL",
            )
            .bind(id)
            .bind(micros(at))
            .execute(&mut *transaction)
            .await
            .map_err(failed(action))?;
        }
        transaction.commit().await.map_err(failed(action))?;
        if ended {
            self.logs.close_build(id);
        }
        Ok(ended)
    }
}
