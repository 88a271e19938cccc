//! Figures of the server's own process, read when somebody asks for figures.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::figure::ALL;
use super::table::{PROCESS_CPU, PROCESS_FILES, PROCESS_MEMORY, PROCESS_START, PROCESS_THREADS};

/// Times of processes are told in hundredths of a second, on every architecture.
const TICKS: u64 = 100;
/// How long figures are good: anybody may ask, and descriptors are counted one by one.
const FRESH: Duration = Duration::from_secs(1);

/// When they were read last.
static READ: Mutex<Option<Instant>> = Mutex::new(None);

/// Notes when the server began.
pub(super) fn begin() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    PROCESS_START.set(ALL, now.map(|since| since.as_secs()).unwrap_or_default());
}

/// Brings the figures of the process up to date. What cannot be read stays as it was.
pub(crate) fn measure() {
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if read.is_some_and(|at| at.elapsed() < FRESH) {
        return;
    }
    *read = Some(Instant::now());
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu) {
        PROCESS_CPU.of(ALL).absolute(seconds);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kilobytes) = line(&status, "VmRSS:") {
        PROCESS_MEMORY.set(ALL, kilobytes.saturating_mul(1024));
    }
    if let Some(threads) = line(&status, "Threads:") {
        PROCESS_THREADS.set(ALL, threads);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        PROCESS_FILES.set(ALL, open.count() as u64);
    }
}

/// Seconds in user and kernel mode: the 14th and 15th field, of which the second may hold spaces.
fn cpu(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().ok());
    Some(ticks.sum::<Option<u64>>()? / TICKS)
}

fn line(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 160 0 0 20 0 9 0 12 1 1";
        assert_eq!(cpu(stat), Some(4));
        assert_eq!(cpu("7 (a) S"), Some(0));
        assert_eq!(cpu(""), None);
        let status = "Name:\tx\nVmRSS:\t  12 kB\nThreads:\t9\n";
        assert_eq!((line(status, "VmRSS:"), line(status, "Threads:")), (Some(12), Some(9)));
        assert_eq!(line(status, "VmSwap:"), None);
    }
}
