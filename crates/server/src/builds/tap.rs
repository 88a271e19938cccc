//! What a builder says of one build, written into the records while it happens.
//!
//! The builder is behind a wall: its reports are bounded here and can only ever concern the build they were asked for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cofferdam_fleet::{Lease, Watch};
use cofferdam_records::{ConnectionRecord, LogEntry, Records, StepUpdate};
use cofferdam_wire::cofferdam::builder::v1 as wire;
use cofferdam_wire::cofferdam::builder::v1::__buffa::oneof::watch_build_response::Event;
use cofferdam_wire::moby::buildkit::v1::{StatusResponse, Vertex};
use futures::StreamExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::counts::Counts;
use super::{Builds, LiveBuild, Outcome};
use crate::metrics::ERRORS;

/// Reports are written together when this many have come or this long has passed.
const BATCH: usize = 256;
const BATCH_TIME: Duration = Duration::from_millis(150);
/// Most steps that are recorded of one build.
const MOST_STEPS: usize = 100_000;
/// Longest name and error of a step.
const MAX_TEXT: usize = 16 << 10;
/// Longest digest.
const MAX_DIGEST: usize = 128;

/// Records one build.
pub(crate) struct Tap {
    task: JoinHandle<Option<String>>,
    stop: oneshot::Sender<()>,
    /// Resolves when the report is at its end and written.
    written: oneshot::Receiver<()>,
}

impl Tap {
    /// Begins to record, and ends the build when its builder is lost.
    pub(super) fn start(
        builds: &Arc<Builds>,
        live: &Arc<LiveBuild>,
        lease: &Lease,
        events: Watch,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (writing, written) = oneshot::channel();
        let gone = lease.ended();
        let (builds, live) = (Arc::clone(builds), Arc::clone(live));
        let span = live.span().clone();
        let recording = async move {
            let mut recorder = Recorder::new(builds.records.clone(), Arc::clone(&live));
            let record = async {
                let batches = tokio_stream::StreamExt::chunks_timeout(events, BATCH, BATCH_TIME);
                let mut batches = std::pin::pin!(batches);
                while let Some(batch) = batches.next().await {
                    recorder.record(batch).await;
                }
            };
            tokio::select! {
                () = record => drop(writing),
                // The last report has had its time.
                _ = stopped => return None,
            }
            // The stream ends with the build, or with the builder.
            let gone = tokio::time::timeout(Duration::from_millis(500), gone).await.ok()?;
            let why = format!("the builder ended while the build ran: {gone}");
            if live.is_running() {
                let outcome = Outcome::Lost(why.clone());
                tokio::spawn(async move { builds.end(&live, outcome).await });
            }
            Some(why)
        };
        Self { task: tokio::spawn(recording.instrument(span)), stop, written }
    }

    /// Waits for the rest of the report. Returns why the builder ended, if it did; one that `answers` has not, and nobody waits
    /// to see whether it has.
    pub(super) async fn finish(self, patience: Duration, answers: bool) -> Option<String> {
        let Self { mut task, stop, written } = self;
        tokio::select! {
            _ = written, if answers => None,
            gone = &mut task => gone.ok().flatten(),
            () = tokio::time::sleep(patience) => {
                drop(stop);
                task.await.ok().flatten()
            }
        }
    }
}

struct Recorder {
    records: Records,
    build: String,
    live: Arc<LiveBuild>,
    seen: HashSet<String>,
    /// Steps that were carried out and went well. A later solve of the same build finds them cached; the build did not.
    done: HashSet<String>,
    counts: Counts,
}

impl Recorder {
    fn new(records: Records, live: Arc<LiveBuild>) -> Self {
        let build = live.id().to_owned();
        let (seen, done) = (HashSet::new(), HashSet::new());
        Self { records, build, live, seen, done, counts: Counts::default() }
    }

    async fn record(
        &mut self,
        batch: Vec<Result<wire::WatchBuildResponse, impl std::fmt::Display>>,
    ) {
        let mut steps = Vec::new();
        let mut logs = Vec::new();
        let mut connections = Vec::new();
        for event in batch {
            match event {
                Ok(wire::WatchBuildResponse { event: Some(event), .. }) => match event {
                    Event::Status(status) => self.status(&status, &mut steps, &mut logs),
                    Event::Connections(found) => {
                        connections.extend(found.connections.iter().map(connection));
                    }
                    Event::SolveStarted(_) => self.live.solves().running += 1,
                    Event::SolveEnded(ended) => self.solve_ended(&ended),
                },
                Ok(_) => {}
                Err(error) => {
                    ERRORS.count("report", 1);
                    tracing::debug!(%error, "the report of a builder broke off");
                }
            }
        }
        self.counts.connections(&connections);
        let written = async {
            if !steps.is_empty() {
                self.records.record_steps(&self.build, &steps).await?;
            }
            if !logs.is_empty() {
                self.records.append_logs(&self.build, &logs).await?;
            }
            if !connections.is_empty() {
                self.records.record_connections(&self.build, &connections).await?;
            }
            Ok::<_, cofferdam_records::RecordsError>(())
        };
        if let Err(error) = written.await {
            ERRORS.count("report", 1);
            tracing::error!(%error, "a report of a builder was not recorded");
        }
    }

    fn solve_ended(&self, ended: &wire::watch_build_response::SolveEnded) {
        let mut solves = self.live.solves();
        solves.running = solves.running.saturating_sub(1);
        solves.failed = None;
        match &ended.error {
            _ if ended.canceled => solves.canceled = true,
            Some(error) => solves.failed = Some(bounded(error)),
            None => solves.succeeded += 1,
        }
    }

    fn status(
        &mut self,
        status: &StatusResponse,
        steps: &mut Vec<StepUpdate>,
        logs: &mut Vec<LogEntry>,
    ) {
        for vertex in &status.vertexes {
            let Some(update) = step(vertex) else { continue };
            if self.done.contains(&update.digest)
                || (!self.seen.contains(&update.digest) && self.seen.len() >= MOST_STEPS)
            {
                continue;
            }
            self.seen.insert(update.digest.clone());
            if update.completed_at.is_some() {
                self.counts.step(&update);
                if !update.cached && update.error.is_none() {
                    self.done.insert(update.digest.clone());
                }
            }
            steps.push(update);
        }
        for log in status.logs.iter().filter(|log| self.seen.contains(&log.vertex)) {
            logs.push(LogEntry {
                step: log.vertex.clone(),
                stream: u8::try_from(log.stream).unwrap_or_default(),
                at: moment(log.timestamp.as_option()).unwrap_or_else(Utc::now),
                message: log.msg.to_vec(),
            });
        }
    }
}

/// A vertex that has started, as a step. One whose digest is none does not count.
fn step(vertex: &Vertex) -> Option<StepUpdate> {
    Some(StepUpdate {
        digest: digest(&vertex.digest)?.to_owned(),
        name: bounded(&vertex.name),
        started_at: moment(vertex.started.as_option())?,
        completed_at: moment(vertex.completed.as_option()),
        cached: vertex.cached,
        error: (!vertex.error.is_empty()).then(|| bounded(&vertex.error)),
        saved: Duration::from_nanos(u64::try_from(vertex.savedNanoseconds).unwrap_or(0)),
        inputs: vertex.inputs.iter().filter_map(|input| digest(input)).map(str::to_owned).collect(),
    })
}

fn connection(connection: &wire::Connection) -> ConnectionRecord {
    ConnectionRecord {
        step: digest(&connection.vertex).unwrap_or_default().to_owned(),
        protocol: bounded(&connection.protocol),
        host: bounded(&connection.host),
        address: bounded(&connection.address),
        port: u16::try_from(connection.port).unwrap_or(0),
        allowed: connection.allowed,
        sent: connection.sent_bytes,
        received: connection.received_bytes,
        opened_at: moment(connection.opened_at.as_option()).unwrap_or_else(Utc::now),
    }
}

fn moment(time: Option<&buffa_types::google::protobuf::Timestamp>) -> Option<DateTime<Utc>> {
    let time = time?;
    DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}

/// Digests are in the log and in keys: what can be none is not taken for one.
fn digest(text: &str) -> Option<&str> {
    let fits = (1..=MAX_DIGEST).contains(&text.len());
    Some(text).filter(|text| fits && text.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use buffa_types::google::protobuf::Timestamp;

    use super::*;

    #[test]
    fn what_is_no_digest_is_not_taken_for_one() {
        let real = format!("sha256:{}", "a".repeat(64));
        let begun = || buffa::MessageField::some(Timestamp { seconds: 1, ..Default::default() });
        let vertex = |digest: &str| Vertex {
            digest: digest.to_owned(),
            started: begun(),
            inputs: vec!["a b".to_owned(), real.clone()],
            ..Vertex::default()
        };
        let update = step(&vertex(&real)).unwrap();
        assert_eq!((update.digest, update.inputs), (real.clone(), vec![real.clone()]));
        for bad in ["", "a b", "a\nb", "\u{e9}", &"a".repeat(MAX_DIGEST + 1)] {
            assert_eq!(digest(bad), None, "{bad:?}");
            assert!(step(&vertex(bad)).is_none(), "{bad:?}");
            let reported = wire::Connection { vertex: bad.to_owned(), ..Default::default() };
            assert_eq!(connection(&reported).step, "", "{bad:?}");
        }
    }
}
