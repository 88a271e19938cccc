//! Numbers, booleans, sizes, durations and comma-separated fields as flags write them.
//!
//! The accepted forms are those of the Go standard library and `docker/go-units`, since
//! existing Dockerfiles were written against them.

use std::time::Duration;

/// `1 t T TRUE true True` and the same for false.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// An unsigned number of 32 bits without sign or prefix.
pub(crate) fn parse_u32(text: &str, radix: u32) -> Option<u32> {
    let plain = text.chars().all(|character| character.is_digit(radix));
    if plain { u32::from_str_radix(text, radix).ok() } else { None }
}

/// A size in bytes: a number and a unit of 1024, as in `64m`, `1.5GiB`, `100b`.
pub(crate) fn parse_size(text: &str) -> Option<i64> {
    let digits = text.rfind(|character: char| character.is_ascii_digit() || character == '.')? + 1;
    let (number, unit) = text.split_at(digits);
    if !number.chars().all(|character| character.is_ascii_digit() || character == '.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.is_empty() || unit == "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let known = ["", "b", "ib"].contains(&unit.get(1..).unwrap_or_default());
    // Saturates: a size beyond i64 is no limit at all.
    known.then_some((number * 1024f64.powi(power)) as i64)
}

/// Why text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Malformed, or larger than 64 bits of nanoseconds.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that does not exist.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// A duration as in `1h15m30.5s`; `None` when it is negative.
pub(crate) fn parse_duration(text: &str) -> Result<Option<Duration>, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Some(Duration::ZERO));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split_while(after, |c| !c.is_ascii_digit() && c != '.');
        rest = after;
        let part = nanoseconds(number, unit, text)?;
        total = total
            .checked_add(part)
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or_else(invalid)?;
    }
    Ok((!negative).then_some(Duration::from_nanos(total)))
}

fn split_while(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !wanted(character)).unwrap_or(text.len()))
}

fn nanoseconds(number: &str, unit: &str, text: &str) -> Result<u64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(invalid());
    }
    let scale: u64 = match unit {
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => {
            return Err(DurationError::UnknownUnit {
                unit: unit.to_owned(),
                text: text.to_owned(),
            });
        }
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let whole = whole.checked_mul(scale).ok_or_else(invalid)?;
    // Below one unit, so at most an hour of nanoseconds: exact enough in a double.
    let fraction = format!("0.{fraction}0").parse::<f64>().unwrap_or_default() * scale as f64;
    whole.checked_add(fraction as u64).ok_or_else(invalid)
}

/// Why text is no list of comma-separated fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// A quote within a field that does not start with one.
    #[error("bare \" in non-quoted field")]
    BareQuote,
    /// Text after the closing quote, or no closing quote.
    #[error("extraneous or missing \" in quoted-field")]
    Quote,
}

/// Comma-separated fields; a field in double quotes may hold commas, and quotes doubled.
/// Empty text has no fields.
pub(crate) fn csv_fields(text: &str) -> Result<Vec<String>, CsvError> {
    let mut fields = Vec::new();
    if text.is_empty() {
        return Ok(fields);
    }
    let mut rest = Some(text);
    while let Some(text) = rest {
        let (field, after) = match text.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let (field, _) = split_while(text, |character| character != ',');
                if field.contains('"') {
                    return Err(CsvError::BareQuote);
                }
                (field.to_owned(), text.get(field.len()..).unwrap_or_default())
            }
        };
        fields.push(field);
        rest = after.strip_prefix(',');
    }
    Ok(fields)
}

/// The field up to its closing quote, and what follows: nothing or a comma.
fn quoted_field(text: &str) -> Result<(String, &str), CsvError> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or(CsvError::Quote)?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err(CsvError::Quote),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [
            ("64", Some(64)),
            ("100b", Some(100)),
            ("64m", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("2 kb", Some(2048)),
            ("9999999999999p", Some(i64::MAX)),
            ("", None),
            ("m", None),
            ("-1m", None),
            ("1x", None),
            ("1mm", None),
            ("1ibb", None),
            ("1kbb", None),
            ("1..2k", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    #[test]
    fn durations() {
        let good = [
            ("0", 0),
            ("1s", 1_000_000_000),
            ("1h15m30.5s", 4_530_500_000_000),
            (".5ms", 500_000),
            ("1\u{b5}s", 1_000),
            ("+2ns", 2),
        ];
        for (text, nanoseconds) in good {
            assert_eq!(parse_duration(text), Ok(Some(Duration::from_nanos(nanoseconds))), "{text}");
        }
        assert_eq!(parse_duration("-1s"), Ok(None));
        let bad = [
            ("", "time: invalid duration \"\""),
            ("x", "time: invalid duration \"x\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            (".s", "time: invalid duration \".s\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
            ("9223372036s9223372036s", "time: invalid duration \"9223372036s9223372036s\""),
        ];
        for (text, expected) in bad {
            assert_eq!(
                parse_duration(text).map_err(|error| error.to_string()),
                Err(expected.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn fields() {
        let owned = |fields: &[&str]| Ok(fields.iter().map(|field| (*field).to_owned()).collect());
        assert_eq!(csv_fields(""), owned(&[]));
        assert_eq!(csv_fields("a=b,c"), owned(&["a=b", "c"]));
        assert_eq!(csv_fields("a,,"), owned(&["a", "", ""]));
        assert_eq!(csv_fields("\"a,b\"\"\",c"), owned(&["a,b\"", "c"]));
        assert_eq!(csv_fields("a\"b"), Err(CsvError::BareQuote));
        assert_eq!(csv_fields("\"a\"b"), Err(CsvError::Quote));
        assert_eq!(csv_fields("\"a"), Err(CsvError::Quote));
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_u32("0755", 8), Some(0o755));
        assert_eq!(parse_u32("+7", 8), None);
        assert_eq!(parse_u32("8", 8), None);
        assert_eq!(parse_u32("", 10), None);
        assert_eq!(parse_u32("4294967296", 10), None);
    }
}
