//! Organizations: who has projects.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::records::Records;
use crate::row::{micros, now, time};

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

fn read(row: &SqliteRow) -> Result<Organization, sqlx::Error> {
    Ok(Organization {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        created_at: time(row.try_get("created_at")?),
    })
}

impl Records {
    /// Creates an organization.
    ///
    /// # Errors
    /// The records cannot be written.
    pub async fn create_organization(&self, name: &str) -> Result<Organization, RecordsError> {
        let new = Organization { id: crate::id::short(), name: name.to_owned(), created_at: now() };
        sqlx::query("INSERT INTO organizations (id, name, created_at) VALUES ($1, $2, $3)")
            .bind(&new.id)
            .bind(&new.name)
            .bind(micros(new.created_at))
            .execute(&self.write)
            .await
            .map_err(RecordsError::database("create an organization"))?;
        Ok(new)
    }

    /// An organization.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn organization(&self, id: &str) -> Result<Option<Organization>, RecordsError> {
        sqlx::query("SELECT * FROM organizations WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.read)
            .await
            .and_then(|row| row.as_ref().map(read).transpose())
            .map_err(RecordsError::database("read an organization"))
    }

    /// All organizations, oldest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn organizations(&self) -> Result<Vec<Organization>, RecordsError> {
        sqlx::query("SELECT * FROM organizations ORDER BY created_at, id")
            .fetch_all(&self.read)
            .await
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list organizations"))
    }
}
