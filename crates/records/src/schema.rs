//! The form of the database, by version. An older one is brought up to date; a newer one is refused, and who wrote it named.

use sqlx::{SqliteConnection, SqlitePool};

use crate::error::{PROGRAM, RecordsError};

/// What each version adds to the one before. Never changed once released: further versions are appended.
const VERSIONS: &[&str] = &[
    "
CREATE TABLE organizations (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, created_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE projects (
    id TEXT PRIMARY KEY, organization TEXT NOT NULL, name TEXT NOT NULL, region TEXT NOT NULL,
    keep_gb INTEGER NOT NULL, keep_days INTEGER NOT NULL, hardware INTEGER NOT NULL,
    slot INTEGER NOT NULL UNIQUE, deleting INTEGER NOT NULL DEFAULT 0,
    reset_pending INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX projects_listed ON projects (organization, deleting, created_at, id);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, organization TEXT NOT NULL, project TEXT, build TEXT,
    parent TEXT, description TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL,
    expires_at INTEGER
) WITHOUT ROWID;
CREATE INDEX tokens_of_project ON tokens (project, kind, created_at);
CREATE INDEX tokens_of_organization ON tokens (organization, kind, created_at);
CREATE INDEX tokens_of_parent ON tokens (parent) WHERE parent IS NOT NULL;
CREATE INDEX tokens_of_build ON tokens (build) WHERE build IS NOT NULL;
CREATE INDEX tokens_by_end ON tokens (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE trust_policies (
    id TEXT PRIMARY KEY, project TEXT NOT NULL, provider TEXT NOT NULL, owner TEXT NOT NULL,
    name TEXT NOT NULL, created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX trust_of_project ON trust_policies (project, created_at);
CREATE INDEX trust_by_name ON trust_policies (provider, owner, name);

-- In the order in which they are listed: a page is one range of the table.
CREATE TABLE builds (
    id TEXT NOT NULL, project TEXT NOT NULL, organization TEXT NOT NULL, token TEXT,
    status INTEGER NOT NULL, error TEXT, command INTEGER NOT NULL, options TEXT NOT NULL,
    created_at INTEGER NOT NULL, started_at INTEGER, finished_at INTEGER,
    cached_steps INTEGER NOT NULL DEFAULT 0, total_steps INTEGER NOT NULL DEFAULT 0,
    saved INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (project, created_at, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX builds_by_id ON builds (id);
CREATE INDEX builds_running ON builds (project) WHERE status = 1;

CREATE TABLE shares (
    hash TEXT PRIMARY KEY, build TEXT NOT NULL, project TEXT NOT NULL, created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX shares_of_build ON shares (build);

CREATE TABLE steps (
    build TEXT NOT NULL, ordinal INTEGER NOT NULL, project TEXT NOT NULL, digest TEXT NOT NULL,
    name TEXT NOT NULL, started_at INTEGER NOT NULL, completed_at INTEGER, cached INTEGER NOT NULL,
    error TEXT, saved INTEGER NOT NULL, has_logs INTEGER NOT NULL DEFAULT 0, inputs TEXT NOT NULL,
    PRIMARY KEY (build, ordinal)
) WITHOUT ROWID;
CREATE UNIQUE INDEX steps_by_digest ON steps (build, digest);

CREATE TABLE connections (
    build TEXT NOT NULL, number INTEGER NOT NULL, project TEXT NOT NULL, step TEXT NOT NULL,
    protocol TEXT NOT NULL, host TEXT NOT NULL, address TEXT NOT NULL, port INTEGER NOT NULL,
    allowed INTEGER NOT NULL, sent INTEGER NOT NULL, received INTEGER NOT NULL,
    opened_at INTEGER NOT NULL, PRIMARY KEY (build, number)
) WITHOUT ROWID;

CREATE TABLE manifests (
    project TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    size INTEGER NOT NULL, total_size INTEGER NOT NULL, subject TEXT, artifact_type TEXT,
    annotations TEXT NOT NULL, pushed_at INTEGER NOT NULL,
    PRIMARY KEY (project, repository, digest)
) WITHOUT ROWID;
CREATE INDEX manifests_of_subject ON manifests (project, repository, subject) WHERE subject IS NOT NULL;

CREATE TABLE manifest_parts (
    project TEXT NOT NULL, repository TEXT NOT NULL, manifest TEXT NOT NULL, part TEXT NOT NULL,
    is_manifest INTEGER NOT NULL, PRIMARY KEY (project, repository, manifest, part)
) WITHOUT ROWID;
CREATE INDEX parts_by_digest ON manifest_parts (project, part);

CREATE TABLE tags (
    project TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL,
    pushed_at INTEGER NOT NULL, PRIMARY KEY (project, repository, tag)
) WITHOUT ROWID;
CREATE INDEX tags_listed ON tags (project, pushed_at, repository, tag);
CREATE INDEX tags_of_manifest ON tags (project, repository, digest);
",
    "
-- Empty where the project says nothing.
ALTER TABLE projects ADD COLUMN isolation TEXT NOT NULL DEFAULT '';
ALTER TABLE projects ADD COLUMN network_policy TEXT NOT NULL DEFAULT '';
ALTER TABLE projects ADD COLUMN limits TEXT NOT NULL DEFAULT '';
-- Empty as long as the build has no builder.
ALTER TABLE builds ADD COLUMN isolation TEXT NOT NULL DEFAULT '';
",
    "
-- The program that brought the records to this version; empty where that was not noted.
ALTER TABLE schema ADD COLUMN program TEXT NOT NULL DEFAULT '';

CREATE TABLE project_storage (
    project TEXT NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL, measured_at INTEGER NOT NULL,
    PRIMARY KEY (project, kind)
) WITHOUT ROWID;

CREATE INDEX builds_by_end ON builds (finished_at) WHERE finished_at IS NOT NULL;

-- When a tag was last taken from a manifest. What was known before this was may have lost its tag this moment.
ALTER TABLE manifests ADD COLUMN named_until INTEGER NOT NULL DEFAULT 0;
UPDATE manifests SET named_until = CAST(strftime('%s', 'now') AS INTEGER) * 1000000;
",
];

/// The version that this program brings records to.
pub(crate) fn known() -> i64 {
    i64::try_from(VERSIONS.len()).unwrap_or(i64::MAX)
}

/// The version of a database; 0 when there is nothing in it yet.
///
/// # Errors
/// It cannot be read, or a newer program wrote it.
pub(crate) async fn version(pool: &SqlitePool) -> Result<i64, RecordsError> {
    let failed = RecordsError::database;
    let mut connection = pool.acquire().await.map_err(failed(READING))?;
    let made: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed(READING))?;
    if made { found(&mut connection).await } else { Ok(0) }
}

/// What is tried when the version cannot be read.
const READING: &str = "read the version of the records";

/// The version, where there is a table of versions.
async fn found(connection: &mut SqliteConnection) -> Result<i64, RecordsError> {
    let failed = RecordsError::database;
    let found: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM schema")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed(READING))?;
    if found <= known() {
        return Ok(found);
    }
    // Who wrote it is worth a try and no more: a newer program may have changed this table, too.
    let query = "SELECT program FROM schema ORDER BY version DESC LIMIT 1";
    let program: Result<String, _> = sqlx::query_scalar(query).fetch_one(&mut *connection).await;
    Err(RecordsError::Newer { found, known: known(), program: program.unwrap_or_default() })
}

/// Brings the database up to date.
pub(crate) async fn migrate(write: &SqlitePool) -> Result<(), RecordsError> {
    let failed = RecordsError::database;
    let action = "bring the records up to date";
    let mut transaction =
        write.begin_with("BEGIN IMMEDIATE").await.map_err(failed("lock the records"))?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema (version INTEGER NOT NULL)")
        .execute(&mut *transaction)
        .await
        .map_err(failed(action))?;
    let found = found(&mut transaction).await?;
    let missing = VERSIONS.iter().zip(1_i64..).skip(usize::try_from(found).unwrap_or(0));
    for (statements, version) in missing {
        sqlx::raw_sql(statements).execute(&mut *transaction).await.map_err(failed(action))?;
        sqlx::query("INSERT INTO schema (version) VALUES ($1)")
            .bind(version)
            .execute(&mut *transaction)
            .await
            .map_err(failed(action))?;
    }
    // Afterwards: the first versions have no place for it.
    sqlx::query("UPDATE schema SET program = $1 WHERE version > $2")
        .bind(PROGRAM)
        .bind(found)
        .execute(&mut *transaction)
        .await
        .map_err(failed(action))?;
    transaction.commit().await.map_err(failed(action))
}
