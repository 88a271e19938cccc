//! What a selector's identifier means: itself, a text with stars, or a regular expression.

use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::{MAX_TEXT, PolicyError};

/// Memory of one compiled expression; the default of ten times as much is meant for programs' own.
const MAX_COMPILED: usize = 1 << 20;

/// Compiles an expression from a client.
pub(crate) fn expression(pattern: &str) -> Result<Regex, PolicyError> {
    let invalid = |reason: String| PolicyError::Pattern { pattern: pattern.to_owned(), reason };
    if pattern.len() > MAX_TEXT {
        return Err(invalid(format!("longer than {MAX_TEXT} bytes")));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED);
    // The library's message spreads over lines with a drawing.
    let reason = |error: regex::Error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        error => error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
    };
    builder.build().map_err(|error| invalid(reason(error)))
}

/// A compiled selector.
#[derive(Clone)]
pub(crate) enum Pattern {
    Exact(String),
    Wildcard(String, Regex),
    Expression(String, Regex),
}

impl fmt::Debug for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Pattern").field(&self.identifier()).finish()
    }
}

impl Pattern {
    /// A text in which each star stands for anything.
    pub(crate) fn wildcard(identifier: &str) -> Result<Self, PolicyError> {
        if identifier.contains("**") {
            return Err(PolicyError::Pattern {
                pattern: identifier.to_owned(),
                reason: "invalid wildcard: \"**\"".to_owned(),
            });
        }
        let quoted: Vec<String> = identifier.split('*').map(regex::escape).collect();
        let compiled = expression(&format!("^{}$", quoted.join("(.*)")))?;
        Ok(Self::Wildcard(identifier.to_owned(), compiled))
    }

    /// A regular expression.
    pub(crate) fn regex(identifier: &str) -> Result<Self, PolicyError> {
        Ok(Self::Expression(identifier.to_owned(), expression(identifier)?))
    }

    pub(crate) fn identifier(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Wildcard(text, _) | Self::Expression(text, _) => text,
        }
    }

    /// Whether a source is meant. Its name as it stands always is.
    pub(crate) fn matches(&self, source: &str) -> bool {
        match self {
            _ if self.identifier() == source => true,
            Self::Exact(_) => false,
            Self::Wildcard(_, compiled) | Self::Expression(_, compiled) => {
                compiled.is_match(source)
            }
        }
    }

    /// What a source becomes: `template` with `$1` and so on for what the pattern's parts stand for.
    pub(crate) fn fill(&self, source: &str, template: &str) -> Result<String, PolicyError> {
        let filled = match self {
            Self::Exact(_) => template.to_owned(),
            Self::Wildcard(_, compiled) => match compiled.captures(source) {
                None => source.to_owned(),
                Some(found) => {
                    // Before it is made: a template can name a long part thousands of times.
                    bounded(source, template, 1)?;
                    let mut filled = String::new();
                    found.expand(template, &mut filled);
                    filled
                }
            },
            Self::Expression(_, compiled) => {
                bounded(source, template, source.len().saturating_add(1))?;
                compiled.replace_all(source, template).into_owned()
            }
        };
        if filled.len() > MAX_TEXT { Err(PolicyError::TooLong) } else { Ok(filled) }
    }
}

/// Refuses what could be far longer than anybody wants, replaced `times` times.
fn bounded(source: &str, template: &str, times: usize) -> Result<(), PolicyError> {
    /// Work for one replacement that is nothing to worry about.
    const MAX_WORK: usize = 64 << 20;
    let named = template.bytes().filter(|byte| *byte == b'$').count();
    let one = template.len().saturating_add(named.saturating_mul(source.len()));
    if one.saturating_mul(times) > MAX_WORK { Err(PolicyError::TooLong) } else { Ok(()) }
}
