//! A step of a build: its row in the waterfall, its log and its network record.
//!
//! The structs here are what the page is given; the modules below lay them out, within the budget
//! of a document.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::network::ConnectionView;

mod budget;
mod log;
mod row;

pub(crate) use budget::Budget;
pub(crate) use log::paragraph;
pub(crate) use row::{Row, RowContext, State};

/// The most lines of a step's log that a page shows: the first hundred and the last of the others.
/// Asking the records for more than this is of no use unless it is to find the last lines.
pub const MAX_LOG_LINES: usize = 500;
/// The most characters of a line that a page shows.
pub const MAX_LINE_CHARS: usize = 2_000;

/// A step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepView {
    /// Its place in the order in which steps appeared, from 0.
    pub ordinal: u64,
    /// Its digest.
    pub digest: String,
    /// Its name, as the build wrote it.
    pub name: String,
    /// When it started, if it did.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended, if it did.
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether the cache answered it.
    pub cached: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// The time that the cache saved here.
    pub saved: Duration,
    /// Its log; `None`: it wrote nothing.
    pub log: Option<LogView>,
    /// The connections it opened, oldest first.
    pub connections: Vec<ConnectionView>,
}

/// A part of a step's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogView {
    /// Lines without gaps, oldest first. The page shows at most [`MAX_LOG_LINES`] of them and says
    /// how many it left out.
    pub lines: Vec<LogLine>,
    /// How many lines of the step come before the first of `lines`.
    pub before: u64,
    /// Whether the step wrote more after the last of `lines`.
    pub more: bool,
    /// The path of the whole log as text ([`crate::step_log_path`] or [`crate::shared_log_path`]), if it is
    /// offered.
    pub full: Option<String>,
}

impl LogView {
    /// Appends a line and lets go of the first ones when there are too many: reading a whole log
    /// through this keeps its last [`MAX_LOG_LINES`] lines and counts those before. That is what to
    /// show of a step that failed or runs.
    pub fn push_last(&mut self, line: LogLine) {
        // In bulk, so that each line is moved only once.
        if self.lines.len() >= 2 * MAX_LOG_LINES {
            self.lines.drain(..MAX_LOG_LINES);
            self.before = self.before.saturating_add(MAX_LOG_LINES as u64);
        }
        self.lines.push(line);
    }
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub at: Option<DateTime<Utc>>,
    /// What was written, without the line feed; escape sequences and all.
    pub message: String,
}

impl LogLine {
    /// A line as the step wrote it; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn from_bytes(at: Option<DateTime<Utc>>, message: &[u8]) -> LogLine {
        LogLine { at, message: String::from_utf8_lossy(message).into_owned() }
    }
}
