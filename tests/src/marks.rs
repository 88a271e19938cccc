//! Steps that a test finds among the processes of the host by a mark: so many seconds to sleep, as nothing else sleeps.
//!
//! Never to be looked for where a sandbox has a kernel of its own: its processes are none of the host's.

use std::time::{Duration, Instant};

use crate::{Context, leftovers};

/// How long a step may take to begin.
const BEGUN: Duration = Duration::from_secs(60);

/// The mark with this number: the argument of a `sleep`. Each step of a test program that has one needs another number.
#[must_use]
pub fn mark(number: u32) -> String {
    format!("{number}{:07}", std::process::id())
}

/// A build whose one step sleeps until it is ended.
#[must_use]
pub fn sleeping(mark: &str) -> Context {
    Context::dockerfile(&format!("FROM @busybox\nRUN sleep {mark}\n"))
}

/// Waits until a process has `mark` among its arguments; gives the process's user id on the host.
///
/// # Panics
/// When there is none after a minute.
pub fn appears(mark: &str) -> u32 {
    let begun = Instant::now();
    loop {
        if let Some((_, owner)) = leftovers::marked(mark).first() {
            return *owner;
        }
        assert!(begun.elapsed() < BEGUN, "no process with {mark}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until no process has `mark` among its arguments.
///
/// # Panics
/// When there still is one after `within`.
pub fn disappears(mark: &str, within: Duration) {
    let begun = Instant::now();
    while !leftovers::marked(mark).is_empty() {
        assert!(begun.elapsed() < within, "still there: {:?}", leftovers::marked(mark));
        std::thread::sleep(Duration::from_millis(10));
    }
}
