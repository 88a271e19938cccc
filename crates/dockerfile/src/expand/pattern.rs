//! Patterns of `# ## % %% / //`: `*`, `?`, `\` and literal characters.
//!
//! Translated to a regular expression, whose matching is linear in the value; there are no
//! bracket expressions. As in the existing frontend, wildcards do not cross a line end.

use regex::{Regex, RegexBuilder};

use super::ExpandProblem;
use super::budget::Budget;

/// Characters in a pattern. Together with the budget on values this bounds the work.
const MAX_PATTERN: usize = 512;
/// Compiled size in bytes; far above what `MAX_PATTERN` characters need.
const MAX_COMPILED: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

#[derive(Clone, Copy)]
enum Token {
    Any,
    One,
    Literal(char),
}

pub(super) struct Pattern<'a> {
    text: &'a str,
    tokens: Vec<Token>,
}

impl<'a> Pattern<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, ExpandProblem> {
        let problem =
            |problem: String| ExpandProblem::Pattern { pattern: text.to_owned(), problem };
        if text.chars().nth(MAX_PATTERN).is_some() {
            let pattern = text.chars().take(MAX_PATTERN).collect();
            return Err(ExpandProblem::Pattern { pattern, problem: "too long".to_owned() });
        }
        let mut tokens = Vec::new();
        let mut input = text.chars();
        while let Some(character) = input.next() {
            tokens.push(match character {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match input.next() {
                    // `}` and `/` are escaped for the sake of `${…}` around the pattern.
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(escaped),
                    other => {
                        let other = other.unwrap_or(char::REPLACEMENT_CHARACTER);
                        return Err(problem(format!("invalid escape '\\{other}'")));
                    }
                },
                _ => Token::Literal(character),
            });
        }
        Ok(Self { text, tokens })
    }

    pub(super) fn trim_start(&self, value: &str, reach: Reach) -> Result<String, ExpandProblem> {
        let regex = self.compile(reach, true, self.tokens.iter())?;
        let cut = regex.find(value).map_or(0, |found| found.end());
        Ok(value.get(cut..).unwrap_or_default().to_owned())
    }

    /// Works on the reversed value and pattern: a search finds the leftmost match, and what
    /// is wanted here is the rightmost.
    pub(super) fn trim_end(&self, value: &str, reach: Reach) -> Result<String, ExpandProblem> {
        let regex = self.compile(reach, true, self.tokens.iter().rev())?;
        let reversed: String = value.chars().rev().collect();
        let cut = regex.find(&reversed).map_or(0, |found| found.end());
        Ok(reversed.get(cut..).unwrap_or_default().chars().rev().collect())
    }

    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        limit: usize,
        budget: &Budget,
    ) -> Result<String, ExpandProblem> {
        let regex = self.compile(Reach::Longest, false, self.tokens.iter())?;
        let mut result = String::new();
        let mut done = 0;
        for found in regex.find_iter(value).take(limit) {
            budget.charge(replacement.len())?;
            result.push_str(value.get(done..found.start()).unwrap_or_default());
            result.push_str(replacement);
            done = found.end();
        }
        result.push_str(value.get(done..).unwrap_or_default());
        Ok(result)
    }

    fn compile<'t>(
        &self,
        reach: Reach,
        anchored: bool,
        tokens: impl Iterator<Item = &'t Token>,
    ) -> Result<Regex, ExpandProblem> {
        let mut source = String::from(if anchored { "^" } else { "" });
        for token in tokens {
            match token {
                Token::Any if reach == Reach::Longest => source.push_str(".*"),
                Token::Any => source.push_str(".*?"),
                Token::One => source.push('.'),
                Token::Literal(character) => {
                    source.push_str(&regex::escape(character.encode_utf8(&mut [0; 4])))
                }
            }
        }
        RegexBuilder::new(&source).size_limit(MAX_COMPILED).build().map_err(|error| {
            ExpandProblem::Pattern { pattern: self.text.to_owned(), problem: error.to_string() }
        })
    }
}
