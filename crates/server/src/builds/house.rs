//! House keeping: builds that a former server left running, builds that nobody wants any more, tokens that have expired.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use cofferdam_records::{BuildStatus, RecordsError};

use super::{Builds, LiveBuild, Outcome};

/// How often abandoned builds are looked for. With the time a client may be gone, this stays within a minute.
const EVERY: Duration = Duration::from_secs(5);
/// How often expired tokens are deleted, in turns of the above.
const TURNS: u32 = 120;

impl Builds {
    /// Ends what a former server left, and takes up again what it had begun to remove.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), RecordsError> {
        for build in self.records.running_builds().await? {
            let error = "the server stopped while this build ran";
            self.records
                .finish_build(&build.id, BuildStatus::Error, Some(error), Utc::now())
                .await?;
            tracing::info!(
                build = build.id,
                project = build.project,
                "a build was lost with the former server"
            );
        }
        self.resume_removals().await
    }

    /// Runs for as long as the server does.
    pub(crate) async fn keep_house(self: Arc<Self>) {
        let mut turn: u32 = 0;
        loop {
            tokio::time::sleep(EVERY).await;
            for live in self.running().into_iter().filter(|live| live.is_abandoned()) {
                let builds = Arc::clone(&self);
                let outcome = without_client(&live);
                tokio::spawn(async move { builds.end(&live, outcome).await });
            }
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(TURNS)
                && let Err(error) = self.records.delete_expired_tokens(Utc::now()).await
            {
                tracing::warn!(%error, "expired tokens could not be deleted");
            }
        }
    }
}

/// What became of a build whose client went away without a word: its solves tell, if they ended by themselves.
fn without_client(live: &LiveBuild) -> Outcome {
    let solves = live.solves();
    match &solves.failed {
        Some(error) => Outcome::Failed(error.clone()),
        None if solves.running == 0 && !solves.canceled && solves.succeeded > 0 => Outcome::Success,
        None => Outcome::Lost("its client is gone".to_owned()),
    }
}
