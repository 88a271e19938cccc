//! Which records a listener asks for: filter expressions over `ref`, `status` and `repository`, times and durations compared with
//! `>`, `>=`, `<` and `<=`, and how many.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_wire::moby::buildkit::v1 as wire;

use super::logs::time_of;
use crate::failure::Failure;
use crate::filters::Filters;

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
        let any =
            request.Filter.iter().map(|text| All::parse(text, now)).collect::<Result<_, _>>()?;
        let limit = usize::try_from(request.Limit)
            .map_err(|_| Failure::invalid(format!("invalid limit {}", request.Limit)))?;
        Ok(Self {
            active_only: request.ActiveOnly,
            reference: request.Ref.clone(),
            any,
            limit: Some(limit).filter(|limit| *limit > 0),
        })
    }

    /// The records wanted of those given, which are in the order of their beginnings. With a limit, the newest come first.
    pub(super) fn choose(&self, mut records: Vec<super::Record>) -> Vec<super::Record> {
        if !self.any.is_empty() {
            records.retain(|record| self.any.iter().any(|all| all.matches(record)));
        }
        if let Some(limit) = self.limit {
            records.reverse();
            records.truncate(limit);
        }
        records
    }
}

impl All {
    fn parse(text: &str, now: DateTime<Utc>) -> Result<Self, Failure> {
        let mut times = Vec::new();
        let mut rest = Vec::new();
        // Fields that are compared have no quotes in them; what has any is put together again.
        for part in text.split(',') {
            match Time::parse(part.trim(), now)? {
                Some(time) => times.push(time),
                None => rest.push(part),
            }
        }
        Ok(Self { fields: Filters::parse(&[rest.join(",")])?, times })
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

fn status(record: &wire::BuildHistoryRecord) -> &'static str {
    match record.error.as_option() {
        _ if !record.CompletedAt.is_set() => "running",
        Some(error) if error.message.contains("context canceled") => "canceled",
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

/// A duration as Go writes them: `1h30m`, `1.5s`, `100ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
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
        query.unwrap().choose(records).iter().map(|record| record.Ref.clone()).collect()
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
        assert_eq!(duration("1h1.5s"), Some(Duration::from_millis(3_601_500)));
        assert_eq!((duration(""), duration("5"), duration("m")), (None, None, None));
    }
}
