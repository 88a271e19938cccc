//! One pattern, compiled to the cheapest form that decides it.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

use super::glob::check_syntax;
use super::matcher::PatternError;

/// Compiled size of one expression; a pattern the length of a path needs far less.
const MAX_COMPILED: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(super) enum Compiled {
    /// Equal text.
    Exact(String),
    /// Text before a final `**`.
    Prefix(String),
    /// Text after a leading `**`; a leading slash in it may also be the path's start.
    Suffix(String),
    /// Anything else.
    Expression(Regex),
}

impl Compiled {
    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => path.starts_with(text.as_str()),
            Self::Suffix(text) => {
                path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path)
            }
            Self::Expression(expression) => expression.is_match(path),
        }
    }
}

/// What the scan has seen so far; decides the form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Exact,
    Prefix,
    Suffix,
    Expression,
}

/// Compiles a cleaned pattern without its `!`.
pub(super) fn compile(pattern: &str) -> Result<Compiled, PatternError> {
    if !check_syntax(pattern) {
        return Err(PatternError::Syntax { pattern: pattern.to_string() });
    }
    let mut form = Form::Exact;
    let mut expression = String::from("^");
    let mut rest = pattern.chars().peekable();
    let mut first = true;
    while let Some(current) = rest.next() {
        match current {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                if rest.peek().is_none() {
                    if form == Form::Exact {
                        form = Form::Prefix;
                    } else {
                        expression.push_str(".*");
                        form = Form::Expression;
                    }
                } else {
                    expression.push_str("(?:.*/)?");
                    form = Form::Expression;
                }
                if first {
                    form = Form::Suffix;
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                form = Form::Expression;
            }
            '?' => {
                expression.push_str("[^/]");
                form = Form::Expression;
            }
            '[' => {
                class(&mut rest, &mut expression);
                form = Form::Expression;
            }
            '\\' => {
                // A trailing backslash was refused by the syntax check.
                if let Some(escaped) = rest.next() {
                    push_literal(&mut expression, escaped);
                }
                form = Form::Expression;
            }
            literal => {
                push_literal(&mut expression, literal);
            }
        }
        first = false;
    }
    Ok(match form {
        Form::Exact => Compiled::Exact(pattern.to_string()),
        Form::Prefix => Compiled::Prefix(pattern[..pattern.len() - 2].to_string()),
        Form::Suffix => Compiled::Suffix(pattern[2..].to_string()),
        Form::Expression => {
            expression.push('$');
            Compiled::Expression(build(&expression).map_err(|source| PatternError::TooComplex {
                pattern: pattern.to_string(),
                source: Box::new(source),
            })?)
        }
    })
}

/// Compiles a well-formed name pattern, in which a double star is two single ones.
pub(super) fn compile_glob(pattern: &str) -> Result<Regex, regex::Error> {
    let mut expression = String::from("^");
    let mut rest = pattern.chars().peekable();
    while let Some(current) = rest.next() {
        match current {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' => class(&mut rest, &mut expression),
            '\\' => push_literal(&mut expression, rest.next().unwrap_or(current)),
            literal => push_literal(&mut expression, literal),
        }
    }
    expression.push('$');
    build(&expression)
}

fn build(expression: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(expression).size_limit(MAX_COMPILED).dot_matches_new_line(true).build()
}

fn push_literal(expression: &mut String, literal: char) {
    let mut buffer = [0; 4];
    expression.push_str(&regex::escape(literal.encode_utf8(&mut buffer)));
}

/// Copies a class, already known to be well formed, item by item in hexadecimal so that no
/// character of it means anything else to the expression language.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, expression: &mut String) {
    expression.push('[');
    if rest.next_if_eq(&'^').is_some() {
        expression.push('^');
    }
    while let Some(low) = rest.next() {
        if low == ']' {
            break;
        }
        let low = if low == '\\' { rest.next().unwrap_or(low) } else { low };
        let mut high = low;
        if rest.next_if_eq(&'-').is_some()
            && let Some(end) = rest.next()
        {
            high = if end == '\\' { rest.next().unwrap_or(end) } else { end };
        }
        // A reversed range matches nothing; an empty one would be a syntax error there.
        if low <= high {
            // Writing to a String cannot fail.
            let _ = write!(expression, "\\x{{{:X}}}-\\x{{{:X}}}", u32::from(low), u32::from(high));
        }
    }
    if expression.ends_with('[') || expression.ends_with("[^") {
        expression.push_str("&&\\x{0}");
    }
    expression.push(']');
}
