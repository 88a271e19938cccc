//! Which sources an ignore file leaves out, for the warning about them.
//!
//! Follows the pattern rules of [`.dockerignore`](https://docs.docker.com/build/concepts/context/):
//! `*`, `?`, `[…]` within a name, `**` across names; a pattern also covers everything below what it
//! matches. What is transferred is decided elsewhere; here nothing but a warning depends on it.

use std::fmt::Write as _;

use regex::{RegexSet, RegexSetBuilder};

/// Compiled patterns are limited, since anybody may write them; a real ignore file needs some KiB.
const MAX_COMPILED: usize = 1 << 20;

/// The patterns of an ignore file.
pub(super) struct IgnoreMatcher {
    set: RegexSet,
    everything: bool,
}

impl IgnoreMatcher {
    /// `None` when there is nothing to say: no patterns, or exceptions (`!x`), which cannot be judged
    /// without the files.
    pub(super) fn new(patterns: &[String]) -> Option<Self> {
        if patterns.is_empty() || patterns.iter().any(|pattern| pattern.starts_with('!')) {
            return None;
        }
        let expressions = patterns.iter().map(|pattern| expression(pattern));
        let set = RegexSetBuilder::new(expressions).size_limit(MAX_COMPILED).build().ok()?;
        let all = ["*", "**", "**/*"];
        let everything = patterns.iter().any(|pattern| all.contains(&pattern.as_str()));
        Some(Self { set, everything })
    }

    /// Whether the context as a whole is left out.
    pub(super) const fn excludes_everything(&self) -> bool {
        self.everything
    }

    /// Whether the cleaned path or a directory above it is left out.
    pub(super) fn excludes(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        std::iter::once(path).chain(parents).any(|path| self.set.is_match(path))
    }
}

/// A pattern as a regular expression over whole paths.
fn expression(pattern: &str) -> String {
    let mut text = "(?s)^".to_owned();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                    text.push_str("(.*/)?");
                } else {
                    text.push_str(".*");
                }
            }
            '*' => text.push_str("[^/]*"),
            '?' => text.push_str("[^/]"),
            '[' => text.push('['),
            ']' => text.push(']'),
            '\\' => push_literal(&mut text, chars.next().unwrap_or('\\')),
            '^' | '-' => text.push(char),
            other => push_literal(&mut text, other),
        }
    }
    text.push('$');
    text
}

fn push_literal(text: &mut String, char: char) {
    let written = write!(text, "{}", regex::escape(char.encode_utf8(&mut [0; 4])));
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn matcher(patterns: &[&str]) -> Option<IgnoreMatcher> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        IgnoreMatcher::new(&patterns)
    }

    #[test]
    fn patterns_cover_what_is_below() {
        let matcher = matcher(&["node_modules", "**/*.log", "a?c", "b[0-9]", "x.y"]).unwrap();
        for path in ["node_modules", "/node_modules/a/b", "x.log", "a/b/x.log", "abc", "b7", "x.y"]
        {
            assert!(matcher.excludes(path), "{path}");
        }
        for path in ["node_modules2", "a/node_modules", "x.logs", "ac", "ba", "xzy"] {
            assert!(!matcher.excludes(path), "{path}");
        }
    }

    #[test]
    fn exceptions_and_bad_patterns_say_nothing() {
        assert!(matcher(&["a", "!a/b"]).is_none());
        assert!(matcher(&[]).is_none());
        assert!(matcher(&["["]).is_none());
        assert!(matcher(&["*"]).unwrap().excludes_everything());
    }
}
