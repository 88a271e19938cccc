//! Which records a listener asks for: filter expressions over `ref`, `status` and `repository`, times and durations compared with
//! `>`, `>=`, `<` and `<=`, and how many.

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_wire::moby::buildkit::v1 as wire;

use super::logs::time_of;
use crate::config::duration;
use crate::failure::Failure;
use crate::filters::{Filters, Room};

/// Expressions of one request.
const MAX_EXPRESSIONS: usize = 100;
const COMPARISONS: &[(&str, Comparison)] = &[
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::More),
    ("<", Comparison::Less),
];

/// A listener's wish.
#[derive(Debug, Default)]
pub(crate) struct Query {
    /// Only builds that run.
    pub(crate) active_only: bool,
    /// Only this build.
    pub(crate) reference: String,
    any: Vec<All>,
    limit: Option<usize>,
}

/// One expression.
#[derive(Debug)]
struct All {
    fields: Filters,
    times: Vec<Time>,
}

#[derive(Debug)]
struct Time {
    of: Of,
    comparison: Comparison,
    value: i64,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Started,
    Completed,
    Duration,
}

#[derive(Debug, Clone, Copy)]
enum Comparison {
    AtLeast,
    AtMost,
    More,
    Less,
}

impl Query {
    /// Reads a request.
    pub(crate) fn parse(request: &wire::BuildHistoryRequest) -> Result<Self, Failure> {
        if request.Filter.len() > MAX_EXPRESSIONS {
            return Err(Failure::invalid("too many filters"));
        }
        let now = Utc::now();
        let mut room = Room::default();
        let mut any = Vec::with_capacity(request.Filter.len());
        for text in &request.Filter {
            any.push(All::parse(text, now, &mut room)?);
        }
        let limit = usize::try_from(request.Limit)
            .map_err(|_| Failure::invalid(format!("invalid limit {}", request.Limit)))?;
        Ok(Self {
            active_only: request.ActiveOnly,
            reference: request.Ref.clone(),
            any,
            limit: Some(limit).filter(|limit| *limit > 0),
        })
    }

    /// What is given in the order of the records' beginnings, in the order in which they are to be offered. With a limit, the newest
    /// come first.
    pub(super) fn order<T>(&self, mut records: Vec<T>) -> Vec<T> {
        if self.limit.is_some() {
            records.reverse();
        }
        records
    }

    /// Begins to choose among records.
    pub(super) const fn choose(&self) -> Chosen<'_> {
        Chosen { query: self, records: Vec::new() }
    }
}

/// The records wanted of those that were offered.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    query: &'a Query,
    records: Vec<super::Record>,
}

impl Chosen<'_> {
    /// Whether no more are wanted.
    pub(super) fn is_full(&self) -> bool {
        self.query.limit.is_some_and(|limit| self.records.len() >= limit)
    }

    /// Takes a record if it is wanted.
    pub(super) fn offer(&mut self, record: super::Record) {
        let any = &self.query.any;
        if any.is_empty() || any.iter().any(|all| all.matches(&record)) {
            self.records.push(record);
        }
    }

    pub(super) fn into_records(self) -> Vec<super::Record> {
        self.records
    }
}

impl All {
    fn parse(text: &str, now: DateTime<Utc>, room: &mut Room) -> Result<Self, Failure> {
        room.expression(text)?;
        let mut times = Vec::new();
        let mut rest = Vec::new();
        // Fields that are compared have no quotes in them; what has any is put together again.
        for part in text.split(',') {
            match Time::parse(part.trim(), now)? {
                Some(time) => {
                    room.selector()?;
                    times.push(time);
                }
                None => rest.push(part),
            }
        }
        Ok(Self { fields: Filters::parse_within(&[rest.join(",")], room)?, times })
    }

    fn matches(&self, record: &wire::BuildHistoryRecord) -> bool {
        self.times.iter().all(|time| time.matches(record))
            && self.fields.matches(|path| field(record, path))
    }
}

impl Time {
    fn parse(text: &str, now: DateTime<Utc>) -> Result<Option<Self>, Failure> {
        let found = COMPARISONS.iter().find_map(|(sign, comparison)| {
            text.split_once(sign).map(|(key, value)| (key, value, *comparison))
        });
        let Some((key, value, comparison)) = found else { return Ok(None) };
        let of = match key {
            "startedAt" => Of::Started,
            "completedAt" => Of::Completed,
            "duration" => Of::Duration,
            _ => return Ok(None),
        };
        let value = match (of, duration(value)) {
            (Of::Duration, Some(duration)) => i64::try_from(duration.as_nanos()).ok(),
            (Of::Duration, None) => None,
            (_, Some(ago)) => {
                let ago = TimeDelta::from_std(ago).ok();
                ago.and_then(|ago| Some(now.checked_sub_signed(ago)?.timestamp()))
            }
            (_, None) => DateTime::parse_from_rfc3339(value).ok().map(|time| time.timestamp()),
        };
        let value =
            value.ok_or_else(|| Failure::invalid(format!("invalid time or duration {text:?}")))?;
        Ok(Some(Self { of, comparison, value }))
    }

    fn matches(&self, record: &wire::BuildHistoryRecord) -> bool {
        let created = time_of(record.CreatedAt.as_option()).unwrap_or_default();
        let completed = time_of(record.CompletedAt.as_option());
        let value = match self.of {
            Of::Started => created.timestamp(),
            Of::Completed => completed.map_or(0, |time| time.timestamp()),
            Of::Duration => completed
                .and_then(|completed| (completed - created).num_nanoseconds())
                .unwrap_or_default(),
        };
        match self.comparison {
            Comparison::AtLeast => value >= self.value,
            Comparison::AtMost => value <= self.value,
            Comparison::More => value > self.value,
            Comparison::Less => value < self.value,
        }
    }
}

fn field(record: &wire::BuildHistoryRecord, path: &[String]) -> Option<String> {
    match path.first()?.as_str() {
        "ref" => Some(record.Ref.clone()).filter(|text| !text.is_empty()),
        "status" => Some(status(record).to_owned()),
        "repository" => repository(record),
        _ => None,
    }
}

/// The code of what was canceled, in gRPC's numbering.
const CANCELED: i32 = 1;

fn status(record: &wire::BuildHistoryRecord) -> &'static str {
    match record.error.as_option() {
        _ if !record.CompletedAt.is_set() => "running",
        // One that was canceled with a reason says that, and has the code.
        Some(error) if error.code == CANCELED || error.message.contains("context canceled") => {
            "canceled"
        }
        Some(_) => "error",
        None => "completed",
    }
}

/// The repository that was built: what the client says, or that of a remote context.
fn repository(record: &wire::BuildHistoryRecord) -> Option<String> {
    if let Some(said) = record.FrontendAttrs.get("vcs:source") {
        return Some(said.clone());
    }
    let context = record.FrontendAttrs.get("context")?;
    let remote = context.split('#').next().unwrap_or_default();
    let is_git = remote.starts_with("git@")
        || ["git://", "ssh://"].iter().any(|scheme| remote.starts_with(scheme))
        || (remote.starts_with("http") && remote.ends_with(".git"));
    is_git.then(|| remote.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use buffa::MessageField;

    use super::*;
    use crate::wire_time::timestamp;

    fn chosen(filters: &[&str], limit: i32) -> Vec<String> {
        let begun = Utc::now() - TimeDelta::hours(24);
        let build = |reference: &str, attrs: &[(&str, &str)], hours: i64, minutes: Option<i64>| {
            let created = begun + TimeDelta::hours(hours);
            let completed = minutes.map(|minutes| timestamp(created + TimeDelta::minutes(minutes)));
            Arc::new(wire::BuildHistoryRecord {
                Ref: reference.to_owned(),
                FrontendAttrs: attrs
                    .iter()
                    .map(|(key, value)| ((*key).into(), (*value).into()))
                    .collect(),
                CreatedAt: MessageField::some(timestamp(created)),
                CompletedAt: completed.map_or_else(MessageField::none, MessageField::some),
                ..wire::BuildHistoryRecord::default()
            })
        };
        let records = vec![
            build("alpha1", &[], 0, Some(1)),
            build("beta", &[("context", "https://example.com/a/b.git#v1")], 1, None),
            build("alpha2", &[("vcs:source", "mine")], 2, Some(10)),
        ];
        let query = Query::parse(&wire::BuildHistoryRequest {
            Filter: filters.iter().map(|text| (*text).to_owned()).collect(),
            Limit: limit,
            ..wire::BuildHistoryRequest::default()
        });
        let query = query.unwrap();
        let mut chosen = query.choose();
        for record in query.order(records) {
            if chosen.is_full() {
                break;
            }
            chosen.offer(record);
        }
        chosen.into_records().iter().map(|record| record.Ref.clone()).collect()
    }

    #[test]
    fn records_are_chosen_by_what_is_known_of_them() {
        assert_eq!(chosen(&[], 0), ["alpha1", "beta", "alpha2"]);
        assert_eq!(chosen(&["ref~=alpha"], 0), ["alpha1", "alpha2"]);
        assert_eq!(chosen(&["status==running"], 0), ["beta"]);
        assert_eq!(chosen(&["repository==https://example.com/a/b.git"], 0), ["beta"]);
        assert_eq!(chosen(&["repository!=mine,ref~=alpha"], 0), ["alpha1"]);
        assert_eq!(chosen(&["ref==beta", "ref==alpha1"], 0), ["alpha1", "beta"]);
        assert!(chosen(&["ref==alpha"], 0).is_empty());
    }

    #[test]
    fn times_and_durations_are_compared() {
        assert_eq!(chosen(&["completedAt>23h"], 0), ["alpha2"]);
        assert_eq!(chosen(&["startedAt<23h30m"], 0), ["alpha1"]);
        assert_eq!(chosen(&["duration>5m"], 0), ["alpha2"]);
        assert_eq!(
            chosen(&["duration>5m,ref~=beta", "duration<=1m,status==completed"], 0),
            ["alpha1"]
        );
        assert_eq!(chosen(&["startedAt>2020-01-01T00:00:00Z"], 0).len(), 3);
    }

    #[test]
    fn a_build_that_was_canceled_with_a_reason_is_canceled() {
        let record = |code: i32, message: &str| wire::BuildHistoryRecord {
            CompletedAt: MessageField::some(timestamp(Utc::now())),
            error: MessageField::some(cofferdam_wire::google::rpc::Status {
                code,
                message: message.to_owned(),
                ..Default::default()
            }),
            ..wire::BuildHistoryRecord::default()
        };
        assert_eq!(status(&record(1, "the builder is stopping")), "canceled");
        assert_eq!(status(&record(2, "exec: context canceled")), "canceled");
        assert_eq!(status(&record(2, "exit code: 1")), "error");
    }

    #[test]
    fn a_limit_takes_the_newest() {
        assert_eq!(chosen(&[], 2), ["alpha2", "beta"]);
        assert_eq!(chosen(&["ref!=beta"], 1), ["alpha2"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["ref+x", "startedAt>yesterday", "duration<fast"] {
            let request =
                wire::BuildHistoryRequest { Filter: vec![text.to_owned()], ..Default::default() };
            assert!(Query::parse(&request).is_err(), "{text}");
        }
        let request = wire::BuildHistoryRequest { Limit: -1, ..Default::default() };
        assert!(Query::parse(&request).is_err());
    }

    #[test]
    fn selectors_of_all_expressions_are_counted_together() {
        let many = |count: usize, text: &str| {
            let request = wire::BuildHistoryRequest {
                Filter: vec![text.to_owned(); count],
                ..Default::default()
            };
            Query::parse(&request)
        };
        assert!(many(30, "ref==a,status==b,duration>1s").is_ok());
        assert!(many(40, "ref==a,status==b,duration>1s").is_err());
        assert!(many(40, "duration>1s,startedAt>1s,completedAt>1s").is_err());
        assert!(many(10, "ref~=a").is_ok());
        assert!(many(11, "ref~=a").is_err());
    }
}
