//! Times as protobuf has them.

use buffa::MessageField;
use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};

/// A wire timestamp.
pub(crate) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
        ..Timestamp::default()
    }
}

/// An optional wire timestamp.
pub(crate) fn optional(
    time: Option<DateTime<Utc>>,
) -> MessageField<Timestamp, buffa::Inline<Timestamp>> {
    match time {
        Some(time) => MessageField::some(timestamp(time)),
        None => MessageField::none(),
    }
}
