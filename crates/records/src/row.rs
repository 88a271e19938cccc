//! Values as the database keeps them: times as microseconds since the epoch, durations as nanoseconds.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

/// A time as it is stored.
pub(crate) const fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// A time as it was stored; one that no calendar has becomes the epoch.
pub(crate) fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

/// A time cut to what is stored, so that what is returned is what will be read.
pub(crate) fn now() -> DateTime<Utc> {
    time(micros(Utc::now()))
}

/// A duration as it is stored.
pub(crate) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A duration as it was stored.
pub(crate) fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// A count as it was stored.
pub(crate) fn count(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}

/// A size as it is stored.
pub(crate) fn stored(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A size as it was stored.
pub(crate) fn size(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// The row that a statement gave which wrote it.
///
/// Such a statement is to be run by `fetch_all`: whoever stops at the first row never hears that the disk was full when the
/// statement was committed, after it.
pub(crate) fn written(rows: Vec<SqliteRow>) -> Option<SqliteRow> {
    rows.into_iter().next()
}
