//! What happened to one vertex, told to every job that holds it.
//!
//! A job that comes late is first told everything that happened before. Memory is bounded per
//! vertex: output by the log limits and a cap on what is kept for late jobs, progress by a minimum
//! interval per part and a total, warnings by a total.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;

use crate::clip::Clip;
use crate::event::{LogStream, Status, Warning};
use crate::solver::{LogLimits, Places};
use crate::stream::JobLog;

/// Updates of one part of a vertex's work that come faster than people can read are dropped,
/// unless they begin or end the part.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// Updates that one vertex may report, beginnings and ends aside. At the interval above this is
/// enough for a quarter of an hour of one part.
const MAX_STATUSES: usize = 10_000;

/// Parts of one vertex's work, such as layers of an image or files of a transfer.
const MAX_PARTS: usize = 10_000;

/// Warnings of one vertex. A linter that finds more has made its point.
const MAX_WARNINGS: usize = 1_000;

/// Output kept for late jobs when the log limits are off.
const MAX_KEPT_OUTPUT: usize = 64 << 20;

/// Longest piece of output in one event, so that messages of limited size can be filled well.
const MAX_CHUNK: usize = 64 << 10;

/// The changing part of a vertex's state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    pub(crate) started: Option<DateTime<Utc>>,
    pub(crate) completed: Option<DateTime<Utc>>,
    pub(crate) cached: bool,
    pub(crate) error: Option<Arc<str>>,
    pub(crate) saved: Option<Duration>,
}

/// Something that happened to a vertex.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Life(Life),
    Status { status: Arc<Status>, at: DateTime<Utc> },
    Log { stream: LogStream, data: Bytes, at: DateTime<Utc> },
    Warning(Arc<Warning>),
}

/// The record of one vertex.
pub(crate) struct Journal {
    state: Mutex<State>,
}

struct State {
    life: Life,
    history: Vec<Change>,
    kept_output: usize,
    clip: Clip,
    parts: HashMap<String, Instant>,
    statuses: usize,
    warnings: usize,
    subscribers: Vec<Subscriber>,
}

/// A job that is told.
pub(crate) struct Subscriber {
    pub(crate) job: u64,
    pub(crate) id: Arc<str>,
    pub(crate) log: Arc<JobLog>,
    /// What the job calls the vertex.
    pub(crate) digest: Digest,
    /// Where the job's steps find room.
    pub(crate) places: Places,
}

impl Journal {
    pub(crate) fn new(limits: LogLimits) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                life: Life::default(),
                history: Vec::new(),
                kept_output: 0,
                clip: Clip::new(limits),
                parts: HashMap::new(),
                statuses: 0,
                warnings: 0,
                subscribers: Vec::new(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a job what happened so far and all that will happen.
    pub(crate) fn subscribe(&self, subscriber: Subscriber) {
        let mut state = self.lock();
        for change in &state.history {
            subscriber.log.apply(subscriber.digest, change);
        }
        state.subscribers.push(subscriber);
    }

    /// Stops telling a job. Returns whether any job is left.
    pub(crate) fn unsubscribe(&self, job: u64) -> bool {
        let mut state = self.lock();
        state.subscribers.retain(|subscriber| subscriber.job != job);
        !state.subscribers.is_empty()
    }

    fn jobs(&self) -> Vec<Arc<str>> {
        self.lock().subscribers.iter().map(|subscriber| Arc::clone(&subscriber.id)).collect()
    }
}

impl State {
    fn publish(&mut self, change: Change) {
        for subscriber in &self.subscribers {
            subscriber.log.apply(subscriber.digest, &change);
        }
        if let Change::Log { data, .. } = &change {
            if self.kept_output + data.len() > MAX_KEPT_OUTPUT {
                return;
            }
            self.kept_output += data.len();
        }
        self.history.push(change);
    }

    fn output(&mut self, stream: LogStream, data: &Bytes) {
        let at = Utc::now();
        let mut from = 0;
        while from < data.len() {
            let to = data.len().min(from + MAX_CHUNK);
            // A copy, so that a short line does not keep a large read buffer alive.
            let data = Bytes::copy_from_slice(&data[from..to]);
            self.publish(Change::Log { stream, data, at });
            from = to;
        }
    }

    fn admits(&mut self, status: &Status) -> bool {
        let now = Instant::now();
        let last = self.parts.get(&status.id).copied();
        let ends = status.completed.is_some();
        let admitted = match last {
            None => self.parts.len() < MAX_PARTS,
            Some(_) if ends => true,
            Some(last) => {
                self.statuses < MAX_STATUSES && now.duration_since(last) >= STATUS_INTERVAL
            }
        };
        if admitted {
            self.statuses += usize::from(last.is_some() && !ends);
            self.parts.insert(status.id.clone(), now);
        }
        admitted
    }
}

/// Where the work on a vertex reports to. Clones report to the same vertex.
#[derive(Clone)]
pub struct VertexLog {
    journal: Arc<Journal>,
}

impl VertexLog {
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        Self { journal }
    }

    pub(crate) fn jobs(&self) -> Vec<Arc<str>> {
        self.journal.jobs()
    }

    /// The jobs that hold the vertex now, by id, and what each calls it. The job that came first is first.
    #[must_use]
    pub fn holders(&self) -> Vec<(Arc<str>, Digest)> {
        let state = self.journal.lock();
        let holders = state.subscribers.iter();
        holders.map(|holder| (Arc::clone(&holder.id), holder.digest)).collect()
    }

    /// The places of the job that came first.
    pub(crate) fn places(&self) -> Places {
        let state = self.journal.lock();
        state.subscribers.first().map(|first| first.places.clone()).unwrap_or_default()
    }

    /// Reports that work begins now; a vertex may begin again after it completed.
    pub fn start(&self) {
        self.live(|_| Life { started: Some(Utc::now()), ..Life::default() });
    }

    /// Reports that work ended well. Without a start it counts as instantaneous.
    pub fn complete(&self) {
        self.tell_what_was_dropped();
        self.live(ended);
    }

    /// Reports that the result was known already.
    pub fn cached(&self, saved: Option<Duration>) {
        self.live(|life| Life { cached: true, saved, ..ended(life) });
    }

    /// Reports that work failed.
    pub fn fail(&self, error: &str) {
        self.tell_what_was_dropped();
        self.live(|life| Life { error: Some(error.into()), ..ended(life) });
    }

    /// Reports output. Beyond the log limits it is dropped, and a line says so.
    pub fn log(&self, stream: LogStream, data: impl Into<Bytes>) {
        let data = data.into();
        let mut state = self.journal.lock();
        let (passed, notice) = state.clip.admit(data.len(), Instant::now());
        state.output(stream, &data.slice(..passed));
        if let Some(notice) = notice {
            state.output(LogStream::Stderr, &notice.into());
        }
    }

    /// Reports progress of a part of the work. Updates that come too fast are dropped, except the
    /// first and the completing one of a part.
    pub fn status(&self, status: Status) {
        let mut state = self.journal.lock();
        if state.admits(&status) {
            state.publish(Change::Status { status: Arc::new(status), at: Utc::now() });
        }
    }

    /// Reports something worth the user's attention.
    pub fn warning(&self, warning: Warning) {
        let mut state = self.journal.lock();
        if state.warnings < MAX_WARNINGS {
            state.warnings += 1;
            state.publish(Change::Warning(Arc::new(warning)));
        }
    }

    /// Runs `work` as this vertex: reports its start and how it ended.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn track<T, E: std::fmt::Display>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.start();
        let result = work.await;
        match &result {
            Ok(_) => self.complete(),
            Err(error) => self.fail(&error.to_string()),
        }
        result
    }

    pub(crate) fn is_running(&self) -> bool {
        let state = self.journal.lock();
        state.life.started.is_some() && state.life.completed.is_none()
    }

    fn tell_what_was_dropped(&self) {
        let mut state = self.journal.lock();
        if let Some(notice) = state.clip.close() {
            state.output(LogStream::Stderr, &notice.into());
        }
    }

    fn live(&self, next: impl FnOnce(&Life) -> Life) {
        let mut state = self.journal.lock();
        let life = next(&state.life);
        state.life = life.clone();
        state.publish(Change::Life(life));
    }
}

/// The life of a vertex that ends now: a running one keeps its start.
fn ended(life: &Life) -> Life {
    let now = Utc::now();
    let running = life.started.filter(|_| life.completed.is_none());
    Life { started: Some(running.unwrap_or(now)), completed: Some(now), ..Life::default() }
}
