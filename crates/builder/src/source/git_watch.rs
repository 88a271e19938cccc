//! Ends a git whose server keeps the connection alive and does nothing else.
//!
//! Over HTTP git has a least speed of its own. Over ssh and its own protocol it has none: a server that sends a byte
//! now and then, or progress without end, holds it for ever. So what git and the programs it started have read and
//! computed is read from the kernel's books. Must never look at what they read.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

/// How much patience there is with a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// In such a time there has to be some work.
    pub(super) stall: Duration,
    /// Least bytes that all of them together read in that time, unless they compute.
    pub(super) bytes: u64,
    /// Longest time for one command, whatever it does.
    pub(super) total: Duration,
    /// Between two looks.
    pub(super) interval: Duration,
}

/// Time of a processor in ticks, of which a second has 100, that is work: putting a pack together reads little.
const WORK_TICKS: u64 = 100;

/// What the programs of one process group have done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Work {
    bytes: u64,
    ticks: u64,
}

impl Work {
    fn is_more_than(self, before: Self, patience: Patience) -> bool {
        // One that ended took its share along.
        self.bytes < before.bytes
            || self.ticks < before.ticks
            || self.bytes - before.bytes >= patience.bytes
            || self.ticks - before.ticks >= WORK_TICKS
    }
}

/// Returns when the programs of `group` are to be ended, and says why.
pub(super) async fn out_of_patience(group: u32, patience: Patience) -> io::Error {
    let begun = Instant::now();
    let (mut since, mut before) = (begun, look(group).await);
    loop {
        tokio::time::sleep(patience.interval).await;
        if begun.elapsed() >= patience.total {
            return ended("it was not done", patience.total);
        }
        let now = look(group).await;
        // What cannot be looked at has the bound on all of it only.
        let is_work = match (now, before) {
            (Some(now), Some(before)) => now.is_more_than(before, patience),
            _ => true,
        };
        if is_work {
            (since, before) = (Instant::now(), now);
        } else if since.elapsed() >= patience.stall {
            return ended("next to nothing came from the server", patience.stall);
        }
    }
}

/// Ends all programs of a group. *For a group whose first process is not waited for yet*: its number is nobody else's.
pub(super) fn end(group: u32) {
    let group = i32::try_from(group).ok().and_then(Pid::from_raw);
    // Those that ended by themselves need no end.
    let _ = group.map(|group| kill_process_group(group, Signal::KILL));
}

fn ended(what: &str, after: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} in {after:?}"))
}

async fn look(group: u32) -> Option<Work> {
    tokio::task::spawn_blocking(move || work_of(group)).await.ok()?
}

/// What the programs of a group did; `None` when that cannot be read.
fn work_of(group: u32) -> Option<Work> {
    let mut work = Work::default();
    for entry in fs::read_dir("/proc").ok()? {
        let path = entry.ok()?.path();
        if !path.file_name().is_some_and(is_number) {
            continue;
        }
        // One that has ended meanwhile has done its work.
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        let Some((found, ticks)) = group_and_ticks(&stat) else { continue };
        if found == group {
            work.ticks += ticks;
            // One of them that cannot be looked at must not switch the bound off for all.
            work.bytes += bytes_read(&path).unwrap_or(0);
        }
    }
    Some(work)
}

fn is_number(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// Bytes that a process has read, from wherever; none of one that is gone.
fn bytes_read(process: &Path) -> Option<u64> {
    let text = match fs::read_to_string(process.join("io")) {
        Ok(text) => text,
        Err(_) if !process.exists() => return Some(0),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Some(0),
        Err(_) => return None,
    };
    text.lines().find_map(|line| line.strip_prefix("rchar: ")?.trim().parse().ok())
}

/// Group and processor time of a process, from its `stat`. Its name, which may hold anything, ends at the last bracket.
fn group_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((fields.get(2)?.parse().ok()?, ticks(11)?.saturating_add(ticks(12)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PATIENCE: Patience = Patience {
        stall: Duration::from_secs(1),
        bytes: 1000,
        total: Duration::from_secs(600),
        interval: Duration::from_millis(50),
    };

    #[test]
    fn names_of_programs_say_nothing_of_their_work() {
        let stat = "7 (a) R 9 9 (9) S 1 42 7 0 -1 4194560 1 2 3 4 50 6 0 0 20 0 1 0 9 9 9";
        assert_eq!(group_and_ticks(stat), Some((42, 56)));
        assert_eq!(group_and_ticks("7 (a"), None);
        assert_eq!(group_and_ticks("7 (a) S 1 42"), None);
    }

    #[test]
    fn reading_and_computing_are_work() {
        let before = Work { bytes: 5000, ticks: 500 };
        let after = |bytes, ticks| Work { bytes, ticks }.is_more_than(before, PATIENCE);
        assert!(!after(5000, 500) && !after(5999, 599));
        assert!(after(6000, 500) && after(5000, 600));
        assert!(after(10, 500), "a program ended");
    }

    #[test]
    fn what_this_process_did_is_found() {
        let group = rustix::process::getpgrp().as_raw_nonzero().get().unsigned_abs();
        let before = work_of(group).unwrap();
        let _ = fs::read(std::env::current_exe().unwrap()).unwrap();
        let after = work_of(group).unwrap();
        assert!(after.bytes > before.bytes, "{before:?} {after:?}");
    }
}
