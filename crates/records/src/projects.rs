//! Projects: the unit of isolation.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::page::{Asked, Bounds, Page, PageRequest};
use crate::records::Records;
use crate::row::{count, micros, now, time, written};

const PAGES: Bounds = Bounds { default: 50, most: 250 };
/// Numbers of id ranges there are: as many as the fleet has, for every level of isolation.
const SLOTS: i64 = 10_000;

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// Its organization.
    pub organization: String,
    /// Its name.
    pub name: String,
    /// Its region, which is kept and means nothing here.
    pub region: String,
    /// How much cache is kept.
    pub cache: CachePolicy,
    /// Size of its builder, by Depot's number; 0 is the default.
    pub hardware: i32,
    /// Number of its id range, for as long as it exists.
    pub slot: u32,
    /// Whether it is being deleted.
    pub state: ProjectState,
    /// Whether its cache is still to be removed.
    pub reset_pending: bool,
    /// How its builds are walled in.
    pub walls: Walls,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// What a project says about its walls, as text that means nothing here; empty where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walls {
    /// The level of isolation that its builds have at least.
    pub isolation: String,
    /// What its builds may reach.
    pub network_policy: String,
    /// What its builds and their steps may use.
    pub limits: String,
}

/// What changes in a project's walls; nothing where there is none, and an empty text takes back what was said.
#[derive(Debug, Clone, Default)]
pub struct WallsChange {
    /// The level of isolation.
    pub isolation: Option<String>,
    /// The network policy.
    pub network_policy: Option<String>,
    /// The limits.
    pub limits: Option<String>,
}

/// Whether a project can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectState {
    /// It can.
    Active,
    /// What it has is being removed.
    Deleting,
}

/// How much cache a project keeps; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CachePolicy {
    /// In GB.
    pub keep_gb: i32,
    /// In days since it was last used.
    pub keep_days: i32,
}

/// A project to create.
#[derive(Debug, Clone)]
pub struct NewProject {
    /// Its organization.
    pub organization: String,
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// How much cache is kept.
    pub cache: CachePolicy,
    /// Size of its builder.
    pub hardware: i32,
}

/// What changes in a project; nothing where there is none.
#[derive(Debug, Clone, Default)]
pub struct ProjectChange {
    /// Its name.
    pub name: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// How much cache is kept, as a whole.
    pub cache: Option<CachePolicy>,
    /// Size of its builder.
    pub hardware: Option<i32>,
}

pub(crate) fn read(row: &SqliteRow) -> Result<Project, sqlx::Error> {
    let deleting: bool = row.try_get("deleting")?;
    Ok(Project {
        id: row.try_get("id")?,
        organization: row.try_get("organization")?,
        name: row.try_get("name")?,
        region: row.try_get("region")?,
        cache: CachePolicy {
            keep_gb: row.try_get("keep_gb")?,
            keep_days: row.try_get("keep_days")?,
        },
        hardware: row.try_get("hardware")?,
        slot: count(row.try_get("slot")?),
        state: if deleting { ProjectState::Deleting } else { ProjectState::Active },
        reset_pending: row.try_get("reset_pending")?,
        walls: Walls {
            isolation: row.try_get("isolation")?,
            network_policy: row.try_get("network_policy")?,
            limits: row.try_get("limits")?,
        },
        created_at: time(row.try_get("created_at")?),
    })
}

impl Records {
    /// Creates a project and gives it an id range.
    ///
    /// # Errors
    /// No range is left, or the records cannot be written.
    pub async fn create_project(&self, new: NewProject) -> Result<Project, RecordsError> {
        // The lowest free number: 0, or one after a taken one that is not taken itself.
        const SLOT: &str =
            "SELECT min(n) FROM (SELECT 0 AS n UNION ALL SELECT slot + 1 FROM projects)
            WHERE n NOT IN (SELECT slot FROM projects)";
        let failed = RecordsError::database;
        let action = "create a project";
        let mut transaction =
            self.write.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        let slot: i64 =
            sqlx::query_scalar(SLOT).fetch_one(&mut *transaction).await.map_err(failed(action))?;
        if slot >= SLOTS {
            return Err(RecordsError::NoSlot);
        }
        let NewProject { organization, name, region, cache, hardware } = new;
        let (id, created_at) = (crate::id::short(), now());
        sqlx::query(
            "INSERT INTO projects (id, organization, name, region, keep_gb, keep_days, hardware, slot, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&id)
        .bind(&organization)
        .bind(&name)
        .bind(&region)
        .bind(cache.keep_gb)
        .bind(cache.keep_days)
        .bind(hardware)
        .bind(slot)
        .bind(micros(created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed(action))?;
        transaction.commit().await.map_err(failed(action))?;
        let (state, slot) = (ProjectState::Active, count(slot));
        Ok(Project {
            id,
            organization,
            name,
            region,
            cache,
            hardware,
            slot,
            state,
            reset_pending: false,
            walls: Walls::default(),
            created_at,
        })
    }

    /// A project, also one that is being deleted.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn project(&self, id: &str) -> Result<Option<Project>, RecordsError> {
        sqlx::query("SELECT * FROM projects WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.read)
            .await
            .and_then(|row| row.as_ref().map(read).transpose())
            .map_err(RecordsError::database("read a project"))
    }

    /// The active projects of an organization, newest first.
    ///
    /// # Errors
    /// A page request that makes no sense, or the records cannot be read.
    pub async fn projects(
        &self,
        organization: &str,
        region: Option<&str>,
        request: PageRequest<'_>,
    ) -> Result<Page<Project>, RecordsError> {
        let list = format!("projects:{organization}:{}", region.unwrap_or_default());
        let asked = Asked::read(request, list, &PAGES)?;
        let (at, id) = asked.after.clone().unwrap_or((i64::MAX, String::new()));
        let rows = sqlx::query(
            "SELECT * FROM projects WHERE organization = $1 AND deleting = 0 AND (created_at, id) < ($2, $3)
             AND ($4 IS NULL OR region = $4) ORDER BY created_at DESC, id DESC LIMIT $5",
        )
        .bind(organization)
        .bind(at)
        .bind(id)
        .bind(region)
        .bind(asked.limit())
        .fetch_all(&self.read)
        .await;
        let projects: Vec<Project> = rows
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list projects"))?;
        Ok(asked.page(projects, |project| (micros(project.created_at), project.id.clone())))
    }

    /// Changes a project. None when there is no active one.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn update_project(
        &self,
        id: &str,
        change: ProjectChange,
    ) -> Result<Option<Project>, RecordsError> {
        sqlx::query(
            "UPDATE projects SET name = coalesce($2, name), region = coalesce($3, region),
             keep_gb = coalesce($4, keep_gb), keep_days = coalesce($5, keep_days),
             hardware = coalesce($6, hardware) WHERE id = $1 AND deleting = 0 RETURNING *",
        )
        .bind(id)
        .bind(change.name)
        .bind(change.region)
        .bind(change.cache.map(|cache| cache.keep_gb))
        .bind(change.cache.map(|cache| cache.keep_days))
        .bind(change.hardware)
        .fetch_all(&self.write)
        .await
        .and_then(|rows| written(rows).as_ref().map(read).transpose())
        .map_err(RecordsError::database("change a project"))
    }
    /// Changes a project's walls. None when there is no active one.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn update_walls(
        &self,
        id: &str,
        change: WallsChange,
    ) -> Result<Option<Project>, RecordsError> {
        sqlx::query(
            "UPDATE projects SET isolation = coalesce($2, isolation),
             network_policy = coalesce($3, network_policy), limits = coalesce($4, limits)
             WHERE id = $1 AND deleting = 0 RETURNING *",
        )
        .bind(id)
        .bind(change.isolation)
        .bind(change.network_policy)
        .bind(change.limits)
        .fetch_all(&self.write)
        .await
        .and_then(|rows| written(rows).as_ref().map(read).transpose())
        .map_err(RecordsError::database("change a project's walls"))
    }
}
