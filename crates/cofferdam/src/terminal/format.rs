//! Moments, durations and sizes as people read them.

use chrono::{DateTime, Utc};

/// A moment, in UTC; `-` when there is none.
pub(crate) fn moment(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A duration: `0s`, `40ms`, `1.2s`, `3m05s`, `2h03m`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = if seconds.is_finite() && seconds > 0.0 { seconds } else { 0.0 };
    if seconds < 0.0005 {
        return "0s".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0}ms", seconds * 1000.0);
    }
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a cast stops at the largest number"
    )]
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// A duration in whole seconds; `-` when there is none.
pub(crate) fn seconds(count: Option<i32>) -> String {
    count.map_or_else(
        || "-".to_owned(),
        |count| if count < 60 { format!("{count}s") } else { duration(f64::from(count)) },
    )
}

/// A size: `12 B`, `3.4 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let at = DateTime::from_timestamp(1_700_000_000, 999_000_000);
        assert_eq!(moment(at), "2023-11-14T22:13:20Z");
        assert_eq!(moment(None), "-");
    }

    #[test]
    fn durations() {
        for (given, shown) in [
            (0.0, "0s"),
            (-0.0, "0s"),
            (0.0004, "0s"),
            (0.0416, "42ms"),
            (0.9994, "999ms"),
            (0.9996, "1.0s"),
            (1.25, "1.2s"),
            (59.94, "59.9s"),
            (59.96, "1m00s"),
            (185.0, "3m05s"),
            (7384.0, "2h03m"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(duration(given), shown, "{given}");
        }
        assert_eq!(seconds(Some(7)), "7s");
        assert_eq!(seconds(Some(61)), "1m01s");
        assert_eq!(seconds(None), "-");
    }

    #[test]
    fn sizes() {
        for (given, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "1.0 MB"),
            (3_440_000_000, "3.4 GB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(given), shown, "{given}");
        }
    }
}
