//! The end of a build, by whoever it comes.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cofferdam_records::{Build, BuildStatus, Records, RecordsError};
use tracing::Instrument;

use super::{Builds, LiveBuild};
use crate::metrics::{BUILD_SECONDS, BUILDS_ENDED, ERRORS};

/// How long clients have to read why their build ended before their connections are cut.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the builder has to report the rest of the build.
const LAST_REPORT: Duration = Duration::from_secs(5);
/// How long an ended build is remembered, for clients that still ask after it.
const MEMORY: Duration = Duration::from_secs(60);
/// Most characters of the reason that a client is told for an end it does not know of.
const MAX_REASON: usize = 500;
/// How long to wait before trying again to record an end.
const RETRY: Duration = Duration::from_secs(5);

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client got what it wanted.
    Success,
    /// A step or the client failed, with its words.
    Failed(String),
    /// Somebody wanted it to end, with their words.
    Canceled(String),
    /// The client or the builder was lost, with what is known.
    Lost(String),
}

impl Outcome {
    /// What is recorded of it.
    pub(crate) const fn status(&self) -> BuildStatus {
        match self {
            Self::Success => BuildStatus::Success,
            Self::Failed(_) => BuildStatus::Failed,
            Self::Canceled(_) => BuildStatus::Canceled,
            Self::Lost(_) => BuildStatus::Error,
        }
    }

    fn error(self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::Failed(error) | Self::Canceled(error) | Self::Lost(error) => Some(error),
        }
    }
}

/// What became of a build that has ended, for a client that does not know.
pub(crate) fn ended_already(recorded: &Build) -> String {
    let how = match recorded.status {
        BuildStatus::Success => "a success",
        BuildStatus::Failed => "failed",
        // One whose end is not recorded yet is not there any more either.
        BuildStatus::Error | BuildStatus::Running => "broken off",
        BuildStatus::Canceled => "canceled",
    };
    let why = recorded.error.as_deref().and_then(|error| error.lines().next()).unwrap_or_default();
    let why: String = why.chars().take(MAX_REASON).collect();
    let colon = if why.is_empty() { "" } else { ": " };
    format!("build {} had ended already and is recorded as {how}{colon}{why}", recorded.id)
}

/// An end as it is to be recorded.
struct End {
    build: String,
    status: BuildStatus,
    error: Option<String>,
    at: DateTime<Utc>,
}

impl End {
    async fn record(&self, records: &Records) -> Result<(), RecordsError> {
        let recorded =
            records.finish_build(&self.build, self.status, self.error.as_deref(), self.at).await;
        // One that has ended already, or is gone with its project, is none that runs.
        recorded.map(|_| ())
    }

    /// Tries until the end is recorded. If the server stops before, its next start finds the build running and ends it.
    async fn insist<F>(&self, pause: Duration, mut attempt: impl FnMut() -> F)
    where
        F: Future<Output = Result<(), RecordsError>>,
    {
        loop {
            tokio::time::sleep(pause).await;
            match attempt().await {
                Ok(()) => break,
                Err(error) => tracing::error!(%error, "the end of a build could not be recorded"),
            }
        }
        tracing::info!("the end of a build is recorded after all");
    }
}

impl Builds {
    /// Cancels a running build: its solves end on the builder, and their clients read `reason`.
    pub(crate) async fn cancel(self: &Arc<Self>, live: &Arc<LiveBuild>, reason: &str) {
        self.end(live, Outcome::Canceled(reason.to_owned())).await;
    }

    /// Cancels everything that runs. Returns how many builds that were.
    pub(crate) async fn cancel_all(self: &Arc<Self>, reason: &str) -> usize {
        let running = self.running();
        futures::future::join_all(running.iter().map(|live| self.cancel(live, reason))).await;
        running.len()
    }

    /// Ends a build unless something else has begun to; returns when it is recorded as ended.
    pub(crate) async fn end(self: &Arc<Self>, live: &Arc<LiveBuild>, outcome: Outcome) {
        if !live.begin_end() {
            live.ended().await;
            return;
        }
        // In a task of its own: the caller may be a request whose client goes away.
        let (builds, live) = (Arc::clone(self), Arc::clone(live));
        let span = live.span().clone();
        let carried_out = async move { builds.carry_out(&live, outcome).await };
        let ending = tokio::spawn(carried_out.instrument(span));
        if let Err(error) = ending.await {
            tracing::error!(%error, "ending a build failed");
        }
    }

    /// What to tell a client that comes too late.
    pub(crate) async fn how_it_ended(&self, build: &str) -> String {
        match self.records.build(build).await {
            Ok(Some(recorded)) if recorded.status != BuildStatus::Running => {
                ended_already(&recorded)
            }
            _ => format!("build {build} has ended: begin another one"),
        }
    }

    async fn carry_out(self: &Arc<Self>, live: &Arc<LiveBuild>, outcome: Outcome) {
        let outcome = self.stop_builder(live, outcome).await;
        let status = outcome.status();
        let label = match status {
            BuildStatus::Success => "success",
            BuildStatus::Failed => "failed",
            BuildStatus::Canceled => "canceled",
            BuildStatus::Error | BuildStatus::Running => "error",
        };
        let error = outcome.error();
        let end = End { build: live.id().to_owned(), status, error: error.clone(), at: Utc::now() };
        let recorded = end.record(&self.records).await;
        if let Err(error) = recorded {
            // A full disk may stay full for hours: nobody is kept waiting for it, neither clients nor a server that is to stop.
            ERRORS.count("end", 1);
            tracing::error!(%error, "the end of a build could not be recorded");
            let records = self.records.clone();
            let insisting = async move { end.insist(RETRY, || end.record(&records)).await };
            tokio::spawn(insisting.in_current_span());
        }
        tracing::info!(status = label, error, "a build ended");
        BUILDS_ENDED.count(label, 1);
        BUILD_SECONDS.observe(label, live.age().as_secs_f64());
        if label == "error" {
            ERRORS.count("lost", 1);
        }
        if let Some(collector) = self.collector.get() {
            collector.send(live.trace().finish(live.project_id(), label));
        }
        live.set_ended();
        self.ended.notify_waiters();
        let (builds, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            live.cut_connections();
            tokio::time::sleep(MEMORY).await;
            builds.remove(&live);
        });
    }

    /// Ends the build on its builder and waits for the rest of its report. A builder that turns out to be gone changes what
    /// the client's failure means.
    async fn stop_builder(&self, live: &Arc<LiveBuild>, outcome: Outcome) -> Outcome {
        // Nobody can lease anew: the build is ending.
        let Some(lease) = live.lease().lock().await.take() else { return outcome };
        let told = match &outcome {
            Outcome::Canceled(reason) | Outcome::Lost(reason) => {
                lease.cancel(live.id(), reason).await
            }
            Outcome::Success | Outcome::Failed(_) => Ok(()),
        };
        let told = match told {
            Ok(()) => lease.close(live.id()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &told {
            tracing::debug!(%error, "the builder cannot be told that a build ended");
        }
        let tap = live.tap().take();
        let gone = match tap {
            Some(tap) => tap.finish(LAST_REPORT, told.is_ok()).await,
            None => None,
        };
        drop(lease);
        match (outcome, told, gone) {
            // Its client only saw a connection break.
            (Outcome::Failed(_), Err(_), Some(why)) => Outcome::Lost(why),
            (outcome, ..) => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_records::NewBuild;

    use super::*;

    #[tokio::test]
    async fn an_end_is_tried_until_it_is_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let (failing, records) = (
            Records::open(directory.path()).await.unwrap(),
            Records::open(directory.path()).await.unwrap(),
        );
        let new = NewBuild {
            id: None,
            project: "project".to_owned(),
            organization: "organization".to_owned(),
            token: None,
            command: 1,
            options: "[]".to_owned(),
        };
        let build = records.create_build(new).await.unwrap().id;
        failing.close().await;
        let end = End {
            build: build.clone(),
            status: BuildStatus::Failed,
            error: Some("it broke".to_owned()),
            at: Utc::now(),
        };
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            end.record(if attempts < 3 { &failing } else { &records })
        };
        end.insist(Duration::from_millis(1), attempt).await;
        assert_eq!(attempts, 3);
        let ended = records.build(&build).await.unwrap().unwrap();
        assert_eq!((ended.status, ended.error.as_deref()), (BuildStatus::Failed, Some("it broke")));
        // Nothing is left to do for one that has ended, or that is gone.
        end.record(&records).await.unwrap();
        End { build: "gone".to_owned(), ..end }.record(&records).await.unwrap();
    }
}
