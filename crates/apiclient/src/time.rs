//! Moments, on the wire and in this program.

use buffa::MessageField;
use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};

/// The wire's form of a moment that may be absent.
pub(crate) type Field = MessageField<Timestamp, buffa::Inline<Timestamp>>;

/// A moment, unless it is absent or no moment of any calendar.
pub(crate) fn read(field: &Field) -> Option<DateTime<Utc>> {
    let stamp = field.as_option()?;
    DateTime::from_timestamp(stamp.seconds, u32::try_from(stamp.nanos).ok()?)
}

/// A moment for the wire.
pub(crate) fn write(at: DateTime<Utc>) -> Field {
    MessageField::some(Timestamp {
        seconds: at.timestamp(),
        nanos: at.timestamp_subsec_nanos().cast_signed(),
        ..Timestamp::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn moments_survive() {
        let at = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();
        assert_eq!(read(&write(at)), Some(at));
        assert_eq!(read(&Field::none()), None);
        let strange = Timestamp { seconds: i64::MAX, nanos: -1, ..Timestamp::default() };
        assert_eq!(read(&MessageField::some(strange)), None);
    }
}
