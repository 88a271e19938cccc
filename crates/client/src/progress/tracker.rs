//! Every step of a build as the status stream has told it so far.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::status::{LogEntry, SolveStatus, StatusEntry, VertexEntry, WarningEntry};
use crate::text;

/// Lines of output kept per step, for the report of a failure.
const KEPT_LINES: usize = 100;

/// Longest line kept or shown whole; the rest starts a new line.
const MAX_LINE: usize = 16 << 10;

/// Transfers kept per step; an image has at most some hundred layers.
const MAX_STATUSES: usize = 2000;

/// Warnings kept: lint rules can fire on every line of a file.
const MAX_WARNINGS: usize = 200;

/// Steps of one build; a runaway daemon must not take the client's memory.
const MAX_STEPS: usize = 200_000;

/// One step.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) started: Option<DateTime<Utc>>,
    pub(super) completed: Option<DateTime<Utc>>,
    pub(super) cached: bool,
    saved: Duration,
    pub(super) error: String,
    /// Time of earlier intervals: a step may start several times.
    earlier: Duration,
    pub(super) statuses: Vec<StatusEntry>,
    partial: Vec<u8>,
    lines: VecDeque<String>,
}

impl Step {
    /// Time spent so far.
    pub(super) fn duration(&self, now: DateTime<Utc>) -> Duration {
        let current = self.started.map_or(Duration::ZERO, |started| {
            (self.completed.unwrap_or(now) - started).to_std().unwrap_or_default()
        });
        self.earlier + current
    }

    pub(super) const fn is_running(&self) -> bool {
        self.started.is_some() && self.completed.is_none()
    }

    /// The last `count` lines of output.
    pub(super) fn tail(&self, count: usize) -> impl Iterator<Item = &str> {
        self.lines.iter().skip(self.lines.len().saturating_sub(count)).map(String::as_str)
    }

    fn remember(&mut self, line: &str) {
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_string());
    }

    /// Complete lines of what was written so far.
    fn write(&mut self, data: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        for byte in data {
            if *byte == b'\n' {
                out.push(self.end_line().unwrap_or_default());
                continue;
            }
            if self.partial.len() >= MAX_LINE {
                out.extend(self.end_line());
            }
            self.partial.push(*byte);
        }
        for line in &out {
            self.remember(line);
        }
        out
    }

    fn end_line(&mut self) -> Option<String> {
        if self.partial.is_empty() {
            return None;
        }
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        Some(line.trim_end_matches('\r').to_string())
    }
}

/// What one message changed, in order.
#[derive(Debug)]
pub(super) enum Change {
    /// A step started.
    Started(usize),
    /// A step wrote a line, this long after its start.
    Line(usize, Duration, String),
    /// A status of a step changed.
    Status(usize, StatusEntry),
    /// A step ended.
    Ended(usize),
}

/// What a build did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Every step that ran or was cached, in the order it appeared.
    pub steps: Vec<StepSummary>,
    /// Warnings of the build, one line each.
    pub warnings: Vec<String>,
}

/// One step of a [`Summary`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepSummary {
    /// What was shown.
    pub name: String,
    /// Whether its result was there already.
    pub cached: bool,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// Time spent on it.
    pub duration: Duration,
    /// Time that its cached result took to make, when the builder says so.
    pub saved: Duration,
}

impl StepSummary {
    /// Whether this is a step of the user's build and not the builder's own doing.
    #[must_use]
    pub fn is_user_step(&self) -> bool {
        self.name.starts_with('[')
            && !["[internal]", "[auth]", "[context "].iter().any(|own| self.name.starts_with(own))
    }
}

impl Summary {
    /// Steps of the user's build.
    #[must_use]
    pub fn total(&self) -> usize {
        self.steps.iter().filter(|step| step.is_user_step()).count()
    }

    /// Those whose result was there already.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.steps.iter().filter(|step| step.is_user_step() && step.cached).count()
    }

    /// Time that cached steps took when they were made.
    #[must_use]
    pub fn saved(&self) -> Duration {
        self.steps.iter().filter(|step| step.is_user_step()).map(|step| step.saved).sum()
    }

    /// Time spent on steps of the user's build, whether side by side or not.
    #[must_use]
    pub fn spent(&self) -> Duration {
        self.steps.iter().filter(|step| step.is_user_step()).map(|step| step.duration).sum()
    }
}

/// The steps of one build.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    pub(super) steps: Vec<Step>,
    by_digest: HashMap<String, usize>,
    warnings: Vec<WarningEntry>,
    pub(super) began: Option<DateTime<Utc>>,
}

impl Tracker {
    /// Takes one message.
    pub(super) fn apply(&mut self, status: &SolveStatus) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut ended = Vec::new();
        for entry in &status.vertexes {
            ended.extend(self.vertex(entry, &mut changes));
        }
        for entry in &status.statuses {
            self.status(entry, &mut changes);
        }
        for entry in &status.logs {
            self.log(entry, &mut changes);
        }
        let room = MAX_WARNINGS.saturating_sub(self.warnings.len());
        self.warnings.extend(status.warnings.iter().take(room).cloned());
        // Output of the same message still belongs before the end.
        for index in ended {
            let step = &mut self.steps[index];
            if let Some(line) = step.end_line() {
                let at = step.duration(Utc::now());
                step.remember(&line);
                changes.push(Change::Line(index, at, line));
            }
            changes.push(Change::Ended(index));
        }
        changes
    }

    /// Takes a step's state; returns its index when it ended.
    fn vertex(&mut self, entry: &VertexEntry, changes: &mut Vec<Change>) -> Option<usize> {
        let index = self.index(&entry.digest)?;
        let step = &mut self.steps[index];
        step.name = text::single_line(&entry.name);
        if entry.started.is_some() && entry.started != step.started {
            if let (Some(started), Some(completed)) = (step.started, step.completed) {
                step.earlier += (completed - started).to_std().unwrap_or_default();
            }
            if step.started.is_none() {
                changes.push(Change::Started(index));
            }
            step.started = entry.started;
            step.completed = None;
            self.began = match (self.began, entry.started) {
                (Some(began), Some(started)) => Some(began.min(started)),
                (began, started) => began.or(started),
            };
        }
        step.cached |= entry.cached;
        step.saved = step.saved.max(entry.saved);
        step.error.clone_from(&entry.error);
        if entry.completed.is_none() || step.completed == entry.completed {
            return None;
        }
        step.completed = entry.completed;
        Some(index)
    }

    fn status(&mut self, entry: &StatusEntry, changes: &mut Vec<Change>) {
        let Some(index) = self.by_digest.get(&entry.vertex).copied() else { return };
        let mut entry = entry.clone();
        entry.id = text::single_line(&entry.id);
        entry.name = text::single_line(&entry.name);
        let known = &mut self.steps[index].statuses;
        match known.iter().position(|known| known.id == entry.id) {
            Some(position) => known[position] = entry.clone(),
            None if known.len() < MAX_STATUSES => known.push(entry.clone()),
            None => return,
        }
        changes.push(Change::Status(index, entry));
    }

    fn log(&mut self, entry: &LogEntry, changes: &mut Vec<Change>) {
        let Some(index) = self.by_digest.get(&entry.vertex).copied() else { return };
        let step = &mut self.steps[index];
        let at = match (entry.timestamp, step.started) {
            (Some(at), Some(started)) => (at - started).to_std().unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let lines = step.write(&entry.data);
        changes.extend(lines.into_iter().map(|line| Change::Line(index, at, line)));
    }

    fn index(&mut self, digest: &str) -> Option<usize> {
        if let Some(index) = self.by_digest.get(digest) {
            return Some(*index);
        }
        if self.steps.len() >= MAX_STEPS {
            return None;
        }
        let index = self.steps.len();
        self.steps.push(Step::default());
        self.by_digest.insert(digest.to_string(), index);
        Some(index)
    }

    /// The step a failure is about: the named one, else the first that failed by itself.
    pub(super) fn failed(&self, digest: Option<&str>) -> Option<&Step> {
        let named = digest.and_then(|digest| self.by_digest.get(digest));
        let named = named.map(|index| &self.steps[*index]).filter(|step| !step.error.is_empty());
        named.or_else(|| {
            let canceled = |step: &&Step| step.error.ends_with("context canceled");
            let mut failed = self.steps.iter().filter(|step| !step.error.is_empty());
            failed.clone().find(|step| !canceled(step)).or_else(|| failed.next())
        })
    }

    /// All warnings, as the end of a display shows them.
    pub(super) fn warning_report(&self) -> String {
        if self.warnings.is_empty() {
            return String::new();
        }
        let count = self.warnings.len();
        let plural = if count == 1 { "" } else { "s" };
        let mut out = format!("\n {count} warning{plural} found:\n");
        for warning in &self.warnings {
            let place = warning.source.as_ref().map(|source| {
                let line = warning.range.first().and_then(|range| range.start.get("line"));
                let line = line.map(|line| format!(":{line}")).unwrap_or_default();
                format!(" ({}{line})", text::single_line(&source.filename))
            });
            out.push_str(&format!(" - {}{}\n", short(warning), place.unwrap_or_default()));
            for detail in &warning.detail {
                let detail = text::single_line(&String::from_utf8_lossy(detail));
                out.push_str(&format!("   {detail}\n"));
            }
            if !warning.url.is_empty() {
                out.push_str(&format!("   More info: {}\n", text::single_line(&warning.url)));
            }
        }
        out
    }

    pub(super) fn summary(&self) -> Summary {
        let now = Utc::now();
        let steps =
            self.steps.iter().filter(|step| step.started.is_some()).map(|step| StepSummary {
                name: step.name.clone(),
                cached: step.cached,
                error: step.error.clone(),
                duration: step.duration(now),
                saved: step.saved,
            });
        Summary { steps: steps.collect(), warnings: self.warnings.iter().map(short).collect() }
    }
}

fn short(warning: &WarningEntry) -> String {
    text::single_line(&String::from_utf8_lossy(&warning.short))
}
