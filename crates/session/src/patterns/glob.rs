//! Shell-like names in one directory: the form of Go's `filepath.Match`.

use regex::Regex;

use super::translate::compile_glob;

/// A malformed name pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {pattern:?}")]
pub struct GlobError {
    /// The pattern.
    pub pattern: String,
}

/// A name pattern: `*`, `?`, classes and escapes; neither star nor question mark crosses `/`.
#[derive(Debug, Clone)]
pub struct Glob(Regex);

impl Glob {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// Unbalanced classes, trailing escapes, or a pattern far beyond the length of a path.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        let error = || GlobError { pattern: pattern.to_string() };
        if !check_syntax(pattern) {
            return Err(error());
        }
        compile_glob(pattern).map(Self).map_err(|_| error())
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// Whether `text` holds an unescaped wildcard, so that it is more than a plain name.
    #[must_use]
    pub fn has_wildcard(text: &str) -> bool {
        let mut rest = text.chars();
        while let Some(current) = rest.next() {
            match current {
                '\\' => {
                    rest.next();
                }
                '*' | '?' | '[' => return true,
                _ => {}
            }
        }
        false
    }
}

/// Whether `pattern` is well formed as `filepath.Match` has it.
pub(super) fn check_syntax(pattern: &str) -> bool {
    let mut rest = pattern.chars().peekable();
    while let Some(current) = rest.next() {
        let ok = match current {
            '\\' => rest.next().is_some(),
            '[' => check_class(&mut rest),
            _ => true,
        };
        if !ok {
            return false;
        }
    }
    true
}

fn check_class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    fn member(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> bool {
        match rest.next() {
            None | Some('-' | ']') => false,
            Some('\\') => rest.next().is_some(),
            Some(_) => true,
        }
    }
    rest.next_if_eq(&'^');
    loop {
        if !member(rest) || (rest.next_if_eq(&'-').is_some() && !member(rest)) {
            return false;
        }
        if rest.next_if_eq(&']').is_some() {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[a&&b]", "&", true),
            ("a.c", "abc", false),
            ("a[^a]b", "a☺b", true),
            ("[x]", "\n", false),
            ("*", "a\nb", true),
            ("", "", true),
            ("[z-a]", "m", false),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "a\\", "[a-b-c]"] {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
        }
    }
}
