//! Lines that only grow: `#N` and what step N does.
//!
//! One step speaks at a time. A silent one gives way to others after a moment, so that logs of
//! steps that run side by side stay readable.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::bytes;
use super::tracker::{Change, Step, Tracker};
use crate::status::StatusEntry;
use crate::text;

/// How long a silent step keeps the word.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two lines about the same unfinished transfer.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Queue {
    number: usize,
    lines: VecDeque<String>,
    ended: bool,
    announced: bool,
}

/// The plain display.
#[derive(Default)]
pub(super) struct Plain {
    queues: BTreeMap<usize, Queue>,
    /// Number of each step: one that starts again speaks under its old one.
    numbers: HashMap<usize, usize>,
    /// Whose turn it is.
    current: Option<usize>,
    spoke: Option<DateTime<Utc>>,
    /// When each transfer was last mentioned.
    mentioned: HashMap<(usize, String), DateTime<Utc>>,
    printed_any: bool,
    /// Steps whose end was said.
    ended: HashSet<usize>,
}

impl Plain {
    /// Whether a step that ended before ends again with nothing to say: many are looked up first, and
    /// asked for their result later.
    fn repeats(&self, index: usize, step: &Step) -> bool {
        let queue = self.queues.get(&index);
        let silent = queue.is_none_or(|queue| queue.lines.is_empty() && !queue.announced);
        silent && step.error.is_empty() && self.ended.contains(&index)
    }

    /// Queues what has changed.
    pub(super) fn take(&mut self, tracker: &Tracker, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Started(index) => {
                    self.queue(index);
                }
                Change::Line(index, at, line) => {
                    let line = text::colored_line(&line);
                    self.queue(index).lines.push_back(format!("{:.3} {line}", at.as_secs_f64()));
                }
                Change::Status(index, entry) => {
                    if let Some(line) = self.mention(index, &entry) {
                        self.queue(index).lines.push_back(line);
                    }
                }
                Change::Ended(index) => {
                    let step = &tracker.steps[index];
                    if self.repeats(index, step) {
                        self.queues.remove(&index);
                        continue;
                    }
                    self.ended.insert(index);
                    let queue = self.queue(index);
                    queue.ended = true;
                    queue.lines.push_back(ending(step));
                }
            }
        }
    }

    fn queue(&mut self, index: usize) -> &mut Queue {
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(index).or_insert(next);
        self.queues.entry(index).or_insert_with(|| Queue { number, ..Queue::default() })
    }

    /// The line about a transfer, unless there was one a moment ago.
    fn mention(&mut self, index: usize, entry: &StatusEntry) -> Option<String> {
        let now = entry.timestamp.unwrap_or_else(Utc::now);
        let key = (index, entry.id.clone());
        let done = entry.completed.is_some();
        if !done
            && let Some(last) = self.mentioned.get(&key)
            && (now - *last).to_std().is_ok_and(|since| since < STATUS_INTERVAL)
        {
            return None;
        }
        self.mentioned.insert(key, now);
        let mut line = entry.id.clone();
        if entry.total > 0 {
            line.push_str(&format!(" {} / {}", bytes(entry.current), bytes(entry.total)));
        } else if entry.current > 0 {
            line.push_str(&format!(" {}", bytes(entry.current)));
        }
        if let Some(started) = entry.started {
            let end = entry.completed.unwrap_or(now);
            let spent = (end - started).to_std().unwrap_or_default();
            line.push_str(&format!(" {:.1}s", spent.as_secs_f64()));
        }
        if done {
            line.push_str(" done");
        }
        Some(line)
    }

    /// What may be printed now; with `last` everything that is left.
    pub(super) fn flush(&mut self, tracker: &Tracker, now: DateTime<Utc>, last: bool) -> String {
        let mut out = String::new();
        loop {
            let Some(current) = self.current.or_else(|| self.next(None)) else { return out };
            if self.current.is_none() {
                self.current = Some(current);
                self.spoke = Some(now);
                self.header(tracker, current, &mut out);
            }
            if self.speak(current, now, &mut out) {
                self.queues.remove(&current);
                self.current = None;
                continue;
            }
            let silent = self.spoke.and_then(|spoke| (now - spoke).to_std().ok());
            let patient = !last && silent.is_none_or(|silent| silent < PATIENCE);
            if patient || self.next(Some(current)).is_none() {
                return out;
            }
            if let Some(queue) = self.queues.get(&current) {
                out.push_str(&format!("#{} ...\n", queue.number));
            }
            // Behind the others, so that each gets its turn.
            let next = self.next(Some(current));
            self.current = None;
            if let Some(next) = next {
                self.current = Some(next);
                self.spoke = Some(now);
                self.header(tracker, next, &mut out);
            }
        }
    }

    fn header(&mut self, tracker: &Tracker, index: usize, out: &mut String) {
        let Some(queue) = self.queues.get_mut(&index) else { return };
        if self.printed_any {
            out.push('\n');
        }
        self.printed_any = true;
        queue.announced = true;
        out.push_str(&format!("#{} {}\n", queue.number, tracker.steps[index].name));
    }

    /// Prints a step's lines; true when it has ended.
    fn speak(&mut self, index: usize, now: DateTime<Utc>, out: &mut String) -> bool {
        let Some(queue) = self.queues.get_mut(&index) else { return true };
        if !queue.lines.is_empty() {
            self.spoke = Some(now);
        }
        for line in queue.lines.drain(..) {
            out.push_str(&format!("#{} {line}\n", queue.number));
        }
        queue.ended
    }

    /// The step that has waited longest with something to say.
    fn next(&self, except: Option<usize>) -> Option<usize> {
        let waiting = |(index, queue): &(&usize, &Queue)| {
            Some(**index) != except && (!queue.lines.is_empty() || !queue.announced)
        };
        self.queues
            .iter()
            .filter(waiting)
            .min_by_key(|(_, queue)| (!queue.ended, queue.number))
            .map(|(index, _)| *index)
    }
}

fn ending(step: &Step) -> String {
    if step.error.ends_with("context canceled") {
        "CANCELED".to_string()
    } else if !step.error.is_empty() {
        format!("ERROR: {}", text::printable(&step.error))
    } else if step.cached {
        "CACHED".to_string()
    } else {
        format!("DONE {:.1}s", step.duration(Utc::now()).as_secs_f64())
    }
}
