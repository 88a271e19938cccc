//! Redrawn lines for a terminal: what is done above, what runs below.
//!
//! Only what fits the screen is drawn, so that the lines drawn last time can always be reached
//! again. Everything shown has passed [`crate::text`].

use chrono::{DateTime, Utc};

use super::bytes;
use super::tracker::{Step, Tracker};
use crate::text;

/// Log lines shown below each running step.
const LOG_LINES: usize = 5;

/// Transfers shown below each running step.
const STATUS_LINES: usize = 4;

/// Columns for the time at the right end.
const TIME_COLUMNS: usize = 8;

/// What is assumed of a terminal that does not say.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const BLUE: &str = "\x1b[34m";
const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The terminal display.
pub(super) struct Tty {
    size: fn() -> Option<(usize, usize)>,
    /// Lines on the screen that belong to the last frame.
    drawn: usize,
    hidden: bool,
}

impl Tty {
    pub(super) const fn new(size: fn() -> Option<(usize, usize)>) -> Self {
        Self { size, drawn: 0, hidden: false }
    }

    /// The bytes that turn the last frame into the current one.
    pub(super) fn frame(&mut self, tracker: &Tracker, now: DateTime<Utc>, last: bool) -> String {
        let (columns, rows) = (self.size)().unwrap_or(DEFAULT_SIZE);
        let mut out = String::new();
        if !self.hidden {
            out.push_str(HIDE_CURSOR);
            self.hidden = true;
        }
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A\r\x1b[J", self.drawn));
        }
        let mut lines = vec![headline(tracker, now, last, columns)];
        let shown: Vec<&Step> =
            tracker.steps.iter().filter(|step| step.started.is_some()).collect();
        for step in &shown {
            lines.push(step_line(step, now, columns));
            if step.is_running() && !last {
                lines.extend(details(step, columns));
            }
        }
        // All steps once at the end; before that the newest that fit, with the headline.
        let room = rows.saturating_sub(2).max(3);
        if !last && lines.len() > room {
            let cut = lines.len() - room + 1;
            lines.drain(1..=cut);
        }
        self.drawn = if last { 0 } else { lines.len() };
        for line in lines {
            out.push_str(&line);
            out.push('\n');
        }
        if last {
            out.push_str(self.restore());
        }
        out
    }

    /// Gives the cursor back; empty when it was never taken.
    pub(super) const fn restore(&mut self) -> &'static str {
        if self.hidden {
            self.hidden = false;
            return SHOW_CURSOR;
        }
        ""
    }
}

fn headline(tracker: &Tracker, now: DateTime<Utc>, last: bool, columns: usize) -> String {
    let started = tracker.steps.iter().filter(|step| step.started.is_some());
    let total = started.clone().count();
    let done = started.filter(|step| step.completed.is_some()).count();
    let spent = tracker.began.and_then(|began| (now - began).to_std().ok()).unwrap_or_default();
    let failed = tracker.steps.iter().any(|step| !step.error.is_empty());
    let state = if last && !failed { " FINISHED" } else { "" };
    let line = format!("[+] Building {:.1}s ({done}/{total}){state}", spent.as_secs_f64());
    text::truncate(&line, columns).to_string()
}

fn step_line(step: &Step, now: DateTime<Utc>, columns: usize) -> String {
    let (prefix, color) = if !step.error.is_empty() {
        (if step.error.ends_with("context canceled") { " => CANCELED " } else { " => ERROR " }, RED)
    } else if step.cached {
        (" => CACHED ", BLUE)
    } else if step.completed.is_some() {
        (" => ", BLUE)
    } else {
        (" => ", "")
    };
    let time = format!("{:.1}s", step.duration(now).as_secs_f64());
    let room = columns.saturating_sub(TIME_COLUMNS);
    let left = format!("{prefix}{}", step.name);
    let left = text::truncate(&left, room);
    let gap = columns.saturating_sub(text::width(left) + time.len() + 1).max(1);
    let line = format!("{left}{}{time}", " ".repeat(gap));
    paint(text::truncate(&line, columns.saturating_sub(1)), color)
}

fn details(step: &Step, columns: usize) -> Vec<String> {
    let room = columns.saturating_sub(1);
    let running = step.statuses.iter().filter(|status| status.completed.is_none());
    let mut lines: Vec<String> = running
        .take(STATUS_LINES)
        .map(|status| {
            let mut line = format!(" => => {}", status.id);
            if status.total > 0 {
                line.push_str(&format!(" {} / {}", bytes(status.current), bytes(status.total)));
            } else if status.current > 0 {
                line.push_str(&format!(" {}", bytes(status.current)));
            }
            text::truncate(&line, room).to_string()
        })
        .collect();
    lines.extend(step.tail(LOG_LINES).map(|line| {
        let line = format!(" => => # {}", text::log_line(line));
        paint(text::truncate(&line, room), DIM)
    }));
    lines
}

fn paint(line: &str, color: &str) -> String {
    if color.is_empty() { line.to_string() } else { format!("{color}{line}{RESET}") }
}
