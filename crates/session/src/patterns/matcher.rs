//! Ordered pattern lists and how a path meets them.

use super::translate::{Compiled, compile};

/// Patterns in one list: real ignore files have tens, generated ones thousands.
const MAX_PATTERNS: usize = 20_000;

/// A list of patterns that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// A lone exclamation mark.
    #[error("illegal exclusion pattern: \"!\"")]
    EmptyExclusion,
    /// Unbalanced class or trailing escape.
    #[error("syntax error in pattern {pattern:?}")]
    Syntax {
        /// The pattern.
        pattern: String,
    },
    /// The pattern needs too large a matcher.
    #[error("pattern {pattern:?} is too complex")]
    TooComplex {
        /// The pattern.
        pattern: String,
        /// What the expression compiler says.
        #[source]
        source: Box<regex::Error>,
    },
    /// The list is too long.
    #[error("more than {MAX_PATTERNS} patterns")]
    TooMany,
}

/// One pattern of a list.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    compiled: Compiled,
}

impl Pattern {
    fn parse(text: &str) -> Result<Option<Self>, PatternError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(text);
        let (exclusion, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::EmptyExclusion),
            Some(rest) => (true, rest),
            None => (false, cleaned.as_str()),
        };
        let compiled = compile(text)?;
        Ok(Some(Self { text: text.to_string(), exclusion, compiled }))
    }

    /// The cleaned pattern, without its `!`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the pattern takes earlier matches back.
    #[must_use]
    pub const fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    /// Whether the pattern matches exactly this path (not one of its parents).
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.compiled.matches(path)
    }
}

/// Which patterns matched a directory, for the paths below it.
#[derive(Debug, Clone, Default)]
pub struct MatchInfo(Vec<bool>);

/// An ordered list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    exclusions: bool,
}

impl Matcher {
    /// Compiles `patterns`; blank ones are ignored.
    ///
    /// # Errors
    /// Malformed, oversized or too many patterns.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, PatternError> {
        let mut list = Vec::new();
        for text in patterns {
            list.extend(Pattern::parse(text.as_ref())?);
            if list.len() > MAX_PATTERNS {
                return Err(PatternError::TooMany);
            }
        }
        let exclusions = list.iter().any(Pattern::is_exclusion);
        Ok(Self { patterns: list, exclusions })
    }

    /// The patterns in order.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether any pattern takes matches back.
    #[must_use]
    pub const fn has_exclusions(&self) -> bool {
        self.exclusions
    }

    /// Whether `path` (slash separated, relative) or a directory above it matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.matches_below(path, None).0
    }

    /// As [`Matcher::matches`], with what is known of the directory `path` is in; returns what
    /// its own children should be given.
    #[must_use]
    pub fn matches_below(&self, path: &str, parent: Option<&MatchInfo>) -> (bool, MatchInfo) {
        let known = parent.map(|info| info.0.as_slice()).filter(|known| !known.is_empty());
        let mut info = vec![false; self.patterns.len()];
        let mut matched = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let inherited = known.is_some_and(|known| known.get(index).copied().unwrap_or(false));
            if !inherited {
                // Only a pattern that could change the outcome is worth evaluating.
                if pattern.exclusion != matched {
                    continue;
                }
                let direct = pattern.matches(path)
                    || (known.is_none() && parents(path).any(|parent| pattern.matches(parent)));
                if !direct {
                    continue;
                }
            }
            info[index] = true;
            matched = !pattern.exclusion;
        }
        (matched, MatchInfo(info))
    }
}

/// Every directory above `path`, topmost first.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(index, _)| &path[..index]).filter(|parent| !parent.is_empty())
}

/// Shortest equivalent of a path, by text alone; the empty path is `.`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") | None if !rooted => parts.push(".."),
                _ => {
                    parts.pop();
                }
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_string(),
        (false, false) => joined,
    }
}

#[cfg(test)]
#[path = "matcher_tests.rs"]
mod tests;
