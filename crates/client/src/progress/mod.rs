//! Shows what a build does while it runs, and remembers it for a summary.
//!
//! One [`Progress`] takes every status message of a build and draws in one of five modes. The
//! display never fails a build: a broken output only ends the display.

mod plain;
mod tracker;
mod tty;

use std::io::{self, IsTerminal as _, Write};
use std::str::FromStr;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::mpsc;

use self::plain::Plain;
use self::tracker::Tracker;
use self::tty::Tty;
use crate::error::SolveError;
use crate::excerpt::excerpt;
use crate::status::SolveStatus;
use crate::text;

pub use self::tracker::{StepSummary, Summary};

/// How often a terminal is redrawn.
const TICK: Duration = Duration::from_millis(120);

/// Log lines repeated below a failed build when they were shown before.
const REPEATED: usize = 10;

/// Log lines shown below a failed build when the display kept them short.
const SHOWN: usize = 60;

/// What a display looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressMode {
    /// `Tty` on a terminal, `Plain` elsewhere.
    #[default]
    Auto,
    /// Redrawn lines.
    Tty,
    /// Lines that only grow, for logs.
    Plain,
    /// One JSON value per status message.
    RawJson,
    /// Nothing.
    Quiet,
}

/// A mode that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid progress mode {mode:?}: use auto, plain, tty, rawjson or quiet")]
pub struct ModeError {
    mode: String,
}

impl FromStr for ProgressMode {
    type Err = ModeError;

    fn from_str(mode: &str) -> Result<Self, ModeError> {
        match mode {
            "" | "auto" => Ok(Self::Auto),
            "tty" => Ok(Self::Tty),
            "plain" => Ok(Self::Plain),
            "rawjson" => Ok(Self::RawJson),
            "quiet" | "none" => Ok(Self::Quiet),
            _ => Err(ModeError { mode: mode.to_string() }),
        }
    }
}

enum Renderer {
    Tty(Tty),
    Plain(Plain),
    RawJson,
    Quiet,
}

/// The display of one build.
pub struct Progress {
    tracker: Tracker,
    renderer: Renderer,
    output: Box<dyn Write + Send>,
}

impl Progress {
    /// A display on standard error; a terminal mode falls back to plain without a terminal.
    #[must_use]
    pub fn stderr(mode: ProgressMode) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let mode = match mode {
            ProgressMode::Auto if is_terminal => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            ProgressMode::Tty if !is_terminal => ProgressMode::Plain,
            mode => mode,
        };
        Self::new(mode, Box::new(io::stderr()), terminal_size)
    }

    /// A display on any output. `size` gives columns and rows when the mode needs them.
    pub fn new(
        mode: ProgressMode,
        output: Box<dyn Write + Send>,
        size: fn() -> Option<(usize, usize)>,
    ) -> Self {
        let renderer = match mode {
            ProgressMode::Tty => Renderer::Tty(Tty::new(size)),
            ProgressMode::Plain | ProgressMode::Auto => Renderer::Plain(Plain::default()),
            ProgressMode::RawJson => Renderer::RawJson,
            ProgressMode::Quiet => Renderer::Quiet,
        };
        Self { tracker: Tracker::default(), renderer, output }
    }

    /// Takes one status message.
    pub fn update(&mut self, status: &SolveStatus) {
        let changes = self.tracker.apply(status);
        match &mut self.renderer {
            Renderer::Plain(plain) => {
                plain.take(&self.tracker, changes);
                self.draw(false);
            }
            Renderer::RawJson => {
                if let Ok(line) = serde_json::to_string(status) {
                    self.write(&format!("{line}\n"));
                }
            }
            Renderer::Tty(_) | Renderer::Quiet => {}
        }
    }

    /// Redraws what changes with time alone.
    pub fn tick(&mut self) {
        self.draw(false);
    }

    /// Takes messages until there are no more, redrawing meanwhile.
    pub async fn follow(&mut self, events: &mut mpsc::UnboundedReceiver<SolveStatus>) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(status) => self.update(&status),
                    None => return,
                },
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    /// Ends the display: the last state, warnings, and for a failure the failing step's output
    /// and the place in the user's file. The error itself is the caller's to print.
    pub fn finish(&mut self, error: Option<&SolveError>) -> Summary {
        self.draw(true);
        if !matches!(self.renderer, Renderer::RawJson | Renderer::Quiet) {
            let mut report = self.tracker.warning_report();
            if let Some(error) = error {
                report.push_str(&self.failure_report(error));
            }
            self.write(&report);
        } else if let (Some(error), Renderer::Quiet) = (error, &self.renderer) {
            let report = self.failure_report(error);
            self.write(&report);
        }
        // An output that broke has nobody to tell.
        let _ = self.output.flush();
        self.tracker.summary()
    }

    fn failure_report(&self, error: &SolveError) -> String {
        let mut report = String::new();
        if matches!(error, SolveError::Canceled) {
            return report;
        }
        let lines = if matches!(self.renderer, Renderer::Plain(_)) { REPEATED } else { SHOWN };
        if let Some(step) = self.tracker.failed(error.vertex().as_deref()) {
            report.push_str(&format!("------\n > {}:\n", text::single_line(&step.name)));
            for line in step.tail(lines) {
                report.push_str(&text::log_line(line));
                report.push('\n');
            }
            report.push_str("------\n");
        }
        for location in error.locations() {
            report.push_str(&excerpt(&location));
        }
        report
    }

    fn draw(&mut self, last: bool) {
        let frame = match &mut self.renderer {
            Renderer::Tty(tty) => tty.frame(&self.tracker, Utc::now(), last),
            Renderer::Plain(plain) => plain.flush(&self.tracker, Utc::now(), last),
            Renderer::RawJson | Renderer::Quiet => return,
        };
        self.write(&frame);
    }

    fn write(&mut self, text: &str) {
        // The display never fails a build.
        let _ = self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Renderer::Tty(tty) = &mut self.renderer {
            let restore = tty.restore();
            self.write(restore);
        }
    }
}

fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// A byte count as people read it.
fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count.max(0) as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value}{}", UNITS[0]) } else { format!("{value:.2}{}", UNITS[unit]) }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
