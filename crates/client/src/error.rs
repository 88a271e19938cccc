//! What a failed solve says, with the details the daemon attached.
//!
//! Section 8 of the protocol: details are JSON under BuildKit's type names, or protobuf. Both
//! are read leniently: a detail that cannot be understood is left out, the message stays.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use buffa::Message as _;
use cofferdam_wire::errdefs;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use serde::Deserialize;

/// Text of one source file kept for excerpts.
const MAX_SOURCE: usize = 4 << 20;

/// A build that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// The user stopped it.
    #[error("build canceled")]
    Canceled,
    /// The daemon could not or would not.
    #[error("failed to solve: {}", message(.0))]
    Failed(Box<ConnectError>),
    /// The session could not be opened.
    #[error("open session")]
    Session(#[source] Box<ConnectError>),
    /// A local cache directory is unusable.
    #[error(transparent)]
    Cache(#[from] crate::cache_dir::CacheDirError),
}

fn message(error: &ConnectError) -> String {
    let text = error.message.clone().unwrap_or_default();
    match error.code {
        // The daemon's code for "a step failed": the text says it all.
        ErrorCode::Unknown => text,
        code => format!("{}: {text}", code.as_str()),
    }
}

/// A place in a file the user wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceLocation {
    /// File name as the frontend knows it.
    pub filename: String,
    /// Its whole text.
    pub text: String,
    /// First and last line of each range, counted from one.
    pub lines: Vec<(usize, usize)>,
}

impl SolveError {
    /// The gRPC status, when a daemon answered.
    #[must_use]
    pub fn status(&self) -> Option<&ConnectError> {
        match self {
            Self::Failed(error) | Self::Session(error) => Some(error),
            Self::Canceled | Self::Cache(_) => None,
        }
    }

    /// Where in the user's files the failure lies, innermost first.
    #[must_use]
    pub fn locations(&self) -> Vec<SourceLocation> {
        let details = self.status().map(|status| status.details.as_slice()).unwrap_or_default();
        let mut found: Vec<SourceLocation> = details.iter().filter_map(location).collect();
        found.dedup();
        found
    }

    /// Digest of the vertex that failed, when the daemon says so.
    #[must_use]
    pub fn vertex(&self) -> Option<String> {
        let details = self.status().map(|status| status.details.as_slice()).unwrap_or_default();
        details.iter().find_map(|detail| {
            let bytes = value(detail, "errdefs.Vertex")?;
            let parsed: Option<VertexJson> = serde_json::from_slice(&bytes).ok();
            match parsed {
                Some(vertex) => Some(vertex.digest),
                None => errdefs::Vertex::decode_from_slice(&bytes).ok().map(|vertex| vertex.digest),
            }
        })
    }
}

/// The bytes of a detail when it is of the type `name`.
fn value(detail: &ErrorDetail, name: &str) -> Option<Vec<u8>> {
    let kind = detail.type_url.rsplit('/').next().unwrap_or(&detail.type_url);
    if kind.strip_suffix("+json").unwrap_or(kind) != name {
        return None;
    }
    let text = detail.value.as_deref()?;
    STANDARD_NO_PAD.decode(text).or_else(|_| STANDARD.decode(text)).ok()
}

#[derive(Deserialize)]
struct VertexJson {
    digest: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SourceJson {
    info: InfoJson,
    ranges: Vec<RangeJson>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InfoJson {
    filename: String,
    data: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RangeJson {
    start: PositionJson,
    end: PositionJson,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PositionJson {
    line: usize,
}

fn location(detail: &ErrorDetail) -> Option<SourceLocation> {
    let bytes = value(detail, "errdefs.Source")?;
    let (filename, data, lines) = match serde_json::from_slice::<SourceJson>(&bytes) {
        Ok(source) => {
            let lines = source.ranges.iter().map(|range| (range.start.line, range.end.line));
            let data = STANDARD.decode(&source.info.data).ok()?;
            (source.info.filename, data, lines.collect::<Vec<_>>())
        }
        Err(_) => {
            let source = errdefs::Source::decode_from_slice(&bytes).ok()?;
            let line = |line: i32| usize::try_from(line).unwrap_or(0);
            let lines =
                source.ranges.iter().map(|range| (line(range.start.line), line(range.end.line)));
            let lines = lines.collect();
            let info = source.info.into_option()?;
            (info.filename, info.data, lines)
        }
    };
    if data.len() > MAX_SOURCE {
        return None;
    }
    let text = String::from_utf8_lossy(&data).into_owned();
    let lines = lines.into_iter().map(|(start, end)| (start, end.max(start))).collect();
    Some(SourceLocation { filename, text, lines })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn detail(type_url: &str, bytes: &[u8]) -> ErrorDetail {
        let value = Some(STANDARD_NO_PAD.encode(bytes));
        ErrorDetail { type_url: type_url.into(), value, debug: None }
    }

    #[test]
    fn details_of_both_encodings_are_read() {
        let json = br#"{"info":{"filename":"Dockerfile","data":"RlJPTSB4Cg==","definition":{"def":["AA=="]},"language":"Dockerfile"},"ranges":[{"start":{"line":1},"end":{"line":1}}]}"#;
        let proto = errdefs::Source {
            info: cofferdam_wire::pb::SourceInfo {
                filename: "other".into(),
                data: b"a\nb\n".to_vec(),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        };
        let status = ConnectError::unknown("process failed")
            .with_detail(detail("github.com/moby/buildkit/errdefs.Source+json", json))
            .with_detail(detail(
                "github.com/moby/buildkit/errdefs.Vertex+json",
                br#"{"digest":"sha256:x"}"#,
            ))
            .with_detail(detail("type.googleapis.com/errdefs.Source", &proto.encode_to_vec()))
            .with_detail(detail("errdefs.Source", b"\xff\xff"))
            .with_detail(detail("unknown", b"{}"));
        let error = SolveError::Failed(Box::new(status));
        assert_eq!(error.to_string(), "failed to solve: process failed");
        assert_eq!(error.vertex().unwrap(), "sha256:x");
        let locations = error.locations();
        assert_eq!(locations.len(), 2);
        assert_eq!(locations[0].text, "FROM x\n");
        assert_eq!(locations[0].lines, [(1, 1)]);
        assert_eq!(locations[1].filename, "other");
    }

    #[test]
    fn other_codes_are_named() {
        let error = SolveError::Failed(Box::new(ConnectError::not_found("no such job x")));
        assert_eq!(error.to_string(), "failed to solve: not_found: no such job x");
    }
}
