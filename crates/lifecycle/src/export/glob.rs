//! Globs of slices: those of Go's `filepath.Match`.
//!
//! `*` and `?` never match a slash, there is no `**`. Globs come from buildpacks: matching takes no
//! more steps than the product of both lengths, without recursion. Must never look at a directory.

use crate::export::ExportError;

/// Longest glob.
const MAX_GLOB: usize = 4_096;

/// A glob, parsed: parts that follow each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Part>);

/// What comes between stars.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    /// Whether a star comes before it.
    star: bool,
    ones: Vec<One>,
}

/// What one character must be.
#[derive(Debug, PartialEq, Eq)]
enum One {
    Exactly(char),
    NoSlash,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Parses a glob relative to the app.
    pub(crate) fn parse(text: &str) -> Result<Self, ExportError> {
        let error = |problem: &'static str| {
            let glob = text.chars().take(80).collect();
            Err(ExportError::Glob { glob, problem })
        };
        if text.len() > MAX_GLOB {
            return error("is too long");
        }
        let (mut parts, mut part) = (Vec::new(), Part::default());
        let clean = clean(text);
        let mut chars = clean.chars().peekable();
        while let Some(char) = chars.next() {
            let one = match char {
                '*' => {
                    if !part.ones.is_empty() {
                        parts.push(std::mem::take(&mut part));
                    }
                    part.star = true;
                    continue;
                }
                '?' => Some(One::NoSlash),
                '[' => class(&mut chars),
                '\\' => chars.next().map(One::Exactly),
                char => Some(One::Exactly(char)),
            };
            match one {
                Some(one) => part.ones.push(one),
                None => return error("has a malformed class or ends in an escape"),
            }
        }
        parts.push(part);
        Ok(Self(parts))
    }

    /// Whether a path matches; adds to `steps` what it took.
    pub(crate) fn matches(&self, path: &str, steps: &mut usize) -> bool {
        let mut rest = path;
        for (at, Part { star, ones }) in self.0.iter().enumerate() {
            let ends = at + 1 == self.0.len();
            let left = match star {
                true if ones.is_empty() => (!rest.contains('/')).then_some(""),
                true => search(ones, rest, ends, steps),
                false => prefix(ones, rest, steps).filter(|left| !ends || left.is_empty()),
            };
            let Some(left) = left else { return false };
            rest = left;
        }
        true
    }
}

/// What is left after the first place a part fits, before any slash that a star would have to match.
fn search<'a>(part: &[One], text: &'a str, ends: bool, steps: &mut usize) -> Option<&'a str> {
    let mut rest = text;
    loop {
        if let Some(left) = prefix(part, rest, steps).filter(|left| !ends || left.is_empty()) {
            return Some(left);
        }
        let mut chars = rest.chars();
        if chars.next().is_none_or(|char| char == '/') {
            return None;
        }
        rest = chars.as_str();
    }
}

/// What is left of a text that begins with what a part describes.
fn prefix<'a>(part: &[One], text: &'a str, steps: &mut usize) -> Option<&'a str> {
    let mut chars = text.chars();
    *steps += 1;
    for one in part {
        let char = chars.next()?;
        *steps += 1;
        let fits = match one {
            One::Exactly(exactly) => *exactly == char,
            One::NoSlash => char != '/',
            One::Class { negated, ranges } => {
                *steps += ranges.len();
                let within = |(low, high): &(char, char)| (*low..=*high).contains(&char);
                ranges.iter().any(within) != *negated
            }
        };
        if !fits {
            return None;
        }
    }
    Some(chars.as_str())
}

/// A class after its opening bracket; nothing when it is malformed.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<One> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(One::Class { negated, ranges });
        }
        let low = member(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => member(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        char => Some(char),
    }
}

/// The glob without empty and `.` parts, and with `..` resolved, as Go's `filepath.Clean` does it.
fn clean(text: &str) -> String {
    let rooted = text.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn matches(glob: &str, path: &str) -> bool {
        Glob::parse(glob).unwrap().matches(path, &mut 0)
    }

    #[test]
    fn globs_match_as_in_go() {
        for (glob, path) in [
            ("abc", "abc"),
            ("*", "abc"),
            ("*c", "abc"),
            ("a*", "a"),
            ("a*", "abc"),
            ("a*/b", "abc/b"),
            ("a*b*c*d*e*/f", "axbxcxdxe/f"),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f"),
            ("a*b?c*x", "abxbbxdbxebxczzx"),
            ("ab[c]", "abc"),
            ("ab[b-d]", "abc"),
            ("ab[^e-g]", "abc"),
            ("a\\*b", "a*b"),
            ("a?b", "a☺b"),
            ("a[^a]b", "a☺b"),
            ("[a-ζ]*", "α"),
            ("[\\]a]", "]"),
            ("[\\-x]", "-"),
            ("[x\\-]", "x"),
            ("*x", "xxx"),
            ("**", "abc"),
            ("a**b", "axb"),
            ("./a//b/", "a/b"),
            ("x/../a", "a"),
            ("*/*", "a/b"),
        ] {
            assert!(matches(glob, path), "{glob} {path}");
        }
        for (glob, path) in [
            ("a*", "ab/c"),
            ("a*/b", "a/c/b"),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f"),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff"),
            ("a*b?c*x", "abxbbxdbxebxczzy"),
            ("ab[e-g]", "abc"),
            ("ab[^c]", "abc"),
            ("a\\*b", "ab"),
            ("a???b", "a☺b"),
            ("[a-ζ]*", "A"),
            ("a?b", "a/b"),
            ("a*b", "a/b"),
            ("*", "a/b"),
            ("", "a"),
            (".", "a"),
            ("/a", "a"),
            ("../a", "a"),
            ("a", "A"),
            ("*a", "ab"),
            ("abc", "abcd"),
        ] {
            assert!(!matches(glob, path), "{glob} {path}");
        }
    }

    #[test]
    fn malformed_globs_are_errors() {
        for glob in
            ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a\\", "[a-"]
        {
            assert!(Glob::parse(glob).is_err(), "{glob}");
        }
        assert!(Glob::parse(&"x".repeat(MAX_GLOB + 1)).is_err());
    }

    #[test]
    fn hostile_globs_take_few_steps() {
        let glob = Glob::parse(&"*a".repeat(2_000)).unwrap();
        let mut steps = 0;
        assert!(!glob.matches(&("a".repeat(4_000) + "b"), &mut steps));
        assert!(steps < 1_000_000, "{steps}");
    }
}
