//! A job's events: one ordered history, any number of readers.
//!
//! The history lives as long as the job or a reader of it, so that whoever comes late sees all of
//! it. Rules of the stream that concern more than one vertex are applied here, once per job: when
//! a vertex starts, inputs that never did are shown as cached; when the job closes, what still
//! runs is shown as cancelled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;
use tokio::sync::watch;

use crate::error::CANCELED;
use crate::event::{Event, LogChunk, LogStream, StatusUpdate, VertexState, WarningUpdate};
use crate::journal::Change;

/// Output of all vertices together that one job usually keeps for its readers: more than a dozen
/// steps that print all they may.
pub(crate) const MAX_JOB_OUTPUT: usize = 256 << 20;

const JOB_CLIPPED: &str = "[output clipped, log limit of the build reached]\n";

/// The events of one job.
pub(crate) struct JobLog {
    state: Mutex<State>,
    wake: watch::Sender<()>,
    /// Output that is kept.
    max_output: usize,
}

#[derive(Default)]
struct State {
    events: Vec<Arc<Event>>,
    vertices: HashMap<Digest, VertexState>,
    announced: Vec<Digest>,
    output: usize,
    clipped: bool,
    closed: bool,
}

impl JobLog {
    pub(crate) fn new(max_output: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake: watch::Sender::new(()), max_output })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change and wakes the readers. Returns whether the history was still open.
    fn change(&self, change: impl FnOnce(&mut State)) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        change(&mut state);
        drop(state);
        self.wake.send_replace(());
        true
    }

    /// Introduces a vertex. The first introduction counts.
    pub(crate) fn announce(&self, vertex: VertexState) {
        self.change(|state| {
            if !state.vertices.contains_key(&vertex.digest) {
                state.announced.push(vertex.digest);
                state.vertices.insert(vertex.digest, vertex.clone());
                state.events.push(Arc::new(Event::Vertex(vertex)));
            }
        });
    }

    /// Reports what happened to the vertex that this job calls `digest`.
    pub(crate) fn apply(&self, digest: Digest, change: &Change) {
        self.change(|state| state.apply(digest, change, self.max_output));
    }

    /// Ends the history: what still runs is shown as cancelled. Returns whether it was open.
    pub(crate) fn close(&self) -> bool {
        self.change(|state| {
            state.cancel_running(Utc::now());
            state.closed = true;
        })
    }

    pub(crate) fn read(self: &Arc<Self>) -> EventStream {
        EventStream { log: Arc::clone(self), next: 0, wake: self.wake.subscribe() }
    }
}

impl State {
    fn apply(&mut self, vertex: Digest, change: &Change, max_output: usize) {
        match change {
            Change::Life(life) => {
                let Some(known) = self.vertices.get(&vertex) else { return };
                let mut known = known.clone();
                known.started = life.started;
                known.completed = life.completed;
                known.cached = life.cached;
                known.error.clone_from(&life.error);
                known.saved = life.saved;
                if let Some(started) = known.started {
                    self.show_idle_inputs(&known, started);
                }
                self.show(known);
            }
            Change::Status { status, at } => self.push(Event::Status(StatusUpdate {
                vertex,
                status: Arc::clone(status),
                timestamp: *at,
            })),
            Change::Log { stream, data, at } => {
                let chunk =
                    LogChunk { vertex, stream: *stream, data: data.clone(), timestamp: *at };
                self.output(chunk, max_output);
            }
            Change::Warning(warning) => {
                self.push(Event::Warning(WarningUpdate { vertex, warning: Arc::clone(warning) }));
            }
        }
    }

    /// What a starting vertex needs and never started itself was not needed: it is cached.
    fn show_idle_inputs(&mut self, vertex: &VertexState, at: DateTime<Utc>) {
        let mut stack: Vec<Digest> = vertex.inputs.to_vec();
        while let Some(digest) = stack.pop() {
            let Some(input) = self.vertices.get(&digest) else { continue };
            if input.started.is_some() {
                continue;
            }
            let mut input = input.clone();
            input.started = Some(at);
            input.completed = Some(at);
            input.cached = true;
            stack.extend(input.inputs.iter());
            self.show(input);
        }
    }

    fn cancel_running(&mut self, at: DateTime<Utc>) {
        for digest in std::mem::take(&mut self.announced) {
            let Some(vertex) = self.vertices.get(&digest) else { continue };
            if vertex.started.is_some() && vertex.completed.is_none() {
                let mut vertex = vertex.clone();
                vertex.completed = Some(at);
                vertex.error = (!vertex.cached).then(|| CANCELED.into());
                self.show(vertex);
            }
        }
    }

    fn output(&mut self, chunk: LogChunk, max_output: usize) {
        // What comes after a gap would be taken for what follows.
        if !self.clipped && self.output.saturating_add(chunk.data.len()) <= max_output {
            self.output += chunk.data.len();
            self.push(Event::Log(chunk));
        } else if !std::mem::replace(&mut self.clipped, true) {
            let data = Bytes::from_static(JOB_CLIPPED.as_bytes());
            self.push(Event::Log(LogChunk { data, stream: LogStream::Stderr, ..chunk }));
        }
    }

    fn show(&mut self, vertex: VertexState) {
        self.vertices.insert(vertex.digest, vertex.clone());
        self.push(Event::Vertex(vertex));
    }

    fn push(&mut self, event: Event) {
        self.events.push(Arc::new(event));
    }
}

/// A reader of a job's events: all from the beginning, then live, until the job is closed.
pub struct EventStream {
    log: Arc<JobLog>,
    next: usize,
    wake: watch::Receiver<()>,
}

impl EventStream {
    /// The next event; `None` when the job is closed and all was read. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        self.batch(1).await?.pop()
    }

    /// The next events, at least one and at most `max`; `None` as for [`EventStream::next`].
    pub async fn batch(&mut self, max: usize) -> Option<Vec<Arc<Event>>> {
        loop {
            self.wake.mark_unchanged();
            if let Some(result) = self.available(max.max(1)) {
                return result;
            }
            // The sender lives in the log that this reader holds, so this cannot fail.
            self.wake.changed().await.ok()?;
        }
    }

    fn available(&mut self, max: usize) -> Option<Option<Vec<Arc<Event>>>> {
        let state = self.log.lock();
        let end = state.events.len().min(self.next.saturating_add(max));
        if self.next < end {
            let events = state.events[self.next..end].to_vec();
            self.next = end;
            return Some(Some(events));
        }
        state.closed.then_some(None)
    }

    /// The same reader as a stream.
    pub fn into_stream(self) -> impl futures::Stream<Item = Arc<Event>> + Send {
        futures::stream::unfold(self, |mut reader| async move {
            let event = reader.next().await?;
            Some((event, reader))
        })
    }
}
