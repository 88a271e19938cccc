//! Limits on what one step may print.
//!
//! A step that floods its output costs memory in the builder and in every client that watches.
//! Two limits apply: a total, and an average rate counted from the first output. What is over
//! is dropped: one line per kind of limit says so where it begins, and one at the end says how much it was.

use std::time::{Duration, Instant};

use crate::solver::LogLimits;

/// Counts what a step prints.
#[derive(Debug)]
pub(crate) struct Clip {
    limits: LogLimits,
    first: Option<Instant>,
    passed: u64,
    dropped: u64,
    told_size: bool,
    told_speed: bool,
}

impl Clip {
    pub(crate) fn new(limits: LogLimits) -> Self {
        Self { limits, first: None, passed: 0, dropped: 0, told_size: false, told_speed: false }
    }

    /// How many of `len` bytes may pass, and what to tell the reader when that is not all.
    pub(crate) fn admit(&mut self, len: usize, now: Instant) -> (usize, Option<String>) {
        let first = *self.first.get_or_insert(now);
        let by_speed = self.limits.bytes_per_second.map(|speed| {
            let seconds =
                now.duration_since(first).saturating_add(Duration::from_secs(1)).as_secs();
            speed.saturating_mul(seconds)
        });
        let speed_is_tighter = match (by_speed, self.limits.bytes) {
            (Some(speed), Some(size)) => speed < size,
            (speed, _) => speed.is_some(),
        };
        let allowed = if speed_is_tighter { by_speed } else { self.limits.bytes };
        let Some(allowed) = allowed else { return (len, None) };
        let room = usize::try_from(allowed.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        let pass = len.min(room);
        self.passed += pass as u64;
        if pass == len {
            return (len, None);
        }
        self.dropped = self.dropped.saturating_add((len - pass) as u64);
        let told = if speed_is_tighter { &mut self.told_speed } else { &mut self.told_size };
        if std::mem::replace(told, true) {
            return (pass, None);
        }
        let limit = if speed_is_tighter {
            format!("{}/s", human(self.limits.bytes_per_second.unwrap_or_default()))
        } else {
            human(self.limits.bytes.unwrap_or_default())
        };
        (pass, Some(format!("[output clipped, log limit {limit} reached]\n")))
    }

    /// What to tell the reader at the end, when not all passed.
    pub(crate) fn close(&mut self) -> Option<String> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then(|| format!("[{dropped} bytes of output were dropped]\n"))
    }
}

fn human(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        _ if bytes >= MIB && bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes >= KIB && bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(bytes: Option<u64>, bytes_per_second: Option<u64>) -> Clip {
        Clip::new(LogLimits { bytes, bytes_per_second })
    }

    #[test]
    fn the_total_is_held_and_told_once() {
        let now = Instant::now();
        let mut clip = clip(Some(2 << 20), None);
        assert_eq!(clip.admit(2 << 20, now), (2 << 20, None));
        let (passed, notice) = clip.admit(10, now);
        assert_eq!(passed, 0);
        assert_eq!(notice.as_deref(), Some("[output clipped, log limit 2MiB reached]\n"));
        assert_eq!(clip.admit(10, now), (0, None));
        assert_eq!(clip.close().as_deref(), Some("[20 bytes of output were dropped]\n"));
        assert_eq!(clip.close(), None);
    }

    #[test]
    fn the_rate_is_an_average_from_the_first_output() {
        let start = Instant::now();
        let mut clip = clip(Some(2 << 20), Some(200 << 10));
        let (passed, notice) = clip.admit(300 << 10, start);
        assert_eq!(passed, 200 << 10);
        assert_eq!(notice.as_deref(), Some("[output clipped, log limit 200KiB/s reached]\n"));
        let later = start + Duration::from_millis(1500);
        assert_eq!(clip.admit(300 << 10, later), (200 << 10, None));
    }

    #[test]
    fn without_limits_everything_passes() {
        let mut clip = clip(None, None);
        assert_eq!(clip.admit(usize::MAX / 2, Instant::now()), (usize::MAX / 2, None));
    }
}
