//! Whether the records are whole: the database's file, rows that belong together, and logs that belong to rows.
//!
//! Nothing is changed here.

use crate::error::RecordsError;
use crate::records::Records;
use crate::removal::OF_BUILDS;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// What is wrong with the database's file, in SQLite's words.
    pub damage: Vec<String>,
    /// Rows that belong to builds which do not exist: the table, and how many.
    pub stray_rows: Vec<(&'static str, u64)>,
    /// Logs of builds that do not exist, as `<project>/<build>`.
    pub stray_logs: Vec<String>,
    /// Builds that run. While no server does, these are builds whose end was not recorded.
    pub running: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong. Builds that run are not wrong by themselves.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.stray_rows.is_empty() && self.stray_logs.is_empty()
    }
}

impl Records {
    /// Looks through the records as a whole; reads all of the database's file.
    ///
    /// # Errors
    /// The records cannot be read, which may be damage too.
    pub async fn check(&self) -> Result<CheckReport, RecordsError> {
        let failed = RecordsError::database;
        let action = "check the records";
        let mut damage: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(100)")
            .fetch_all(&self.read)
            .await
            .map_err(failed(action))?;
        damage.retain(|line| line != "ok");
        let mut stray_rows = Vec::new();
        for table in OF_BUILDS {
            // The table's name is one of ours.
            let query = format!(
                "SELECT count(*) FROM {table} WHERE NOT EXISTS (SELECT 1 FROM builds WHERE builds.id = {table}.build)"
            );
            let count: i64 =
                sqlx::query_scalar(&query).fetch_one(&self.read).await.map_err(failed(action))?;
            if count > 0 {
                stray_rows.push((table, count.unsigned_abs()));
            }
        }
        let mut stray_logs = Vec::new();
        for (project, build) in self.logs.builds().await? {
            let found = self.build(&build).await?;
            if found.is_none_or(|found| found.project != project) {
                stray_logs.push(format!("{project}/{build}"));
            }
        }
        let running = self.running_builds().await?.into_iter().map(|build| build.id).collect();
        Ok(CheckReport { damage, stray_rows, stray_logs, running })
    }
}
