//! Numbers, sizes, durations and times as people read them. Times are UTC and say so.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// What stands between a number and its unit: a narrow space that does not break.
const THIN: char = '\u{202f}';

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with a noun that takes an `s`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A size in decimal units.
#[allow(clippy::cast_precision_loss)] // three digits are shown
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if size < 1000 {
        return format!("{size}{THIN}B");
    }
    let mut value = size as f64;
    let mut unit = "B";
    for next in UNITS {
        value /= 1000.0;
        unit = next;
        if value < 999.5 {
            break;
        }
    }
    if value < 9.95 { format!("{value:.1}{THIN}{unit}") } else { format!("{value:.0}{THIN}{unit}") }
}

/// A duration with about three digits.
pub(crate) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = (millis + 500) / 1000;
    match millis {
        0 => format!("0{THIN}s"),
        1..=9 => format!("0.01{THIN}s"),
        10..=994 => format!("0.{:02}{THIN}s", (millis + 5) / 10),
        995..=59_949 => {
            let tenths = (millis + 50) / 100;
            format!("{}.{}{THIN}s", tenths / 10, tenths % 10)
        }
        59_950..=3_599_499 => format!("{}{THIN}m {:02}{THIN}s", seconds / 60, seconds % 60),
        _ => {
            let minutes = (seconds + 30) / 60;
            format!("{}{THIN}h {:02}{THIN}m", minutes / 60, minutes % 60)
        }
    }
}

/// The time from `from` to `to`; none if the clock went back.
pub(crate) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// A moment to the second.
pub(crate) fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A moment as the `datetime` attribute wants it.
pub(crate) fn machine(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How long ago a moment was; beyond a month, its date.
pub(crate) fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = between(at, now).as_secs();
    match seconds {
        0..=9 => "just now".to_owned(),
        10..=59 => format!("{seconds} seconds ago"),
        60..=3_599 => format!("{} ago", counted(seconds / 60, "minute")),
        3_600..=86_399 => format!("{} ago", counted(seconds / 3_600, "hour")),
        86_400..=2_678_399 => format!("{} ago", counted(seconds / 86_400, "day")),
        _ => at.format("%Y-%m-%d").to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers() {
        let counts = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in counts {
            assert_eq!(count(number), text);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(counted(1, "step"), "1 step");
        assert_eq!(counted(0, "step"), "0 steps");
    }

    #[test]
    fn sizes() {
        let sizes = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_960, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (12_345_678, "12 MB"),
            (u64::MAX, "18 EB"),
        ];
        for (size, text) in sizes {
            assert_eq!(bytes(size).replace(THIN, " "), text);
        }
    }

    #[test]
    fn durations() {
        let durations = [
            (0, "0 s"),
            (1, "0.01 s"),
            (9, "0.01 s"),
            (14, "0.01 s"),
            (994, "0.99 s"),
            (995, "1.0 s"),
            (59_949, "59.9 s"),
            (59_950, "1 m 00 s"),
            (3_599_499, "59 m 59 s"),
            (3_599_500, "1 h 00 m"),
            (90_000_000, "25 h 00 m"),
        ];
        for (millis, text) in durations {
            assert_eq!(
                duration(Duration::from_millis(millis)).replace(THIN, " "),
                text,
                "{millis}"
            );
        }
        let _ = duration(Duration::MAX);
    }

    #[test]
    fn ages() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let past = |seconds: i64| now - chrono::TimeDelta::seconds(seconds);
        assert_eq!(ago(past(-100), now), "just now");
        assert_eq!(ago(past(59), now), "59 seconds ago");
        assert_eq!(ago(past(60), now), "1 minute ago");
        assert_eq!(ago(past(7_200), now), "2 hours ago");
        assert_eq!(ago(past(200_000), now), "2 days ago");
        assert_eq!(ago(past(10_000_000), now), "2026-09-21");
        assert_eq!(moment(now), "2027-01-15 08:00:00 UTC");
        assert_eq!(machine(now), "2027-01-15T08:00:00Z");
    }
}
