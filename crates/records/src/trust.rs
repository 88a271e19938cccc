//! Trust policies: which jobs of CI providers a project trusts.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::projects::{self, Project};
use crate::records::Records;
use crate::row::{micros, now};

/// What a job belongs to, as its provider names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Provider {
    /// GitHub Actions.
    GitHub {
        /// Owner of the repository.
        owner: String,
        /// The repository, without its owner.
        repository: String,
    },
    /// CircleCI.
    CircleCi {
        /// UUID of the organization.
        organization: String,
        /// UUID of the project.
        project: String,
    },
    /// Buildkite.
    Buildkite {
        /// Slug of the organization.
        organization: String,
        /// Slug of the pipeline.
        pipeline: String,
    },
}

impl Provider {
    fn parts(&self) -> (&'static str, &str, &str) {
        match self {
            Self::GitHub { owner, repository } => ("github", owner, repository),
            Self::CircleCi { organization, project } => ("circleci", organization, project),
            Self::Buildkite { organization, pipeline } => ("buildkite", organization, pipeline),
        }
    }

    fn from_parts(provider: &str, owner: String, name: String) -> Option<Self> {
        Some(match provider {
            "github" => Self::GitHub { owner, repository: name },
            "circleci" => Self::CircleCi { organization: owner, project: name },
            "buildkite" => Self::Buildkite { organization: owner, pipeline: name },
            _ => return None,
        })
    }
}

/// A project's trust in something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    /// Its id.
    pub id: String,
    /// The project.
    pub project: String,
    /// What it trusts.
    pub provider: Provider,
}

fn read(row: &SqliteRow) -> Result<TrustPolicy, sqlx::Error> {
    let provider: String = row.try_get("provider")?;
    let (owner, name) = (row.try_get("owner")?, row.try_get("name")?);
    let found = Provider::from_parts(&provider, owner, name);
    let unknown = || sqlx::Error::Decode(format!("unknown provider {provider:?}").into());
    let provider = found.ok_or_else(unknown)?;
    Ok(TrustPolicy { id: row.try_get("id")?, project: row.try_get("project")?, provider })
}

impl Records {
    /// Lets a project trust something. What it trusts already is returned as it is.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn add_trust_policy(
        &self,
        project: &str,
        provider: Provider,
    ) -> Result<TrustPolicy, RecordsError> {
        let known = self.trust_policies(project).await?;
        if let Some(known) = known.into_iter().find(|policy| policy.provider == provider) {
            return Ok(known);
        }
        let id = crate::id::long();
        let (kind, owner, name) = provider.parts();
        sqlx::query(
            "INSERT INTO trust_policies (id, project, provider, owner, name, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&id)
        .bind(project)
        .bind(kind)
        .bind(owner)
        .bind(name)
        .bind(micros(now()))
        .execute(&self.write)
        .await
        .map_err(RecordsError::database("add a trust policy"))?;
        Ok(TrustPolicy { id, project: project.to_owned(), provider })
    }

    /// What a project trusts, oldest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn trust_policies(&self, project: &str) -> Result<Vec<TrustPolicy>, RecordsError> {
        sqlx::query("SELECT * FROM trust_policies WHERE project = $1 ORDER BY created_at, id")
            .bind(project)
            .fetch_all(&self.read)
            .await
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list trust policies"))
    }

    /// Ends a project's trust. False when there is no such policy of the project.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn remove_trust_policy(&self, project: &str, id: &str) -> Result<bool, RecordsError> {
        let removed = sqlx::query("DELETE FROM trust_policies WHERE project = $1 AND id = $2")
            .bind(project)
            .bind(id)
            .execute(&self.write)
            .await
            .map_err(RecordsError::database("remove a trust policy"))?;
        Ok(removed.rows_affected() > 0)
    }

    /// The projects that trust exactly this.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn projects_trusting(
        &self,
        provider: &Provider,
    ) -> Result<Vec<Project>, RecordsError> {
        let (kind, owner, name) = provider.parts();
        sqlx::query(
            "SELECT projects.* FROM projects WHERE deleting = 0 AND id IN (SELECT project FROM trust_policies
             WHERE provider = $1 AND owner = $2 AND name = $3) ORDER BY created_at, id",
        )
        .bind(kind)
        .bind(owner)
        .bind(name)
        .fetch_all(&self.read)
        .await
        .and_then(|rows| rows.iter().map(projects::read).collect())
        .map_err(RecordsError::database("find the projects that trust a job"))
    }
}
