//! What happened in a run, in numbers, and what somebody needs who wants to see it again.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use cofferdam_tests::repository;

/// Events that are shown when the run fails.
const LAST: usize = 12;

/// The run so far. When it is dropped by a failure it says how to repeat the run, and keeps the directories.
pub(crate) struct Story {
    seed: u64,
    kills: u64,
    begun: Instant,
    events: Vec<String>,
    killed: BTreeMap<String, u64>,
    counted: BTreeMap<&'static str, u64>,
    kept: Vec<(String, Arc<dyn Any>)>,
    ended: bool,
}

impl Story {
    pub(crate) fn begin(seed: u64, kills: u64) -> Self {
        println!("CRASH_SEED={seed} CRASH_KILLS={kills}");
        Self {
            seed,
            kills,
            begun: Instant::now(),
            events: Vec::new(),
            killed: BTreeMap::new(),
            counted: BTreeMap::new(),
            kept: Vec::new(),
            ended: false,
        }
    }

    /// Notes an event.
    pub(crate) fn tell(&mut self, event: impl Into<String>) {
        let event = format!("{:7.1} s  {}", self.begun.elapsed().as_secs_f64(), event.into());
        println!("{event}");
        self.events.push(event);
    }

    /// Notes who was killed.
    pub(crate) fn killed(&mut self, who: impl Into<String>) {
        *self.killed.entry(who.into()).or_insert(0) += 1;
    }

    /// Adds to one of the numbers.
    pub(crate) fn count(&mut self, what: &'static str, number: usize) {
        *self.counted.entry(what).or_insert(0) += number as u64;
    }

    /// A directory that stays where it is when the run fails.
    pub(crate) fn keep(&mut self, place: impl Into<String>, directory: Arc<dyn Any>) {
        self.kept.push((place.into(), directory));
    }

    /// Shows the numbers and writes them to `target/crash/summary.md`.
    pub(crate) fn end(mut self) {
        self.ended = true;
        let summary = self.summary();
        println!("{summary}");
        let directory = repository().join("target/crash");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("summary.md"), summary).unwrap();
    }

    fn summary(&self) -> String {
        let mut text = String::from("# Killed under load\n\n");
        let (seed, seconds) = (self.seed, self.begun.elapsed().as_secs());
        writeln!(text, "Seed {seed}, {} kills in {seconds} s.\n", self.kills).unwrap();
        writeln!(text, "| Killed | Times |\n|---|---|").unwrap();
        for (who, times) in &self.killed {
            writeln!(text, "| {who} | {times} |").unwrap();
        }
        writeln!(text, "\n| Checked | Number |\n|---|---|").unwrap();
        for (what, number) in &self.counted {
            writeln!(text, "| {what} | {number} |").unwrap();
        }
        text
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let Self { seed, kills, .. } = self;
        eprintln!("The run failed. To repeat it: CRASH_SEED={seed} CRASH_KILLS={kills}");
        for event in &self.events[self.events.len().saturating_sub(LAST)..] {
            eprintln!("{event}");
        }
        for (place, directory) in self.kept.drain(..) {
            eprintln!("kept: {place}");
            std::mem::forget(directory);
        }
    }
}
