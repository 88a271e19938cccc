//! Filter expressions of `DiskUsage` and `Prune`, in containerd's language: `field`,
//! `field==value`, `field!=value`, `field~=regex`; a comma joins with "and", several filters
//! with "or".

use cofferdam_store::UsageRecord;
use regex::Regex;

use crate::failure::Failure;

/// Most filters or terms of one request.
const MAX_TERMS: usize = 100;

/// Parsed filters; none match everything.
#[derive(Debug, Default)]
pub(super) struct Filter(Vec<Vec<Term>>);

#[derive(Debug)]
struct Term {
    field: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    Different(String),
    Matching(Regex),
}

impl Filter {
    /// Parses a request's filters.
    pub(super) fn parse(filters: &[String]) -> Result<Self, Failure> {
        let filters: Vec<Vec<Term>> = filters
            .iter()
            .filter(|text| !text.trim().is_empty())
            .map(|text| text.split(',').map(Term::parse).collect())
            .collect::<Result<_, _>>()?;
        if filters.iter().map(Vec::len).sum::<usize>() > MAX_TERMS {
            return Err(Failure::invalid("too many filters"));
        }
        Ok(Self(filters))
    }

    /// Whether a record matches.
    pub(super) fn matches(&self, record: &UsageRecord) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|terms| terms.iter().all(|term| term.matches(record)))
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        let split = ["==", "!=", "~="]
            .iter()
            .filter_map(|operator| Some((text.find(operator)?, *operator)))
            .min();
        let Some((at, operator)) = split else {
            return Ok(Self { field: text.to_owned(), test: Test::Present });
        };
        let value = text[at + 2..].trim().trim_matches('"').to_owned();
        let test =
            match operator {
                "==" => Test::Equal(value),
                "!=" => Test::Different(value),
                _ => Test::Matching(Regex::new(&value).map_err(|error| {
                    Failure::invalid(format!("invalid filter {text:?}: {error}"))
                })?),
            };
        Ok(Self { field: text[..at].trim().to_owned(), test })
    }

    fn matches(&self, record: &UsageRecord) -> bool {
        let flag = |on: bool| Some(if on { "true" } else { "" }.to_owned());
        let value = match self.field.as_str() {
            "id" => Some(record.id.clone()),
            "description" => Some(record.description.clone()),
            "type" => Some(record.record_type.as_str().to_owned()),
            "inuse" => flag(record.in_use),
            "mutable" => flag(record.mutable),
            "immutable" => flag(!record.mutable),
            "shared" => flag(record.shared),
            "private" => flag(!record.shared),
            "parents" => Some(record.parents.join(";")),
            _ => None,
        };
        let Some(value) = value else { return false };
        match &self.test {
            Test::Present => !value.is_empty(),
            Test::Equal(wanted) => value == *wanted,
            Test::Different(wanted) => value != *wanted,
            Test::Matching(regex) => regex.is_match(&value),
        }
    }
}
