//! Filter expressions in containerd's language, of `DiskUsage`, `Prune` and `ListenBuildHistory`.
//!
//! One expression is selectors joined by commas, all of which must hold; of several expressions any may. A selector is a field path,
//! alone (it is present) or with `==`, `!=` or `~=` and a value; values and fields may be quoted, regular expressions between `/` or
//! `|` too. Expressions come from clients: their length and number are bounded, and the regular expressions run in linear time.

use regex::{Regex, RegexBuilder};

use crate::failure::Failure;

/// Most selectors of one request.
const MAX_SELECTORS: usize = 100;
/// Most regular expressions among them.
const MAX_PATTERNS: usize = 10;
/// Bytes of one of them when it is compiled, and of what it remembers while it matches. A class of Unicode's, such as `\w`, takes a
/// good part of it.
const PATTERN_BYTES: usize = 512 << 10;
/// Longest expression.
const MAX_LENGTH: usize = 16 << 10;

/// What the expressions of one request may still have.
#[derive(Debug)]
pub(crate) struct Room {
    selectors: usize,
    patterns: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { selectors: MAX_SELECTORS, patterns: MAX_PATTERNS }
    }
}

impl Room {
    /// Whether an expression is short enough to be looked at.
    pub(crate) fn expression(&self, text: &str) -> Result<(), Failure> {
        if text.len() > MAX_LENGTH {
            return Err(Failure::invalid("filter is too long"));
        }
        Ok(())
    }

    /// Counts a selector.
    pub(crate) fn selector(&mut self) -> Result<(), Failure> {
        take(&mut self.selectors)
    }

    fn pattern(&mut self) -> Result<(), Failure> {
        take(&mut self.patterns)
    }
}

fn take(left: &mut usize) -> Result<(), Failure> {
    *left = left.checked_sub(1).ok_or_else(|| Failure::invalid("too many filters"))?;
    Ok(())
}

/// Parsed expressions; none match everything.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    Different(String),
    Matching(Regex),
}

impl Filters {
    /// Parses a request's expressions.
    pub(crate) fn parse<S: AsRef<str>>(expressions: &[S]) -> Result<Self, Failure> {
        Self::parse_within(expressions, &mut Room::default())
    }

    /// Parses some of a request's expressions.
    pub(crate) fn parse_within<S: AsRef<str>>(
        expressions: &[S],
        room: &mut Room,
    ) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for expression in expressions {
            let expression = expression.as_ref();
            if expression.trim().is_empty() {
                continue;
            }
            room.expression(expression)?;
            all.push(Parser { text: expression, at: 0, room: &mut *room }.selectors()?);
        }
        Ok(Self(all))
    }

    /// Whether everything matches.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the thing with these fields matches. `field` is given the path and yields nothing for what is not present.
    pub(crate) fn matches(&self, field: impl Fn(&[String]) -> Option<String>) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|all| all.iter().all(|selector| selector.matches(&field)))
    }
}

impl Selector {
    fn matches(&self, field: &impl Fn(&[String]) -> Option<String>) -> bool {
        let value = field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::Different(wanted) => value.as_ref() != Some(wanted),
            Test::Matching(regex) => value.is_some_and(|value| regex.is_match(&value)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    room: &'a mut Room,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error(&self, what: &str) -> Failure {
        Failure::invalid(format!(
            "filters: parse error: [{} >|{}|<]: {what}",
            &self.text[..self.at],
            self.rest()
        ))
    }

    fn selectors(&mut self) -> Result<Vec<Selector>, Failure> {
        let mut selectors = vec![self.selector()?];
        while !self.rest().is_empty() {
            if !self.skip(",") {
                return Err(self.error("expected a comma"));
            }
            selectors.push(self.selector()?);
        }
        Ok(selectors)
    }

    fn selector(&mut self) -> Result<Selector, Failure> {
        self.room.selector()?;
        let mut path = vec![self.field()?];
        while self.skip(".") {
            path.push(self.field()?);
        }
        self.spaces();
        let test = if self.skip("==") {
            Test::Equal(self.value(false)?)
        } else if self.skip("!=") {
            Test::Different(self.value(false)?)
        } else if self.skip("~=") {
            let text = self.value(true)?;
            self.room.pattern()?;
            let regex = RegexBuilder::new(&text)
                .size_limit(PATTERN_BYTES)
                .dfa_size_limit(PATTERN_BYTES)
                .build();
            Test::Matching(regex.map_err(|error| self.error(&error.to_string()))?)
        } else {
            Test::Present
        };
        self.spaces();
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, Failure> {
        self.spaces();
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let word = |character: char| character.is_alphanumeric() || character == '_';
        let length = self.rest().find(|character| !word(character)).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.error("expected field or quoted"));
        }
        let field = self.rest()[..length].to_owned();
        self.at += length;
        Ok(field)
    }

    fn value(&mut self, pattern: bool) -> Result<String, Failure> {
        self.spaces();
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if pattern => self.quoted(quote),
            _ => {
                let end = |character: char| character == ',' || character.is_whitespace();
                let length = self.rest().find(end).unwrap_or(self.rest().len());
                if length == 0 {
                    return Err(self.error("expected value or quoted"));
                }
                let value = self.rest()[..length].to_owned();
                self.at += length;
                Ok(value)
            }
        }
    }

    /// A quoted text. A backslash takes the next character as it is, but before a letter it is kept in patterns and stands for the
    /// usual control characters elsewhere.
    fn quoted(&mut self, quote: char) -> Result<String, Failure> {
        let start = self.at;
        let mut value = String::new();
        let mut characters = self.rest().char_indices();
        characters.next();
        while let Some((at, character)) = characters.next() {
            if character == quote {
                self.at = start + at + character.len_utf8();
                return Ok(value);
            }
            if character != '\\' {
                value.push(character);
                continue;
            }
            match characters.next() {
                None => break,
                Some((_, 'n')) if quote == '"' => value.push('\n'),
                Some((_, 't')) if quote == '"' => value.push('\t'),
                Some((_, 'r')) if quote == '"' => value.push('\r'),
                Some((_, escaped)) => {
                    if quote != '"' && escaped != quote {
                        value.push('\\');
                    }
                    value.push(escaped);
                }
            }
        }
        Err(self.error("unterminated quote"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn matches(expressions: &[&str]) -> bool {
        Filters::parse(expressions).unwrap().matches(|path| match path {
            [name] if name == "type" => Some("exec.cachemount".to_owned()),
            [name] if name == "text" => Some("a, \"b\"".to_owned()),
            [name] if name == "mutable" => Some("true".to_owned()),
            [label, key] if label == "labels" && key == "x.y/z" => Some("1".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn selectors_are_joined_by_and_and_expressions_by_or() {
        assert!(matches(&[]) && matches(&["", " "]));
        assert!(matches(&["type==exec.cachemount,mutable"]));
        assert!(!matches(&["type==exec.cachemount,shared"]));
        assert!(matches(&["type==regular", "mutable"]));
        assert!(matches(&["type!=regular"]) && matches(&["missing!=x"]));
        assert!(!matches(&["missing==x"]) && !matches(&["missing"]));
    }

    #[test]
    fn values_may_be_quoted_and_patterns_too() {
        assert!(matches(&[r#"text=="a, \"b\"""#]));
        assert!(matches(&[r#"labels."x.y/z"==1"#]));
        assert!(matches(&["type~=^exec"]) && matches(&[r"type~=/\.cache/"]));
        assert!(matches(&["type ~= |mount$| , mutable"]));
        assert!(!matches(&["type~=/^cache/"]));
    }

    #[test]
    fn no_text_brings_the_parser_down() {
        let pieces =
            ["a", ".", "==", "!=", "~=", "\"", "\\", "/", "|", ",", " ", "é", "(", "\u{0}", "x"];
        let mut state: u64 = 1;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[usize::try_from(state >> 33).unwrap() % pieces.len()]);
            }
            if let Ok(filters) = Filters::parse(&[&text]) {
                let _ = filters.matches(|path| path.first().cloned());
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["ref+foo", "==x", "a==", "a==\"x", "a~=(", "a,,b", "a b", "a.", ","] {
            let error = Filters::parse(&[text]).unwrap_err();
            assert!(error.message().contains("parse error"), "{text}: {error}");
        }
        assert!(Filters::parse(&["a,".repeat(MAX_SELECTORS) + "a"]).is_err());
        assert!(Filters::parse(&["a".repeat(MAX_LENGTH + 1)]).is_err());
    }

    #[test]
    fn patterns_are_few_and_small() {
        assert!(Filters::parse(&["a~=x"; MAX_PATTERNS]).is_ok());
        assert!(Filters::parse(&["a~=x"; MAX_PATTERNS + 1]).is_err());
        assert!(Filters::parse(&[r"a~=/^\w+$/"]).is_ok());
        let error = Filters::parse(&[r"a~=/\w{60}/"]).unwrap_err();
        assert!(error.message().contains("size limit"), "{error}");
    }
}
