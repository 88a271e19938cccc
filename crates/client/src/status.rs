//! The status stream as plain values, in the JSON form of BuildKit's clients.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buffa::MessageField;
use buffa_types::google::protobuf::Timestamp;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cofferdam_wire::moby::buildkit::v1::StatusResponse;
use serde::{Serialize, Serializer};

/// One message of the status stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SolveStatus {
    /// Steps that changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vertexes: Vec<VertexEntry>,
    /// Progress within steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<StatusEntry>,
    /// Output of steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogEntry>,
    /// Advice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<WarningEntry>,
}

/// A step's state; a later one overwrites an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VertexEntry {
    /// Its identity.
    pub digest: String,
    /// Steps it builds on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What to show.
    pub name: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<DateTime<Utc>>,
    /// Whether its result was there already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// Why it failed; empty when it did not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// How long a cached result took to make, when the builder says so.
    #[serde(skip)]
    pub saved: Duration,
    /// The group it is shown in.
    #[serde(rename = "progressGroup", skip_serializing_if = "Option::is_none")]
    pub progress_group: Option<GroupEntry>,
}

/// Steps shown as one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GroupEntry {
    /// Its identity.
    pub id: String,
    /// What to show.
    pub name: String,
    /// Hidden until a member that is not weak starts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub weak: bool,
}

/// Progress of one thing within a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StatusEntry {
    /// Identity and text.
    pub id: String,
    /// The step.
    pub vertex: String,
    /// The action.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Bytes in all; 0 when unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: i64,
    /// Bytes so far.
    pub current: i64,
    /// When this was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<DateTime<Utc>>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<DateTime<Utc>>,
}

/// A piece of a step's output.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LogEntry {
    /// The step.
    pub vertex: String,
    /// 1 output, 2 errors.
    #[serde(skip_serializing_if = "is_zero")]
    pub stream: i64,
    /// Its bytes, with no regard to lines.
    #[serde(serialize_with = "base64_bytes")]
    pub data: Vec<u8>,
    /// When it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<DateTime<Utc>>,
}

/// Advice about a step or a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WarningEntry {
    /// The step.
    pub vertex: String,
    /// Its weight.
    #[serde(skip_serializing_if = "is_zero")]
    pub level: i64,
    /// One line.
    #[serde(serialize_with = "base64_bytes")]
    pub short: Vec<u8>,
    /// More lines.
    #[serde(serialize_with = "base64_list", skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<Vec<u8>>,
    /// Where to read more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// The file it is about.
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceEntry>,
    /// Where in the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub range: Vec<RangeEntry>,
}

/// A file a warning is about.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SourceEntry {
    /// Its name.
    pub filename: String,
    /// Its text.
    #[serde(serialize_with = "base64_bytes")]
    pub data: Vec<u8>,
    /// Its language.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// A range of lines.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RangeEntry {
    /// Its start: `line` and `character`.
    pub start: BTreeMap<&'static str, i32>,
    /// Its end.
    pub end: BTreeMap<&'static str, i32>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape serde asks for")]
const fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn base64_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn base64_list<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|bytes| STANDARD.encode(bytes)))
}

type Time = MessageField<Timestamp, buffa::Inline<Timestamp>>;

fn time(field: &Time) -> Option<DateTime<Utc>> {
    let stamp = field.as_option()?;
    DateTime::from_timestamp(stamp.seconds, u32::try_from(stamp.nanos).ok()?)
}

impl From<StatusResponse> for SolveStatus {
    fn from(response: StatusResponse) -> Self {
        let vertexes = response.vertexes.into_iter().map(|vertex| VertexEntry {
            started: time(&vertex.started),
            completed: time(&vertex.completed),
            digest: vertex.digest,
            inputs: vertex.inputs,
            name: vertex.name,
            cached: vertex.cached,
            error: vertex.error,
            saved: Duration::from_nanos(u64::try_from(vertex.savedNanoseconds).unwrap_or(0)),
            progress_group: vertex.progressGroup.into_option().map(|group| GroupEntry {
                id: group.id,
                name: group.name,
                weak: group.weak,
            }),
        });
        let statuses = response.statuses.into_iter().map(|status| StatusEntry {
            timestamp: time(&status.timestamp),
            started: time(&status.started),
            completed: time(&status.completed),
            id: status.ID,
            vertex: status.vertex,
            name: status.name,
            total: status.total,
            current: status.current,
        });
        let logs = response.logs.into_iter().map(|log| LogEntry {
            timestamp: time(&log.timestamp),
            vertex: log.vertex,
            stream: log.stream,
            data: log.msg,
        });
        let position = |position: &cofferdam_wire::pb::Position| {
            BTreeMap::from([("line", position.line), ("character", position.character)])
        };
        let warnings = response.warnings.into_iter().map(|warning| WarningEntry {
            range: warning
                .ranges
                .iter()
                .map(|range| RangeEntry {
                    start: position(&range.start),
                    end: position(&range.end),
                })
                .collect(),
            source: warning.info.into_option().map(|info| SourceEntry {
                filename: info.filename,
                data: info.data,
                language: info.language,
            }),
            vertex: warning.vertex,
            level: warning.level,
            short: warning.short,
            detail: warning.detail,
            url: warning.url,
        });
        Self {
            vertexes: vertexes.collect(),
            statuses: statuses.collect(),
            logs: logs.collect(),
            warnings: warnings.collect(),
        }
    }
}
