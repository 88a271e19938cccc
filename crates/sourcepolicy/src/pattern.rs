//! What a selector's identifier means: itself, a text with stars, or a regular expression.
//!
//! Everything here is matched in linear time. It must never compile an expression without a limit on its size.

use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::{MAX_TEXT, PolicyError};

/// Memory of one compiled expression, and of the states that are worked out while it is matched.
const MAX_COMPILED: usize = 64 << 10;

/// Compiles an expression from a client.
pub(crate) fn expression(pattern: &str) -> Result<Regex, PolicyError> {
    if pattern.len() > MAX_TEXT {
        return Err(invalid(pattern, format!("longer than {MAX_TEXT} bytes")));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED);
    // The library's message spreads over lines with a drawing.
    let reason = |error: regex::Error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        error => error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
    };
    builder.build().map_err(|error| invalid(pattern, reason(error)))
}

/// A pattern that makes no sense; of a long one the beginning is shown.
fn invalid(pattern: &str, reason: String) -> PolicyError {
    PolicyError::Pattern { pattern: pattern.chars().take(200).collect(), reason }
}

/// A selector's identifier, ready to be matched.
#[derive(Clone)]
pub(crate) enum Pattern {
    Exact(String),
    /// Each star stands for anything, line ends included.
    Stars(String),
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
        if identifier.len() > MAX_TEXT {
            return Err(invalid(identifier, format!("longer than {MAX_TEXT} bytes")));
        }
        if identifier.contains("**") {
            return Err(invalid(identifier, "invalid wildcard: \"**\"".to_owned()));
        }
        Ok(Self::Stars(identifier.to_owned()))
    }

    /// A regular expression.
    pub(crate) fn regex(identifier: &str) -> Result<Self, PolicyError> {
        Ok(Self::Expression(identifier.to_owned(), expression(identifier)?))
    }

    pub(crate) fn identifier(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Stars(text) | Self::Expression(text, _) => text,
        }
    }

    /// Whether a source is meant. Its name as it stands always is.
    pub(crate) fn matches(&self, source: &str) -> bool {
        match self {
            _ if self.identifier() == source => true,
            Self::Exact(_) => false,
            Self::Stars(pattern) => stars(pattern, source).is_some(),
            Self::Expression(_, compiled) => compiled.is_match(source),
        }
    }

    /// What a source becomes: `template` with `$1` and so on for what the pattern's parts stand for.
    pub(crate) fn fill(&self, source: &str, template: &str) -> Result<String, PolicyError> {
        let filled = match self {
            Self::Exact(_) => template.to_owned(),
            Self::Stars(pattern) => match stars(pattern, source) {
                None => source.to_owned(),
                Some(found) => expand(template, source, &found)?,
            },
            Self::Expression(_, compiled) => {
                // Before it is made: a template can name a long part thousands of times.
                bounded(source, template, source.len().saturating_add(1))?;
                compiled.replace_all(source, template).into_owned()
            }
        };
        if filled.len() > MAX_TEXT { Err(PolicyError::TooLong) } else { Ok(filled) }
    }
}

/// What each star of `pattern` stands for in `text`; `None` when it does not match. The first star takes as much as it can, then the
/// second, as regular expressions have it: so what is between the stars is looked for from the end.
fn stars<'a>(pattern: &str, text: &'a str) -> Option<Vec<&'a str>> {
    let Some((first, rest)) = pattern.split_once('*') else {
        return (pattern == text).then(Vec::new);
    };
    let mut left = text.strip_prefix(first)?;
    let mut found = Vec::new();
    let mut pieces = rest.rsplit('*');
    // What follows the last star stands at the very end.
    left = left.strip_suffix(pieces.next()?)?;
    for piece in pieces {
        let at = left.rfind(piece)?;
        found.push(&left[at + piece.len()..]);
        left = &left[..at];
    }
    found.push(left);
    found.reverse();
    Some(found)
}

/// The template with `$1`, `${1}` and so on in it replaced. `$0` is the whole, `$$` a dollar, and what nothing is known of is empty.
fn expand(template: &str, whole: &str, found: &[&str]) -> Result<String, PolicyError> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((plain, after)) = rest.split_once('$') {
        push(&mut filled, plain)?;
        if let Some(after) = after.strip_prefix('$') {
            push(&mut filled, "$")?;
            rest = after;
            continue;
        }
        let Some((name, after)) = name(after) else {
            push(&mut filled, "$")?;
            rest = after;
            continue;
        };
        let part = match name.parse::<usize>() {
            Ok(0) => whole,
            Ok(number) => found.get(number - 1).copied().unwrap_or_default(),
            Err(_) => "",
        };
        push(&mut filled, part)?;
        rest = after;
    }
    push(&mut filled, rest)?;
    Ok(filled)
}

fn push(filled: &mut String, text: &str) -> Result<(), PolicyError> {
    if filled.len().saturating_add(text.len()) > MAX_TEXT {
        return Err(PolicyError::TooLong);
    }
    filled.push_str(text);
    Ok(())
}

/// The name at the beginning of what follows a dollar, and what follows the name.
fn name(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let from = braced.unwrap_or(text);
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = from.find(|c: char| !word(c)).unwrap_or(from.len());
    let (name, after) = from.split_at(end);
    if name.is_empty() {
        return None;
    }
    match braced {
        Some(_) => Some((name, after.strip_prefix('}')?)),
        None => Some((name, after)),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn stars_stand_for_what_a_regular_expression_would_find() {
        let patterns = ["*", "a*", "*a", "a*a", "*a*", "a*b*a", "*ab*b*", "ab", "*:*", "é*é"];
        let texts =
            ["", "a", "aa", "ab", "aba", "abba", "abab", "xaby", "ababbxb", "a:b:c", "é:é", "éé"];
        for pattern in patterns {
            let quoted: Vec<String> = pattern.split('*').map(regex::escape).collect();
            let same = Regex::new(&format!("(?s)^{}$", quoted.join("(.*)"))).unwrap();
            for text in texts {
                let wanted = same.captures(text).map(|found| {
                    found.iter().skip(1).map(|part| part.unwrap().as_str()).collect::<Vec<_>>()
                });
                assert_eq!(stars(pattern, text), wanted, "{pattern} {text}");
            }
        }
        let two = Pattern::wildcard("https://bad/*").unwrap();
        assert!(two.matches("https://bad/a\nb"), "a line end is no way out");
    }

    #[test]
    fn templates_are_filled_as_a_regular_expression_would() {
        let same = Regex::new("^(.*)-(.*)$").unwrap();
        let pattern = Pattern::wildcard("*-*").unwrap();
        for template in [
            "",
            "plain",
            "$1",
            "${1}x",
            "$1x",
            "$2$1",
            "$0",
            "$3",
            "$",
            "$$1",
            "a$",
            "${1",
            "$-",
            "$1-${2}-$3-$$-$0",
            "${x}",
            "é$1é",
        ] {
            let mut wanted = String::new();
            same.captures("left-right").unwrap().expand(template, &mut wanted);
            assert_eq!(pattern.fill("left-right", template), Ok(wanted), "{template}");
        }
    }
}
