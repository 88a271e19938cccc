//! Parser directives: `# key=value` comments at the very top of a file.
//!
//! See <https://docs.docker.com/reference/dockerfile/#parser-directives>. The first line
//! that is no known directive ends them, be it a comment or empty.

use serde_json::{Map, Value};

use super::{MAX_FILE, TextError};
use crate::lines::Lines;

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// A directive found at the top of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The value up to the first space.
    pub value: String,
    /// The whole value.
    pub full: String,
    /// Its line.
    pub lines: Lines,
}

/// The `syntax` directive: `# syntax=`, `// syntax=` or a JSON object with that key. A byte
/// order mark and a `#!` line in front are skipped.
#[must_use]
pub fn syntax_directive(text: &[u8]) -> Option<Directive> {
    let (body, first_line) = body(text)?;
    let body = &String::from_utf8_lossy(body);
    find(body, "#", "syntax", first_line)
        .or_else(|| find(body, "//", "syntax", first_line))
        .or_else(|| from_json(body, "syntax", first_line))
}

/// The `check` directive. A byte order mark and a `#!` line in front are skipped.
#[must_use]
pub fn check_directive(text: &[u8]) -> Option<Directive> {
    let (body, first_line) = body(text)?;
    find(&String::from_utf8_lossy(body), "#", "check", first_line)
}

/// The value of `check=` in a comment above an instruction, given without its `#`.
pub(crate) fn check_in_comment(comment: &str) -> Option<String> {
    let (name, value) = split(comment.trim_start())?;
    (name == "check").then(|| first_word(value).to_owned())
}

/// The text after byte order mark and `#!` line, and the number of its first line.
fn body(text: &[u8]) -> Option<(&[u8], u32)> {
    let text = text.get(..text.len().min(MAX_FILE))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if !text.starts_with(b"#!") {
        return Some((text, 1));
    }
    let rest = text.iter().position(|byte| *byte == b'\n').and_then(|end| text.get(end + 1..));
    Some((rest.unwrap_or_default(), 2))
}

fn find(body: &str, prefix: &'static str, name: &str, first_line: u32) -> Option<Directive> {
    let mut parser = DirectiveParser::new(prefix);
    for (number, line) in (first_line..).zip(body.lines()) {
        // A repeated directive is reported when the file is parsed; here it ends the search.
        let (found, value) = parser.line(line).ok()??;
        if found == name {
            let value_word = first_word(&value).to_owned();
            return Some(Directive {
                value: value_word,
                full: value,
                lines: Lines::single(number),
            });
        }
    }
    None
}

fn from_json(body: &str, name: &str, line: u32) -> Option<Directive> {
    let object: Map<String, Value> = serde_json::from_str(body).ok()?;
    let value = object.get(name)?.as_str()?.to_owned();
    Some(Directive { value: value.clone(), full: value, lines: Lines::single(line) })
}

fn first_word(value: &str) -> &str {
    value.split(' ').next().unwrap_or_default()
}

/// Splits `name = value`; `name` is one of the known directives.
fn split(text: &str) -> Option<(&'static str, &str)> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_ascii_end();
    let known = NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name))?;
    let value = value.trim_ascii();
    (!value.is_empty()).then_some((known, value))
}

/// Reads directives line by line until something else appears.
pub(super) struct DirectiveParser {
    prefix: &'static str,
    seen: Vec<&'static str>,
    done: bool,
}

impl DirectiveParser {
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, seen: Vec::new(), done: false }
    }

    /// The directive on `line`, if it is one.
    pub(super) fn line(&mut self, line: &str) -> Result<Option<(&'static str, String)>, TextError> {
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) =
            line.strip_prefix(self.prefix).and_then(|rest| split(rest.trim_start()))
        else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(TextError::RepeatedDirective(name.to_owned()));
        }
        self.seen.push(name);
        Ok(Some((name, value.to_owned())))
    }
}
