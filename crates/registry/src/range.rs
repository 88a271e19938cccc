//! The two range headers: `Range` of a download and `Content-Range` of an upload's chunk.
//!
//! `Range` follows RFC 9110 section 14; `Content-Range` is the distribution specification's own
//! `<first>-<last>`. This module must never trust that a range lies within its content.

/// More digits than any offset of a file has.
const MAX_DIGITS: usize = 18;

/// What a download asked for, within content of a known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: no range, or one this registry may ignore.
    Whole,
    /// Bytes `first..first + length`, never empty.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// How many.
        length: u64,
    },
    /// A range that begins behind the end.
    Unsatisfiable,
}

/// Reads a `Range` header for content of `total` bytes. Several ranges, other units and
/// malformed headers are ignored, as RFC 9110 allows and requires.
pub(crate) fn wanted(header: Option<&str>, total: u64) -> Wanted {
    let Some(range) = header.and_then(|text| text.strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Some(first), last) if last.is_some() || range.trim().ends_with('-') => {
            if last.is_some_and(|last| last < first) {
                return Wanted::Whole;
            }
            if first >= total {
                return Wanted::Unsatisfiable;
            }
            let last = last.unwrap_or(u64::MAX).min(total - 1);
            Wanted::Part { first, length: last - first + 1 }
        }
        (None, Some(suffix)) if first.is_empty() => match suffix.min(total) {
            0 => Wanted::Unsatisfiable,
            length => Wanted::Part { first: total - length, length },
        },
        _ => Wanted::Whole,
    }
}

/// The chunk a `Content-Range` header of an upload announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Offset of its first byte.
    pub(crate) first: u64,
    /// How many bytes, at least one.
    pub(crate) length: u64,
}

impl Chunk {
    /// Parses `<first>-<last>`, both inclusive; anything else is `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        Some(Self { first, length: last.checked_sub(first)?.checked_add(1)? })
    }
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits =
        (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_downloads() {
        let part = |first, length| Wanted::Part { first, length };
        for (header, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-9", part(0, 10)),
            ("bytes=3-", part(3, 7)),
            ("bytes=3-99999", part(3, 7)),
            ("bytes=-4", part(6, 4)),
            ("bytes=-400", part(0, 10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=10-20", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=1-x", Wanted::Whole),
            ("bytes=99999999999999999999999-", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 10), expected, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn ranges_of_chunks() {
        assert_eq!(Chunk::parse("0-9"), Some(Chunk { first: 0, length: 10 }));
        assert_eq!(Chunk::parse("7-7"), Some(Chunk { first: 7, length: 1 }));
        for text in [
            "",
            "-",
            "1-0",
            "0-",
            "-1",
            "0-1-2",
            "bytes 0-1/2",
            "+0-1",
            " 0-1",
            "0-18446744073709551615",
            "a-b",
        ] {
            assert_eq!(Chunk::parse(text), None, "{text:?}");
        }
    }
}
