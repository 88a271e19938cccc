//! Names and encodings of the gRPC metadata that BuildKit's session calls carry.
//!
//! Sections 2.1, 3.1 and 3.3 of the protocol. Values from the other end stay text here; what
//! they mean is checked where they are used.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Metadata keys, all lower case.
pub mod headers {
    /// Session id, the same value as `SolveRequest.Session`.
    pub const SESSION_ID: &str = "x-docker-expose-session-uuid";
    /// Free text that takes part in the reuse key of local sources.
    pub const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
    /// Repeated: each method the client serves.
    pub const METHOD: &str = "x-docker-expose-session-grpc-method";
    /// Health check interval in milliseconds, for tests of clients.
    pub const HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";
    /// Name of a local directory.
    pub const DIR_NAME: &str = "dir-name";
    /// Repeated: patterns a path has to match.
    pub const INCLUDE: &str = "include-patterns";
    /// Repeated: patterns a path must not match.
    pub const EXCLUDE: &str = "exclude-patterns";
    /// Repeated: paths resolved through symlinks and added to the includes.
    pub const FOLLOW: &str = "followpaths";
    /// Ours: set when the daemon reads several packets in one.
    pub const BUNDLES: &str = "cofferdam-bundles";
    /// Index of the exporter in the solve request.
    pub const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
    /// Prefix of exporter response entries.
    pub const EXPORTER_METADATA: &str = "exporter-md-";
    /// Set when one tree holds every platform.
    pub const MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
    /// Selects the content store.
    pub const STORE_ID: &str = "buildkit-attachable-store-id";
    /// Selects the forwarded agent.
    pub const SSH_ID: &str = "buildkit.ssh.id";
    /// Path of an upload.
    pub const UPLOAD_PATH: &str = "urlpath";
    /// Host of an upload.
    pub const UPLOAD_HOST: &str = "urlhost";
}

/// Suffix of the sibling key that announces escaped values.
const ENCODED: &str = "-encoded";

/// Appends every value under `key`; all are escaped when one of them is not ASCII.
pub(crate) fn append(map: &mut HeaderMap, key: &'static str, values: &[String]) {
    let encoded = values.iter().any(|value| needs_escapes(value));
    if encoded && let Ok(name) = HeaderName::try_from(format!("{key}{ENCODED}")) {
        map.append(name, HeaderValue::from_static("1"));
    }
    for value in values {
        let text = if encoded { escape(value) } else { value.clone() };
        if let Ok(value) = HeaderValue::try_from(text) {
            map.append(HeaderName::from_static(key), value);
        }
    }
}

/// Whether a value does not fit into a header as it is.
pub(crate) fn needs_escapes(value: &str) -> bool {
    // A header value also refuses control characters, which escaping carries just as well.
    HeaderValue::from_str(value).is_err() || !value.is_ascii()
}

/// Every value under `key`, unescaped when the sibling key says so.
pub(crate) fn values(map: &HeaderMap, key: &str) -> Vec<String> {
    let encoded = map.get(format!("{key}{ENCODED}")).is_some_and(|value| value == "1");
    map.get_all(key)
        .iter()
        .map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            if encoded { unescape(&text).unwrap_or(text) } else { text }
        })
        .collect()
}

/// The first value under `key`.
pub(crate) fn value(map: &HeaderMap, key: &str) -> Option<String> {
    values(map, key).into_iter().next()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trips_every_text() {
        for list in [vec!["a b", "c+d"], vec!["ü", "a%b c"], vec!["日本/**", "!x\n"], vec!["x\ty"]]
        {
            let list: Vec<String> = list.into_iter().map(String::from).collect();
            let mut map = HeaderMap::new();
            append(&mut map, headers::EXCLUDE, &list);
            assert_eq!(values(&map, headers::EXCLUDE), list);
        }
    }

    #[test]
    fn ascii_is_sent_raw() {
        let mut map = HeaderMap::new();
        append(&mut map, headers::DIR_NAME, &["a b%".to_string()]);
        assert_eq!(map.get(headers::DIR_NAME).unwrap(), "a b%");
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn a_bad_escape_stays_text() {
        let mut map = HeaderMap::new();
        map.append("dir-name", HeaderValue::from_static("100%"));
        map.append("dir-name-encoded", HeaderValue::from_static("1"));
        assert_eq!(value(&map, "dir-name").unwrap(), "100%");
    }
}
