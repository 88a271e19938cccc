//! Where the bars of steps lie on the time axis of a build.
//!
//! Positions are percentages of the row's width: an inline SVG without a view box then stretches
//! with the page while its text and strokes keep their size, and needs no style attribute.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use crate::format::{between, duration};
use crate::step::StepView;

/// The most intervals between ticks.
const MAX_INTERVALS: i64 = 6;
/// Beyond this place the label of a tick stands on its left: it would not fit around it.
const LAST_LABEL_AROUND: f64 = 95.0;
/// Beyond this place the word beside a mark stands on its left.
const LAST_WORD_RIGHT: f64 = 70.0;

/// A place on the axis in percent of its length.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}%", self.0)
    }
}

impl askama::filters::HtmlSafe for Percent {}

/// The time axis of a build.
#[derive(Debug)]
pub(crate) struct Axis {
    start: DateTime<Utc>,
    millis: i64,
    pub(crate) ticks: Vec<Tick>,
}

/// A line across all rows.
#[derive(Debug)]
pub(crate) struct Tick {
    pub(crate) x: Percent,
    pub(crate) label: String,
    /// `start` at the left edge, `end` at the right one, else `middle`.
    pub(crate) anchor: &'static str,
    /// Whether narrow screens leave its label out.
    pub(crate) minor: bool,
}

/// A step on the axis.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) x: Percent,
    pub(crate) width: Percent,
    /// For those who do not see it.
    pub(crate) label: String,
    /// Where the word beside a mark stands: its offset and anchor.
    pub(crate) word: (&'static str, &'static str),
}

impl Axis {
    /// The axis from the first of `from` to the last of `to`, made wide enough for all steps.
    pub(crate) fn new(from: DateTime<Utc>, to: DateTime<Utc>, steps: &[StepView]) -> Axis {
        let starts = steps.iter().filter_map(|step| step.started_at);
        let ends = steps.iter().filter_map(|step| step.completed_at);
        let start = starts.fold(from, DateTime::min);
        let end = ends.fold(to, DateTime::max);
        let millis = (end - start).num_milliseconds().max(1);
        Axis { start, millis, ticks: ticks(millis) }
    }

    /// The bar of a step that started at `from` and went on until `to`.
    pub(crate) fn bar(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Bar {
        let (x, end) = (self.place(from), self.place(to));
        let word = if x.0 > LAST_WORD_RIGHT { ("-9", "end") } else { ("9", "start") };
        let label = format!(
            "starts after {}, takes {}",
            duration(between(self.start, from)),
            duration(between(from, to))
        );
        Bar { x, width: Percent((end.0 - x.0).max(0.0)), label, word }
    }

    #[allow(clippy::cast_precision_loss)] // two decimals are shown
    fn place(&self, at: DateTime<Utc>) -> Percent {
        let millis = (at - self.start).num_milliseconds();
        Percent((millis as f64 / self.millis as f64 * 100.0).clamp(0.0, 100.0))
    }
}

/// Ticks at round times.
#[allow(clippy::cast_precision_loss)] // two decimals are shown
fn ticks(millis: i64) -> Vec<Tick> {
    const ROUND: [i64; 23] = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000,
        120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000,
    ];
    let fits = |every: &&i64| millis / **every < MAX_INTERVALS;
    let every = ROUND.iter().find(fits).copied().unwrap_or_else(|| {
        let hours = millis / MAX_INTERVALS / 3_600_000 + 1;
        hours * 3_600_000
    });
    let last = (millis - 1).max(0) / every;
    (0..=last)
        .map(|index| {
            let x = Percent((index * every) as f64 / millis as f64 * 100.0);
            let anchor = match index {
                0 => "start",
                _ if x.0 > LAST_LABEL_AROUND => "end",
                _ => "middle",
            };
            Tick { x, label: tick_label(index * every), anchor, minor: index % 2 == 1 }
        })
        .collect()
}

fn tick_label(millis: i64) -> String {
    let time = TimeDelta::milliseconds(millis);
    let (hours, minutes, seconds) = (time.num_hours(), time.num_minutes(), time.num_seconds());
    match (millis, hours) {
        (0, _) => "0".to_owned(),
        (1..=999, _) => format!("{millis}\u{202f}ms"),
        (1_000..=59_999, _) if millis % 1000 == 0 => format!("{seconds}\u{202f}s"),
        (1_000..=59_999, _) => format!("{}.{}\u{202f}s", seconds, millis % 1000 / 100),
        (_, 0) if seconds % 60 == 0 => format!("{minutes}\u{202f}m"),
        (_, 0) => format!("{minutes}:{:02}", seconds % 60),
        (_, _) if minutes % 60 == 0 => format!("{hours}\u{202f}h"),
        (_, _) => format!("{hours}:{:02}\u{202f}h", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + millis).unwrap()
    }

    #[test]
    fn bars_lie_within_the_axis() {
        let axis = Axis::new(at(0), at(10_000), &[]);
        let bar = axis.bar(at(2_500), at(5_000));
        assert_eq!((bar.x.to_string(), bar.width.to_string()), ("25.00%".into(), "25.00%".into()));
        let outside = axis.bar(at(-5_000), at(50_000));
        assert_eq!((outside.x, outside.width), (Percent(0.0), Percent(100.0)));
        let backwards = axis.bar(at(5_000), at(1_000));
        assert_eq!((backwards.x, backwards.width), (Percent(50.0), Percent(0.0)));
    }

    #[test]
    fn ticks_are_round_and_few() {
        let labels = |millis| -> Vec<String> {
            ticks(millis).into_iter().map(|tick| tick.label.replace('\u{202f}', " ")).collect()
        };
        assert_eq!(labels(10_000), ["0", "2 s", "4 s", "6 s", "8 s"]);
        assert_eq!(labels(47_000), ["0", "10 s", "20 s", "30 s", "40 s"]);
        assert_eq!(labels(100_000), ["0", "30 s", "1 m", "1:30"]);
        assert_eq!(labels(3), ["0", "1 ms", "2 ms"]);
        for millis in [1, 999, 59_999, 86_400_000, 30 * 86_400_000, i64::MAX / 2] {
            let ticks = ticks(millis);
            assert!(!ticks.is_empty() && ticks.len() <= 7, "{millis}: {}", ticks.len());
            assert!(ticks.iter().all(|tick| tick.x.0 >= 0.0 && tick.x.0 <= 100.0));
        }
    }

    #[test]
    fn clocks_that_go_back_do_no_harm() {
        let axis = Axis::new(at(10_000), at(0), &[]);
        assert_eq!(axis.bar(at(0), at(0)).width, Percent(0.0));
        let axis = Axis::new(DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, &[]);
        assert!(axis.bar(at(0), at(1)).x.0 > 0.0);
    }
}
