//! How long a registry asks to wait.
//!
//! Must never decide how long we do wait.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use http::header::{HeaderMap, RETRY_AFTER};

/// The two obsolete ways to write a date, which a recipient has to understand as well.
const OLD_DATES: [&str; 2] = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// What an answer asks for, if anything that can be understood.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(RETRY_AFTER)?.to_str().ok()?.trim(), Utc::now())
}

/// Seconds, or a date; one that is past asks for nothing.
fn parse(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some((date(text)? - now).to_std().unwrap_or_default())
}

fn date(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(date) = DateTime::parse_from_rfc2822(text) {
        return Some(date.to_utc());
    }
    let old = |form: &&str| NaiveDateTime::parse_from_str(text, form).ok();
    OLD_DATES.iter().find_map(old).map(|date| date.and_utc())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood() {
        let now = DateTime::parse_from_rfc3339("2024-11-06T08:49:37Z").unwrap().to_utc();
        let asked = |text: &str| parse(text, now).map(|wait| wait.as_secs());
        assert_eq!(asked("120"), Some(120));
        for date in [
            "Wed, 06 Nov 2024 08:51:37 GMT",
            "Wednesday, 06-Nov-24 08:51:37 GMT",
            "Wed Nov  6 08:51:37 2024",
        ] {
            assert_eq!(asked(date), Some(120), "{date}");
        }
        assert_eq!(asked("Wed, 06 Nov 2024 08:00:00 GMT"), Some(0));
        for nothing in ["", "soon", "-1", "1.5", "Wed, 99 Nov 2024 08:00:00 GMT"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }
}
