//! From the beginning of a build to its record.
//!
//! A record is complete when `Solve` answers: clients ask for it at once. A build whose client went away is recorded as cancelled.
//! Trouble with the record never fails the build.

use std::sync::Arc;

use buffa::{Message, MessageField};
use chrono::{DateTime, Utc};
use cofferdam_image::Descriptor;
use cofferdam_solver::Job;
use cofferdam_store::Blob;
use cofferdam_wire::google::rpc::Status;
use cofferdam_wire::moby::buildkit::v1 as wire;
use serde_json::json;

use super::entry::{Entry, Key};
use super::logs::{self, Summary};
use super::recording::to_wire;
use super::spans::{self, Interest};
use super::trace::{self, TraceContext};
use super::{History, Recording, redact};
use crate::blocking::blocking;
use crate::builder::Builder;
use crate::control::status;
use crate::failure::Failure;
use crate::runtime::OpRuntime;
use crate::wire_time::timestamp;

/// The misspelling is the protocol's.
const ERROR_TYPE: &str = "application/vnd.googeapis.google.rpc.status+proto";
const STACK: &str = "github.com/moby/buildkit/stack.Stack+json";
/// Details of one error together; the largest is the file that it is about.
const MAX_DETAILS: usize = 4 << 20;

/// Steps and warnings are counted in 32 bits on the wire.
fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A build on its way into the history; the default is one that leaves no record. Dropped before [`Recorder::end`], the build is
/// recorded as cancelled.
#[derive(Default)]
pub(crate) struct Recorder(Option<Begun>);

struct Begun {
    builder: Arc<Builder>,
    job: Arc<Job<OpRuntime>>,
    key: Key,
    record: wire::BuildHistoryRecord,
    created: DateTime<Utc>,
    recording: Recording,
    trace: TraceContext,
    interest: Interest,
}

impl Recorder {
    /// Begins the record of a build of `owner`.
    pub(crate) fn begin(
        builder: &Arc<Builder>,
        owner: &str,
        request: &wire::SolveRequest,
        job: &Arc<Job<OpRuntime>>,
        trace: TraceContext,
    ) -> Self {
        if request.Internal {
            return Self::default();
        }
        let created = Utc::now();
        let record = wire::BuildHistoryRecord {
            Ref: request.Ref.clone(),
            Frontend: redact::name(&request.Frontend),
            FrontendAttrs: redact::attributes(&request.FrontendAttrs),
            Exporters: exporters(request),
            CreatedAt: MessageField::some(timestamp(created)),
            ..wire::BuildHistoryRecord::default()
        };
        let history = &builder.context.history;
        let key = Key::new(owner, &request.Ref);
        history.begin(&key, Arc::new(record.clone()));
        let interest = history.spans.keep(owner, &trace.trace);
        Self(Some(Begun {
            builder: Arc::clone(builder),
            job: Arc::clone(job),
            key,
            record,
            created,
            recording: Recording::new(Arc::clone(&history.store)),
            trace,
            interest,
        }))
    }

    /// What exporters tell.
    pub(crate) fn recording(&self) -> Recording {
        self.0.as_ref().map(|begun| begun.recording.clone()).unwrap_or_default()
    }

    /// Ends the build's events and records how the build ended. Whoever stops waiting for it stops nothing: otherwise the build would
    /// be shown as one that runs for ever.
    pub(crate) async fn end(mut self, result: &Result<wire::SolveResponse, Failure>) {
        let Some(begun) = self.0.take() else { return };
        let (history, key) = (Arc::clone(&begun.builder.context.history), begun.key.clone());
        let result = result.clone();
        let ending = tokio::spawn(async move { begun.end(result.as_ref()).await });
        if let Err(error) = ending.await {
            tracing::warn!(%error, "a build could not be recorded");
            history.abandon(&key);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let (Some(begun), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { begun.end(Err(&Failure::canceled())).await });
        }
    }
}

fn exporters(request: &wire::SolveRequest) -> Vec<wire::Exporter> {
    if request.Exporters.is_empty() && !request.ExporterDeprecated.is_empty() {
        return redact::exporters([&wire::Exporter {
            Type: request.ExporterDeprecated.clone(),
            Attrs: request.ExporterAttrsDeprecated.clone(),
            ..wire::Exporter::default()
        }]);
    }
    redact::exporters(&request.Exporters)
}

impl Begun {
    async fn end(self, result: Result<&wire::SolveResponse, &Failure>) {
        self.job.close();
        let (history, key) = (Arc::clone(&self.builder.context.history), self.key.clone());
        match self.record(result).await {
            Ok(ended) => {
                let Ended { entry, own_spans, client_spans, interest } = ended;
                let created = entry.created;
                history.end(&key, entry);
                history.wait_for_spans(&key, created, own_spans, client_spans, interest);
            }
            Err(failure) => {
                let reason = redact::error(failure.message());
                tracing::warn!(reason, "a build could not be recorded");
                history.abandon(&key);
            }
        }
    }

    async fn record(
        self,
        result: Result<&wire::SolveResponse, &Failure>,
    ) -> Result<Ended, Failure> {
        let Self { builder, job, key, mut record, created, recording, trace, interest } = self;
        let completed = Utc::now();
        let events = job.events();
        let saved = |vertex: &cofferdam_digest::Digest| builder.saved(&job, vertex);
        let history: &History = &builder.context.history;
        let written = logs::write(&history.store, status::responses(events, saved)).await?;
        let (descriptor, blob, summary) = written;
        record.CompletedAt = MessageField::some(timestamp(completed));
        record.logs = MessageField::some(to_wire(&descriptor));
        count_steps(&mut record, &summary);
        let mut made = recording.take();
        let mut blobs = std::mem::take(&mut made.blobs);
        blobs.push(blob);
        let error = match result {
            Ok(response) => {
                record.ExporterResponse = redact::attributes(&response.ExporterResponse);
                None
            }
            Err(failure) => Some(error(failure)),
        };
        made.fill(&mut record);
        let message = error.as_ref().map(|status| status.message.clone());
        let traced = trace::of_build(
            &trace,
            (key.owner(), record.Ref.as_str()),
            (created, completed),
            message.as_deref(),
            &summary.vertices,
        );
        let own_spans = spans::stubs(std::slice::from_ref(&traced));
        builder.context.collector.send(vec![traced]);
        let client_spans = interest.spans();
        let known = client_spans.len();
        let all: Vec<_> = own_spans.iter().cloned().chain(client_spans).collect();
        let store = Arc::clone(&history.store);
        let stored = blocking(move || {
            let traced = logs::keep(&store, trace::MEDIA_TYPE, &trace::to_blob(&all))?;
            let whole = error.map(|status| {
                Ok::<_, Failure>((logs::keep(&store, ERROR_TYPE, &status.encode_to_vec())?, status))
            });
            Ok::<_, Failure>((traced, whole.transpose()?))
        });
        let (traced, error): ((Descriptor, Blob), _) = stored.await??;
        record.trace = MessageField::some(to_wire(&traced.0));
        blobs.push(traced.1);
        if let Some(((descriptor, blob), mut status)) = error {
            // The details are in the blob, and may be long.
            status.details.clear();
            record.error = MessageField::some(status);
            record.externalError = MessageField::some(to_wire(&descriptor));
            blobs.push(blob);
        }
        let entry = Entry::new(Arc::new(record), blobs);
        Ok(Ended { entry, own_spans, client_spans: known, interest })
    }
}

/// A build's record, and what its trace still waits for.
struct Ended {
    entry: Entry,
    own_spans: Vec<serde_json::Value>,
    client_spans: usize,
    interest: Interest,
}

fn count_steps(record: &mut wire::BuildHistoryRecord, summary: &Summary) {
    record.numTotalSteps = count(summary.vertices.len());
    record.numCompletedSteps = count(summary.completed());
    record.numCachedSteps = count(summary.cached());
    record.numWarnings = count(summary.warnings);
}

/// A failure as clients decode it: with its details, and a stack that says who reports it.
fn error(failure: &Failure) -> Status {
    let stack = json!({
        "frames": [{ "Name": module_path!(), "File": file!(), "Line": line!() }],
        "version": env!("CARGO_PKG_VERSION"),
    });
    let stack = (STACK.to_owned(), stack.to_string().into());
    let mut room = MAX_DETAILS;
    let details = std::iter::once(&stack).chain(failure.details()).filter_map(|(url, value)| {
        let value = redact::detail(value)?;
        room = room.checked_sub(value.len())?;
        Some(buffa_types::google::protobuf::Any {
            type_url: url.clone(),
            value,
            ..Default::default()
        })
    });
    Status {
        code: i32::try_from(failure.code().grpc_code()).unwrap_or(2),
        message: redact::error(failure.message()),
        details: details.collect(),
        ..Status::default()
    }
}
