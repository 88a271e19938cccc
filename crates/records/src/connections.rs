//! What the steps of builds reached over the network, and what they were refused.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::RecordsError;
use crate::page::{Asked, Bounds, Page, PageRequest};
use crate::records::Records;
use crate::row::{micros, size, stored, time};

const PAGES: Bounds = Bounds { default: 1000, most: 10_000 };
/// Most connections that are kept of one build.
const MOST: i64 = 10_000;

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// Digest of the step.
    pub step: String,
    /// `tcp`, `udp`, `dns`.
    pub protocol: String,
    /// The name that was asked for; empty if there was none.
    pub host: String,
    /// The address; empty if it never came to that.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Whether the policy allowed it.
    pub allowed: bool,
    /// Bytes from the step.
    pub sent: u64,
    /// Bytes to the step.
    pub received: u64,
    /// When it was opened.
    pub opened_at: DateTime<Utc>,
}

fn read(row: &SqliteRow) -> Result<(i64, ConnectionRecord), sqlx::Error> {
    let port: i64 = row.try_get("port")?;
    let record = ConnectionRecord {
        step: row.try_get("step")?,
        protocol: row.try_get("protocol")?,
        host: row.try_get("host")?,
        address: row.try_get("address")?,
        port: u16::try_from(port).unwrap_or(0),
        allowed: row.try_get("allowed")?,
        sent: size(row.try_get("sent")?),
        received: size(row.try_get("received")?),
        opened_at: time(row.try_get("opened_at")?),
    };
    Ok((row.try_get("number")?, record))
}

impl Records {
    /// Records connections of a build; after ten thousand, no more.
    ///
    /// # Errors
    /// The records cannot be written; then none was.
    pub async fn record_connections(
        &self,
        build: &str,
        connections: &[ConnectionRecord],
    ) -> Result<(), RecordsError> {
        let failed = RecordsError::database;
        let action = "record connections";
        let mut transaction =
            self.stream.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
        for connection in connections {
            sqlx::query(
                "INSERT INTO connections (build, number, project, step, protocol, host, address, port, allowed, sent, received, opened_at)
                 SELECT id, n, project, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM builds,
                 (SELECT coalesce(max(number) + 1, 0) AS n FROM connections WHERE build = $1)
                 WHERE id = $1 AND n < $11",
            )
            .bind(build)
            .bind(&connection.step)
            .bind(&connection.protocol)
            .bind(&connection.host)
            .bind(&connection.address)
            .bind(connection.port)
            .bind(connection.allowed)
            .bind(stored(connection.sent))
            .bind(stored(connection.received))
            .bind(micros(connection.opened_at))
            .bind(MOST)
            .execute(&mut *transaction)
            .await
            .map_err(failed(action))?;
        }
        transaction.commit().await.map_err(failed(action))
    }

    /// Connections of a build, in the order in which they were recorded.
    ///
    /// # Errors
    /// A page request that makes no sense, or the records cannot be read.
    pub async fn connections(
        &self,
        build: &str,
        request: PageRequest<'_>,
    ) -> Result<Page<ConnectionRecord>, RecordsError> {
        let asked = Asked::read(request, format!("connections:{build}"), &PAGES)?;
        let after = asked.after.as_ref().map_or(-1, |(number, _)| *number);
        let query =
            "SELECT * FROM connections WHERE build = $1 AND number > $2 ORDER BY number LIMIT $3";
        let query = sqlx::query(query).bind(build).bind(after).bind(asked.limit());
        let rows = query.fetch_all(&self.read).await;
        let found: Vec<(i64, ConnectionRecord)> = rows
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(RecordsError::database("list connections"))?;
        let page = asked.page(found, |(number, _)| (*number, String::new()));
        let items = page.items.into_iter().map(|(_, record)| record).collect();
        Ok(Page { items, next: page.next })
    }
}
