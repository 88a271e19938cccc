//! The status stream: a job's events as BuildKit's clients read them.

use std::sync::Arc;
use std::time::Duration;

use buffa::MessageField;
use cofferdam_digest::Digest;
use cofferdam_solver::{Event, EventStream, StatusUpdate, VertexState, WarningUpdate};
use cofferdam_wire::moby::buildkit::v1::{
    StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};

use crate::wire_time::{optional, timestamp};

/// Events put into one message; keeps messages far below the size limit of clients.
const BATCH: usize = 256;
/// Log bytes put into one message, for the same reason.
const MAX_LOG_BYTES: usize = 1 << 20;

/// Turns events into responses, from the beginning of the job until it is closed. `saved` knows
/// how long cached results took where the event does not.
pub(crate) fn responses(
    events: EventStream,
    saved: impl Fn(&Digest) -> Option<Duration> + Send,
) -> impl futures::Stream<Item = Result<StatusResponse, connectrpc::ConnectError>> + Send {
    let pending: Vec<Arc<Event>> = Vec::new();
    futures::stream::unfold(
        (events, pending, saved),
        |(mut events, mut pending, saved)| async move {
            if pending.is_empty() {
                pending = events.batch(BATCH).await?;
            }
            let (response, rest) = response(pending, &saved);
            Some((Ok(response), (events, rest, saved)))
        },
    )
}

/// One message of as many events as fit, and those that did not.
fn response(
    events: Vec<Arc<Event>>,
    saved: &impl Fn(&Digest) -> Option<Duration>,
) -> (StatusResponse, Vec<Arc<Event>>) {
    let mut response = StatusResponse::default();
    let mut log_bytes = 0;
    let mut events = events.into_iter();
    while let Some(event) = events.next() {
        match &*event {
            Event::Vertex(state) => response.vertexes.push(vertex(state, saved)),
            Event::Status(update) => response.statuses.push(status(update)),
            Event::Log(chunk) => {
                if log_bytes > 0 && log_bytes + chunk.data.len() > MAX_LOG_BYTES {
                    let rest = std::iter::once(event).chain(events).collect();
                    return (sorted(response), rest);
                }
                log_bytes += chunk.data.len();
                response.logs.push(VertexLog {
                    vertex: chunk.vertex.to_string(),
                    timestamp: MessageField::some(timestamp(chunk.timestamp)),
                    stream: chunk.stream as i64,
                    msg: chunk.data.to_vec(),
                    ..VertexLog::default()
                });
            }
            Event::Warning(update) => response.warnings.push(warning(update)),
        }
    }
    (sorted(response), Vec::new())
}

/// Vertices by start, those not started first, as clients expect within one message.
fn sorted(mut response: StatusResponse) -> StatusResponse {
    response.vertexes.sort_by_key(|vertex| {
        vertex.started.as_option().map(|started| (started.seconds, started.nanos))
    });
    response
}

fn vertex(state: &VertexState, saved: &impl Fn(&Digest) -> Option<Duration>) -> Vertex {
    let cached = state.cached.then_some(state.saved);
    let saved = cached.and_then(|known| known.or_else(|| saved(&state.digest)));
    Vertex {
        digest: state.digest.to_string(),
        inputs: state.inputs.iter().map(ToString::to_string).collect(),
        name: state.name.to_string(),
        cached: state.cached,
        started: optional(state.started),
        completed: optional(state.completed),
        error: state.error.as_deref().unwrap_or_default().to_owned(),
        progressGroup: match &state.progress_group {
            Some(group) => MessageField::some(group.clone()),
            None => MessageField::none(),
        },
        savedNanoseconds: saved
            .map_or(0, |saved| i64::try_from(saved.as_nanos()).unwrap_or(i64::MAX)),
        ..Vertex::default()
    }
}

fn status(update: &StatusUpdate) -> VertexStatus {
    VertexStatus {
        ID: update.status.id.clone(),
        vertex: update.vertex.to_string(),
        name: update.status.name.clone(),
        current: update.status.current,
        total: update.status.total,
        timestamp: MessageField::some(timestamp(update.timestamp)),
        started: optional(update.status.started),
        completed: optional(update.status.completed),
        ..VertexStatus::default()
    }
}

fn warning(update: &WarningUpdate) -> VertexWarning {
    let warning = &update.warning;
    VertexWarning {
        vertex: update.vertex.to_string(),
        level: i64::from(warning.level),
        short: warning.short.to_vec(),
        detail: warning.detail.iter().map(|line| line.to_vec()).collect(),
        url: warning.url.clone(),
        info: match &warning.info {
            Some(info) => MessageField::some((**info).clone()),
            None => MessageField::none(),
        },
        ranges: warning.ranges.clone(),
        ..VertexWarning::default()
    }
}
