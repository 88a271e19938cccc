//! A step's log as numbered lines: the beginning, the end, and a word on what is left out between.

use std::ops::Range;

use chrono::{DateTime, Utc};

use super::{Budget, LogLine, LogView, MAX_LOG_LINES};
use crate::ansi::Painter;
use crate::format;
use crate::text::Markup;

/// How many of the lines are taken from the beginning when not all are shown.
const HEAD_LINES: usize = 100;
/// Less room than this is not used for the end of a log.
const MIN_LOG_MARKUP: usize = 2 * 1024;
/// How many bytes of a log may become one byte of markup before it is taken for too long: escape
/// sequences and overwritten progress leave little behind.
const RAW_TO_MARKUP: usize = 8;
/// The most bytes of markup of one log: half for the beginning, the rest for the end.
const MAX_LOG_MARKUP: usize = 768 * 1024;

/// A log as `step.html` shows it.
pub(crate) struct Log {
    /// The lines, as children of `<pre>`.
    pub(crate) lines: Markup,
    /// What is not shown of it; empty if all is.
    pub(crate) left_out: String,
    /// The path of the whole log.
    pub(crate) full: Option<String>,
}

impl Log {
    /// Lays a log out within what is left of the page; times count from `start`.
    pub(crate) fn new(view: &LogView, start: Option<DateTime<Utc>>, budget: &mut Budget) -> Log {
        let most = budget.markup().min(MAX_LOG_MARKUP);
        let mut writer =
            Writer { lines: &view.lines, before: view.before, start, painter: Painter::default() };
        let total = view.lines.len();
        // Without its beginning a log is shown for its end.
        let head_lines = if view.before > 0 { 0 } else { HEAD_LINES };
        let head_end = if total > MAX_LOG_LINES { head_lines } else { total };
        let head = writer.head(head_end, most / if head_end < total { 2 } else { 1 });
        let tail_start = (total - (MAX_LOG_LINES - head_lines).min(total)).max(head.shown);
        let tail = writer.tail(head.shown..tail_start, most - head.markup.len().min(most));

        let hidden = tail.from - head.shown;
        let mut lines = Markup::default();
        if head.shown == 0 {
            gap(&mut lines, view.before.saturating_add(hidden as u64));
        } else {
            gap(&mut lines, view.before);
            lines.push(&head.markup);
            gap(&mut lines, hidden as u64);
        }
        lines.push(&tail.markup);
        if view.more {
            lines.push_markup(r#"<span class="gap">more lines follow</span>"#);
        }
        budget.spend_markup(lines.len());
        Log { lines, left_out: left_out(view, hidden as u64), full: view.full.clone() }
    }
}

/// Text of several lines that is not a log, such as an error: escape sequences as in a log, at most
/// `most` bytes of markup.
pub(crate) fn paragraph(text: &str, most: usize) -> Markup {
    let mut markup = Markup::default();
    let mut painter = Painter::default();
    for (index, line) in text.trim_end().lines().enumerate() {
        if markup.len() > most {
            markup.push_markup("\n<span class=\"cut\"> … the rest is left out</span>");
            break;
        }
        if index > 0 {
            markup.push_markup("\n");
        }
        markup.push(&painter.paint(line));
    }
    markup
}

fn left_out(view: &LogView, hidden: u64) -> String {
    let known = view.before.saturating_add(hidden);
    match (known, view.more) {
        (0, false) => String::new(),
        (0, true) => "Only the beginning of this log is shown.".to_owned(),
        (known, more) => {
            let and_more = if more { " and everything after the last one" } else { "" };
            format!("{}{and_more} left out.", format::counted(known, "line"))
        }
    }
}

fn gap(lines: &mut Markup, count: u64) {
    if count == 0 {
        return;
    }
    lines.push_markup(r#"<span class="gap">"#);
    lines.push_text(&format::counted(count, "line"));
    lines.push_markup(" left out</span>");
}

struct Writer<'a> {
    lines: &'a [LogLine],
    before: u64,
    start: Option<DateTime<Utc>>,
    painter: Painter,
}

struct Head {
    markup: Markup,
    shown: usize,
}

struct Tail {
    markup: Markup,
    from: usize,
}

impl Writer<'_> {
    /// The first lines up to `end`, as many as fit.
    fn head(&mut self, end: usize, most: usize) -> Head {
        let mut markup = Markup::default();
        let mut shown = 0;
        let mut last_time = String::new();
        while shown < end && markup.len() < most {
            markup.push(&self.line(shown, &mut last_time));
            shown += 1;
        }
        Head { markup, shown }
    }

    /// The lines after `skipped`, as many of the last ones as fit. Lines that cannot fit are not
    /// painted: what a page costs must not grow with what it leaves out.
    fn tail(&mut self, skipped: Range<usize>, most: usize) -> Tail {
        let end = self.lines.len();
        let sizes = self.lines[skipped.end..].iter().rev().scan(0_usize, |sum, line| {
            *sum = sum.saturating_add(line.message.len());
            Some(*sum)
        });
        let may_fit = sizes.take_while(|size| *size <= most.saturating_mul(RAW_TO_MARKUP)).count();
        if may_fit == 0 || most < MIN_LOG_MARKUP {
            return Tail { markup: Markup::default(), from: end };
        }
        let mut from = end - may_fit;
        for line in &self.lines[skipped.start..from] {
            self.painter.skip(&line.message);
        }
        let mut last_time = String::new();
        let painted: Vec<Markup> = (from..end).map(|at| self.line(at, &mut last_time)).collect();
        let mut size: usize = painted.iter().map(Markup::len).sum();
        let mut markup = Markup::default();
        for line in &painted {
            if size > most {
                size -= line.len();
                from += 1;
            } else {
                markup.push(line);
            }
        }
        Tail { markup, from }
    }

    /// One line with its number, and its time where that is another than the last line's.
    fn line(&mut self, index: usize, last_time: &mut String) -> Markup {
        let mut markup = Markup::default();
        markup.push_markup(r#"<span class="ln" data-n=""#);
        markup.push_number(self.before.saturating_add(index as u64 + 1));
        let line = &self.lines[index];
        let time = self.start.zip(line.at).map(|(start, at)| {
            let tenths = format::between(start, at).as_millis() / 100;
            format!("{}.{}", tenths / 10, tenths % 10)
        });
        if let Some(time) = time.filter(|time| time != last_time) {
            markup.push_markup(r#"" data-t=""#);
            markup.push_text(&time);
            *last_time = time;
        }
        markup.push_markup("\">");
        markup.push(&self.painter.paint(&line.message));
        markup.push_markup("\n</span>");
        markup
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn view(lines: impl IntoIterator<Item = String>) -> LogView {
        let lines = lines.into_iter().map(|message| LogLine { at: None, message }).collect();
        LogView { lines, ..LogView::default() }
    }

    fn laid_out(view: &LogView) -> Log {
        Log::new(view, None, &mut Budget::of_a_page())
    }

    #[test]
    fn a_short_log_is_shown_whole() {
        let log = laid_out(&view(["one".into(), "<two>".into()]));
        assert_eq!(
            log.lines.to_string(),
            "<span class=\"ln\" data-n=\"1\">one\n</span><span class=\"ln\" data-n=\"2\">&lt;two&gt;\n</span>"
        );
        assert_eq!(log.left_out, "");
    }

    #[test]
    fn times_are_shown_where_they_change() {
        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let lines = [0, 10, 250, 61_000].map(|millis| LogLine {
            at: Some(start + chrono::TimeDelta::milliseconds(millis)),
            message: "x".into(),
        });
        let view = LogView { lines: lines.to_vec(), ..LogView::default() };
        let log = Log::new(&view, Some(start), &mut Budget::of_a_page()).lines.to_string();
        assert!(log.contains(r#"data-n="1" data-t="0.0""#));
        assert!(log.contains(r#"data-n="2">"#));
        assert!(log.contains(r#"data-n="3" data-t="0.2""#));
        assert!(log.contains(r#"data-n="4" data-t="61.0""#));
    }

    #[test]
    fn of_a_long_log_the_beginning_and_the_end_are_shown() {
        let mut long = view((1..=2_000).map(|n| format!("line {n}")));
        let log = laid_out(&long);
        let html = log.lines.to_string();
        assert_eq!(html.matches("class=\"ln\"").count(), MAX_LOG_LINES);
        assert!(html.contains(">line 100\n") && !html.contains(">line 101\n"));
        assert!(!html.contains(">line 1600\n") && html.contains("data-n=\"1601\">line 1601\n"));
        assert!(html.contains("<span class=\"gap\">1,500 lines left out</span>"));
        assert_eq!(log.left_out, "1,500 lines left out.");
        long.before = 10;
        long.more = true;
        let log = laid_out(&long);
        assert!(log.lines.to_string().contains("data-n=\"1511\">line 1501\n"));
        assert_eq!(log.left_out, "1,510 lines and everything after the last one left out.");
    }

    #[test]
    fn a_log_can_be_read_for_its_end() {
        let mut last = LogView::default();
        for n in 1..=12_345 {
            last.push_last(LogLine { at: None, message: format!("line {n}") });
        }
        assert!(last.lines.len() <= 2 * MAX_LOG_LINES);
        let html = laid_out(&last).lines.to_string();
        assert!(
            html.starts_with("<span class=\"gap\">11,845 lines left out</span>"),
            "{html:.200}"
        );
        assert!(html.contains("data-n=\"11846\">line 11846\n"));
        assert!(html.ends_with("data-n=\"12345\">line 12345\n</span>"));
        assert_eq!(html.matches("class=\"ln\"").count(), MAX_LOG_LINES);
    }

    #[test]
    fn exactly_as_many_lines_as_fit_leave_no_gap() {
        let html = laid_out(&view((1..=MAX_LOG_LINES).map(|n| n.to_string()))).lines.to_string();
        assert_eq!(html.matches("class=\"ln\"").count(), MAX_LOG_LINES);
        assert!(!html.contains("gap"));
    }

    #[test]
    fn lines_of_any_size_stay_within_the_budget() {
        for message in
            ["x".repeat(20_000), "\u{202e}".repeat(20_000), "\u{1b}[31mx\u{1b}[32my".repeat(4_000)]
        {
            let mut budget = Budget::of_a_page();
            let before = budget.markup();
            let log = Log::new(&view(vec![message.clone(); 600]), None, &mut budget);
            assert!(log.lines.len() < MAX_LOG_MARKUP + 80 * 1024, "{}", log.lines.len());
            assert!(log.lines.to_string().contains("lines left out"));
            assert_eq!(before - budget.markup(), log.lines.len());
        }
    }

    #[test]
    fn a_spent_budget_says_so() {
        let mut budget = Budget::of_a_page();
        budget.spend_markup(usize::MAX);
        let log = Log::new(&view(vec!["x".into(); 7]), None, &mut budget);
        assert!(!log.lines.to_string().contains("class=\"ln\""));
        assert_eq!(log.left_out, "7 lines left out.");
    }

    #[test]
    fn paragraphs_keep_their_lines() {
        assert_eq!(
            paragraph("a <b>\n\u{1b}[31mc\n\n", 1_000).to_string(),
            "a &lt;b&gt;\n<span class=\"c1\">c</span>"
        );
        assert!(paragraph(&"line\n".repeat(100_000), 1_000).len() < 1_200);
    }
}
