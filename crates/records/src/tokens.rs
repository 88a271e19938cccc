//! Tokens, by their hashes. A secret never comes here.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::records::Records;
use crate::row::{micros, now, time, written};

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An organization.
    Organization,
    /// A project.
    Project,
    /// The client of one build.
    Build,
    /// A container engine that pulls from one project.
    Pull,
    /// A browser.
    Session,
}

impl TokenKind {
    const ALL: [Self; 5] =
        [Self::Organization, Self::Project, Self::Build, Self::Pull, Self::Session];

    const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Project => "project",
            Self::Build => "build",
            Self::Pull => "pull",
            Self::Session => "session",
        }
    }
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id, which is no secret.
    pub id: String,
    /// What it stands for.
    pub kind: TokenKind,
    /// Its organization.
    pub organization: String,
    /// Its project, if it belongs to one.
    pub project: Option<String>,
    /// Its build, if it belongs to one.
    pub build: Option<String>,
    /// The token it was made with; with that one it ends.
    pub parent: Option<String>,
    /// What people call it.
    pub description: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself, if it does.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it stands for.
    pub kind: TokenKind,
    /// Its organization.
    pub organization: String,
    /// Its project, if it belongs to one.
    pub project: Option<String>,
    /// Its build, if it belongs to one.
    pub build: Option<String>,
    /// The token it is made with.
    pub parent: Option<String>,
    /// What people call it.
    pub description: String,
    /// What it is known by.
    pub hash: String,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

fn read(row: &SqliteRow) -> Result<Token, sqlx::Error> {
    let name: String = row.try_get("kind")?;
    let kind = TokenKind::ALL.into_iter().find(|kind| kind.name() == name);
    let expires_at: Option<i64> = row.try_get("expires_at")?;
    Ok(Token {
        id: row.try_get("id")?,
        kind: kind
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown kind of token {name:?}").into()))?,
        organization: row.try_get("organization")?,
        project: row.try_get("project")?,
        build: row.try_get("build")?,
        parent: row.try_get("parent")?,
        description: row.try_get("description")?,
        created_at: time(row.try_get("created_at")?),
        expires_at: expires_at.map(time),
    })
}

impl Records {
    /// Makes a token. One that ends with another is refused when that other is gone already.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn create_token(&self, new: NewToken) -> Result<Token, RecordsError> {
        let (id, created_at) = (crate::id::long(), now());
        let expires_at = new.expires_at.map(|at| time(micros(at)));
        // The parent, project and build are looked at in the same statement: what is revoked or deleted meanwhile is seen.
        sqlx::query(
            "INSERT INTO tokens (id, kind, organization, project, build, parent, description, hash, created_at, expires_at)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
             WHERE ($6 IS NULL OR EXISTS (SELECT 1 FROM tokens WHERE id = $6))
             AND ($4 IS NULL OR EXISTS (SELECT 1 FROM projects WHERE id = $4 AND deleting = 0)) RETURNING id",
        )
        .bind(&id)
        .bind(new.kind.name())
        .bind(&new.organization)
        .bind(&new.project)
        .bind(&new.build)
        .bind(&new.parent)
        .bind(&new.description)
        .bind(&new.hash)
        .bind(micros(created_at))
        .bind(expires_at.map(micros))
        .fetch_all(&self.write)
        .await
        .and_then(|rows| written(rows).ok_or(sqlx::Error::RowNotFound))
        .map_err(RecordsError::database("create a token"))?;
        let NewToken { kind, organization, project, build, parent, description, .. } = new;
        Ok(Token {
            id,
            kind,
            organization,
            project,
            build,
            parent,
            description,
            created_at,
            expires_at,
        })
    }

    /// The token that is known by a hash.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<Token>, RecordsError> {
        self.one_token("SELECT * FROM tokens WHERE hash = $1", hash).await
    }

    /// A token by its id.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn token(&self, id: &str) -> Result<Option<Token>, RecordsError> {
        self.one_token("SELECT * FROM tokens WHERE id = $1", id).await
    }

    async fn one_token(
        &self,
        query: &'static str,
        key: &str,
    ) -> Result<Option<Token>, RecordsError> {
        let row = sqlx::query(query).bind(key).fetch_optional(&self.read).await;
        row.and_then(|row| row.as_ref().map(read).transpose())
            .map_err(RecordsError::database("read a token"))
    }

    /// The project tokens of a project, oldest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn project_tokens(&self, project: &str) -> Result<Vec<Token>, RecordsError> {
        let query =
            "SELECT * FROM tokens WHERE project = $1 AND kind = 'project' ORDER BY created_at, id";
        self.tokens(query, project).await
    }

    /// The organization tokens of an organization, oldest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn organization_tokens(
        &self,
        organization: &str,
    ) -> Result<Vec<Token>, RecordsError> {
        let query = "SELECT * FROM tokens WHERE organization = $1 AND kind = 'organization' ORDER BY created_at, id";
        self.tokens(query, organization).await
    }

    async fn tokens(&self, query: &'static str, key: &str) -> Result<Vec<Token>, RecordsError> {
        let rows = sqlx::query(query).bind(key).fetch_all(&self.read).await;
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list tokens"))
    }

    /// Describes a token anew. False when there is none.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn update_token(&self, id: &str, description: &str) -> Result<bool, RecordsError> {
        let changed = sqlx::query("UPDATE tokens SET description = $2 WHERE id = $1")
            .bind(id)
            .bind(description)
            .execute(&self.write)
            .await
            .map_err(RecordsError::database("describe a token"))?;
        Ok(changed.rows_affected() > 0)
    }

    /// Deletes a token and all that were made with it. Returns their ids.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn delete_token(&self, id: &str) -> Result<Vec<String>, RecordsError> {
        // UNION and not UNION ALL: a ring of parents, which cannot be, would still end.
        sqlx::query_scalar(
            "WITH RECURSIVE gone(id) AS (SELECT id FROM tokens WHERE id = $1 UNION
             SELECT tokens.id FROM tokens JOIN gone ON tokens.parent = gone.id)
             DELETE FROM tokens WHERE id IN (SELECT id FROM gone) RETURNING id",
        )
        .bind(id)
        .fetch_all(&self.write)
        .await
        .map_err(RecordsError::database("delete a token"))
    }

    /// Deletes the tokens of a build. Returns their ids.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn delete_tokens_of_build(&self, build: &str) -> Result<Vec<String>, RecordsError> {
        sqlx::query_scalar("DELETE FROM tokens WHERE build = $1 RETURNING id")
            .bind(build)
            .fetch_all(&self.write)
            .await
            .map_err(RecordsError::database("delete the tokens of a build"))
    }

    /// Deletes tokens whose time is over. Returns how many.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn delete_expired_tokens(&self, now: DateTime<Utc>) -> Result<u64, RecordsError> {
        let deleted =
            sqlx::query("DELETE FROM tokens WHERE expires_at IS NOT NULL AND expires_at <= $1")
                .bind(micros(now))
                .execute(&self.stream)
                .await
                .map_err(RecordsError::database("delete expired tokens"))?;
        Ok(deleted.rows_affected())
    }
}
