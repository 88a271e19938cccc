//! Sizes and durations as `buildkitd.toml` writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Disk space: bytes, or a share of the disk that holds the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskSpace {
    /// So many bytes.
    Bytes(u64),
    /// So many percent.
    Percent(u8),
}

impl Default for DiskSpace {
    fn default() -> Self {
        Self::Bytes(0)
    }
}

impl DiskSpace {
    /// As bytes, on a disk of `total` bytes.
    #[must_use]
    pub const fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total / 100 * percent as u64,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            return percent
                .trim()
                .parse()
                .ok()
                .filter(|percent| *percent <= 100)
                .map(Self::Percent);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number: f64 = text[..digits].parse().ok()?;
        let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "t" | "tb" => 1e12,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        };
        let bytes = number * unit;
        (bytes.is_finite() && bytes < 9e18).then_some(Self::Bytes(bytes as u64))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for DiskSpace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(bytes) => Ok(Self::Bytes(bytes)),
            NumberOrText::Text(text) => Self::parse(&text).ok_or_else(|| {
                serde::de::Error::custom(format!("invalid disk space {text:?}, use 10GB or 10%"))
            }),
        }
    }
}

impl Serialize for DiskSpace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.serialize_u64(*bytes),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

/// A span of time: seconds, or text such as `48h` or `1h30m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// As a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whole seconds: it travels as a number of them.
    fn parse(text: &str) -> Option<Self> {
        duration(text).filter(|span| span.subsec_nanos() == 0).map(Self)
    }
}

/// A duration as Go writes them (`1h30m`, `1.5s`, `100ms`), and days besides.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "d" => 86400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
    }
    Some(total).filter(|_| !text.is_empty())
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(seconds) => Ok(Self::from_secs(seconds)),
            NumberOrText::Text(text) => Self::parse(&text).ok_or_else(|| {
                serde::de::Error::custom(format!("invalid duration {text:?}, use 48h or seconds"))
            }),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_sizes_and_spans() {
        assert_eq!(DiskSpace::parse("10%"), Some(DiskSpace::Percent(10)));
        assert_eq!(DiskSpace::parse("1.5GiB"), Some(DiskSpace::Bytes(1_610_612_736)));
        assert_eq!(DiskSpace::parse("10 GB"), Some(DiskSpace::Bytes(10_000_000_000)));
        for text in ["", "x", "10%%", "101%", "10 apples", "-1"] {
            assert_eq!(DiskSpace::parse(text), None, "{text:?}");
        }
        assert_eq!(Span::parse("1h30m"), Some(Span::from_secs(5400)));
        assert_eq!(Span::parse("2d"), Some(Span::from_secs(2 * 86400)));
        // Half a second would travel as none, and none is no limit.
        for text in ["", "h", "10", "1y", "-1s", "500ms", "1.5s"] {
            assert_eq!(Span::parse(text), None, "{text:?}");
        }
        assert_eq!(duration("1h1.5s"), Some(Duration::from_millis(3_601_500)));
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        for text in ["", "5", "m", "soon", "99999999999999999999h"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }
}
