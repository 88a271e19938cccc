//! Steps as bars along the time of their build.
//!
//! A line is `number  name  bar  time  state`. The state is always written out: neither colours nor the shape of a bar are
//! needed to read it. No line is wider than the terminal.

use chrono::{DateTime, Utc};
use cofferdam_apiclient::Step;
use cofferdam_client::text;

use crate::terminal::{Paint, Style, duration};

/// Columns of the time and of the state.
const TIME: usize = 7;
const STATE: usize = 7;

/// Between two columns.
const GAP: usize = 2;

/// Without room for this many columns there are no bars.
const NARROWEST: usize = 10;
const WIDEST: usize = 100;

/// Columns of a name that are not given up for a bar.
const NAME: usize = 16;

/// Parts of a character cell that can be filled from the left, in eighths.
const EIGHTHS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
    Cached,
    Failed,
}

impl State {
    const fn of(step: &Step) -> Self {
        match step {
            Step { error: Some(_), .. } => Self::Failed,
            Step { cached: true, .. } => Self::Cached,
            Step { completed_at: Some(_), .. } => Self::Done,
            Step { started_at: Some(_), .. } => Self::Running,
            _ => Self::Waiting,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "",
            Self::Cached => "cached",
            Self::Failed => "failed",
        }
    }

    const fn paint(self) -> Paint {
        match self {
            Self::Waiting => Paint::Dim,
            Self::Running => Paint::Running,
            Self::Done => Paint::Plain,
            Self::Cached => Paint::Cached,
            Self::Failed => Paint::Failed,
        }
    }

    /// What a bar is drawn with where there is only ASCII.
    const fn letter(self) -> char {
        match self {
            Self::Waiting => ' ',
            Self::Running => '>',
            Self::Done => '#',
            Self::Cached => '-',
            Self::Failed => 'x',
        }
    }
}

/// Widths of the columns that share what the others leave.
struct Layout {
    number: usize,
    name: usize,
    bar: usize,
}

impl Layout {
    fn new(steps: &[Step], columns: usize) -> Self {
        let number = steps.len().to_string().len();
        let longest =
            steps.iter().map(|step| text::width(&text::single_line(&step.name))).max().unwrap_or(0);
        let room = columns.saturating_sub(number + TIME + STATE + 3 * GAP);
        if room < NAME + GAP + NARROWEST {
            return Self { number, name: room, bar: 0 };
        }
        let room = room - GAP;
        // A little more than half for names, and what they do not need for bars.
        let name = longest.clamp(NAME, (room * 11 / 20).max(NAME));
        Self { number, name, bar: (room - name).min(WIDEST) }
    }
}

/// The time of all steps.
struct Span {
    start: DateTime<Utc>,
    length: f64,
}

impl Span {
    fn new(steps: &[Step], now: DateTime<Utc>) -> Option<Self> {
        let start = steps.iter().filter_map(|step| step.started_at).min()?;
        let end = |step: &Step| step.started_at.map(|_| step.completed_at.unwrap_or(now));
        let end = steps.iter().filter_map(end).max()?;
        Some(Self { start, length: between(start, end) })
    }

    /// Where on a line of `cells` a moment lies.
    fn position(&self, at: DateTime<Utc>, cells: f64) -> f64 {
        if self.length <= 0.0 {
            return 0.0;
        }
        (between(self.start, at) / self.length * cells).clamp(0.0, cells)
    }
}

/// Seconds from one moment to another.
fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "for drawing")]
    let milliseconds = (to - from).num_milliseconds() as f64;
    milliseconds / 1000.0
}

/// Draws all steps; those that still run end `now`.
pub(super) fn draw(steps: &[Step], now: DateTime<Utc>, style: Style) -> String {
    let layout = Layout::new(steps, style.columns);
    let span = Span::new(steps, now);
    let mut out = String::new();
    for (index, step) in steps.iter().enumerate() {
        let state = State::of(step);
        let name = text::single_line(&step.name);
        let name = text::truncate(&name, layout.name);
        let blank = " ".repeat(layout.name.saturating_sub(text::width(name)));
        let mut line = format!("{:>number$}  {name}{blank}  ", index + 1, number = layout.number);
        if layout.bar > 0 {
            let drawn = span.as_ref().map(|span| bar(step, state, span, now, layout.bar, style));
            let drawn = drawn.unwrap_or_else(|| " ".repeat(layout.bar));
            line.push_str(&style.paint(&drawn, state.paint()));
            line.push_str("  ");
        }
        let spent = step.started_at.map(|start| between(start, step.completed_at.unwrap_or(now)));
        let spent = spent.map(duration).unwrap_or_default();
        line.push_str(&format!("{spent:>TIME$}"));
        if !state.word().is_empty() {
            line.push_str(&format!("  {}", style.paint(state.word(), state.paint())));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "positions lie between 0 and the bar's few columns"
)]
fn bar(
    step: &Step,
    state: State,
    span: &Span,
    now: DateTime<Utc>,
    cells: usize,
    style: Style,
) -> String {
    let Some(start) = step.started_at else { return " ".repeat(cells) };
    let first = span.position(start, cells as f64).floor() as usize;
    let first = first.min(cells - 1);
    let end = span.position(step.completed_at.unwrap_or(now), cells as f64);
    let mut drawn = " ".repeat(first);
    if style.unicode {
        // At least an eighth, so that the shortest step can be seen.
        let eighths = (((end - first as f64) * 8.0).round() as usize).clamp(1, (cells - first) * 8);
        drawn.extend(std::iter::repeat_n(EIGHTHS[8], eighths / 8));
        drawn.extend(Some(EIGHTHS[eighths % 8]).filter(|part| *part != ' '));
    } else {
        let count = ((end - first as f64).round() as usize).clamp(1, cells - first);
        drawn.extend(std::iter::repeat_n(state.letter(), count));
    }
    let used = drawn.chars().count();
    drawn.push_str(&" ".repeat(cells - used));
    drawn
}

#[cfg(test)]
#[path = "waterfall_tests.rs"]
mod tests;
