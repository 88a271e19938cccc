//! Small conversions between records and messages.

use buffa::{Inline, MessageField};
use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};

/// A moment as the wire has it.
pub(super) fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: at.timestamp(),
        nanos: at.timestamp_subsec_nanos().cast_signed(),
        ..Timestamp::default()
    }
}

/// A moment that is always there.
pub(super) fn at(moment: DateTime<Utc>) -> MessageField<Timestamp, Inline<Timestamp>> {
    MessageField::some(timestamp(moment))
}

/// A moment that may not have come.
pub(super) fn at_optional(
    moment: Option<DateTime<Utc>>,
) -> MessageField<Timestamp, Inline<Timestamp>> {
    moment.map_or_else(MessageField::none, at)
}
