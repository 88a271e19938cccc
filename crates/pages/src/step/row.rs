//! A step as a row of the waterfall, with what opens below it.

use chrono::{DateTime, Utc};

use super::log::{Log, paragraph};
use super::{Budget, StepView};
use crate::build::Status;
use crate::format;
use crate::network::{Table, Totals};
use crate::text::{MAX_TEXT_CHARS, Markup, shown, shown_within};
use crate::waterfall::{Axis, Bar};

/// The most characters of a name that are shown anywhere.
const MAX_NAME_CHARS: usize = 4_000;
/// The most bytes of markup of an error, and of one that the page has no room for any more.
const MAX_ERROR_MARKUP: usize = 24 * 1024;
const MIN_ERROR_MARKUP: usize = 400;

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Waiting,
    Running,
    Done,
    Cached,
    Failed,
    /// It had started when the build ended.
    Stopped,
}

impl State {
    /// The state of a step of a build that stands at `status`.
    pub(crate) fn of(step: &StepView, status: Status) -> State {
        let running = status == Status::Running;
        match (step.started_at, step.completed_at) {
            _ if step.error.is_some() => State::Failed,
            _ if step.cached => State::Cached,
            (_, Some(_)) => State::Done,
            (Some(_), None) if running => State::Running,
            (Some(_), None) => State::Stopped,
            (None, None) => State::Waiting,
        }
    }

    /// The class of its row and the id of its sign.
    pub(crate) fn class(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Done => "done",
            State::Cached => "cached",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }

    /// What it is called.
    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Waiting => "not started",
            State::Done => "done",
            State::Running => "running",
            State::Cached => "cached",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }
}

/// What all rows of a build share.
pub(crate) struct RowContext<'a> {
    pub(crate) status: Status,
    pub(crate) axis: &'a Axis,
    /// Where network times count from.
    pub(crate) start: DateTime<Utc>,
    /// Where the bars of steps that have not ended end.
    pub(crate) end: DateTime<Utc>,
}

/// A step as `step.html` shows it.
pub(crate) struct Row {
    pub(crate) ordinal: u64,
    pub(crate) state: State,
    pub(crate) name: Name,
    pub(crate) bar: Option<Bar>,
    /// How long it took, or has taken so far; empty if it never started.
    pub(crate) duration: String,
    /// What the cache saved; empty if nothing.
    pub(crate) saved: String,
    pub(crate) started: String,
    pub(crate) digest: Markup,
    pub(crate) error: Option<Markup>,
    pub(crate) log: Option<Log>,
    pub(crate) network: Option<Table>,
    pub(crate) totals: Totals,
    /// Whether connections could not be listed for want of room.
    pub(crate) network_left_out: bool,
    pub(crate) open: bool,
}

/// The name of a step in its parts: `[build 2/5] RUN npm ci` has all three.
pub(crate) struct Name {
    /// What stood in brackets.
    pub(crate) stage: Markup,
    /// The instruction.
    pub(crate) word: Markup,
    pub(crate) rest: Markup,
    /// The whole name if it is too long for the row.
    pub(crate) whole: Option<Markup>,
}

impl Row {
    /// Lays a step out within what is left of the page.
    pub(crate) fn new(step: &StepView, context: &RowContext<'_>, budget: &mut Budget) -> Row {
        let state = State::of(step, context.status);
        let mut name = Name::of(&step.name);
        if step.name.chars().nth(MAX_TEXT_CHARS).is_some() && budget.markup() > MIN_ERROR_MARKUP {
            let whole = shown_within(&step.name, MAX_NAME_CHARS);
            budget.spend_markup(whole.len());
            name.whole = Some(whole);
        }
        let error = step.error.as_deref().map(|error| {
            let most = budget.markup().clamp(MIN_ERROR_MARKUP, MAX_ERROR_MARKUP);
            let error = paragraph(error, most);
            budget.spend_markup(error.len());
            error
        });
        let log = step.log.as_ref().map(|log| Log::new(log, step.started_at, budget));
        let totals = Totals::of(&step.connections);
        let room = budget.rows();
        let connections = if room > 0 { &step.connections[..] } else { &[] };
        let network = Table::new(shown(&step.name), connections, context.start, room);
        budget.spend_rows(network.as_ref().map_or(0, Table::rows));
        let end = step.completed_at.unwrap_or(context.end);
        let took = |from| format::duration(format::between(from, end));
        Row {
            ordinal: step.ordinal,
            state,
            bar: step.started_at.map(|from| context.axis.bar(from, end)),
            duration: step.started_at.map(took).unwrap_or_default(),
            saved: if step.saved.is_zero() { String::new() } else { format::duration(step.saved) },
            started: step.started_at.map_or_else(String::new, |at| {
                format::duration(format::between(context.start, at))
            }),
            digest: shown(&step.digest),
            network_left_out: network.is_none() && !totals.is_empty(),
            open: matches!(state, State::Failed | State::Running)
                && (error.is_some() || log.is_some()),
            name,
            error,
            log,
            network,
            totals,
        }
    }
}

impl Row {
    /// Whether the end of its log matters more than the beginning.
    pub(crate) fn ends_matter(&self) -> bool {
        matches!(self.state, State::Failed | State::Running | State::Stopped)
    }
}

impl Name {
    fn of(name: &str) -> Name {
        let name = name.trim();
        let (stage, rest) = name
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .filter(|(stage, rest)| stage.len() <= 100 && !rest.trim().is_empty())
            .unwrap_or(("", name));
        let rest = rest.trim_start();
        let word_end = rest
            .find(|c: char| !c.is_ascii_uppercase())
            .filter(|end| *end > 1 && rest[*end..].starts_with(' '))
            .unwrap_or(0);
        let (word, rest) = rest.split_at(word_end);
        Name { stage: shown(stage), word: shown(word), rest: shown(rest), whole: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parts(name: &str) -> (String, String, String) {
        let name = Name::of(name);
        (name.stage.to_string(), name.word.to_string(), name.rest.to_string())
    }

    #[test]
    fn names_fall_into_parts() {
        let part = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(parts("[build 2/5] RUN npm ci"), part("build 2/5", "RUN", "npm ci"));
        assert_eq!(
            parts("[internal] load build context"),
            part("internal", "", "load build context")
        );
        assert_eq!(parts("exporting to image"), part("", "", "exporting to image"));
        assert_eq!(parts("COPY . ."), part("", "COPY", ". ."));
        assert_eq!(parts("[only]"), part("", "", "[only]"));
        assert_eq!(parts("A b"), part("", "", "A b"));
        assert_eq!(parts(""), part("", "", ""));
        assert_eq!(parts("[é] RUNé"), part("é", "", "RUNé"));
        assert_eq!(parts("[<b>] RUN <i>"), part("&lt;b&gt;", "RUN", "&lt;i&gt;"));
    }

    #[test]
    fn long_names_are_cut_in_the_row() {
        let name = Name::of(&format!("RUN {}", "x".repeat(1_000)));
        assert!(name.rest.to_string().ends_with('…'));
        assert!(Name::of(&"\u{202e}".repeat(1_000_000)).rest.len() < 20_000);
    }

    #[test]
    fn states() {
        let at = DateTime::from_timestamp(1_800_000_000, 0);
        let step = |started_at, completed_at, cached, error: Option<&str>| StepView {
            ordinal: 0,
            digest: String::new(),
            name: String::new(),
            started_at,
            completed_at,
            cached,
            error: error.map(str::to_owned),
            saved: std::time::Duration::ZERO,
            log: None,
            connections: Vec::new(),
        };
        let state = |step, status| State::of(&step, status);
        assert_eq!(state(step(None, None, false, None), Status::Running), State::Waiting);
        assert_eq!(state(step(at, None, false, None), Status::Running), State::Running);
        assert_eq!(state(step(at, None, false, None), Status::Canceled), State::Stopped);
        assert_eq!(state(step(at, at, false, None), Status::Success), State::Done);
        assert_eq!(state(step(at, at, true, None), Status::Success), State::Cached);
        assert_eq!(state(step(at, at, false, Some("x")), Status::Failed), State::Failed);
    }
}
