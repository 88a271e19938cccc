//! The walk over the lines of a file.

use std::iter::Peekable;
use std::str::SplitInclusive;

use super::directives::DirectiveParser;
use super::heredoc::{Heredoc, announcements};
use super::keyword::Keyword;
use super::words::{Cut, arguments, cut};
use super::{MAX_FILE, MAX_INSTRUCTIONS, MAX_LINE, TextError};
use crate::error::Error;
use crate::lines::Lines;

/// One instruction, arguments split but not understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// The keyword as written.
    pub(crate) keyword_text: String,
    /// The keyword, when it is a known one.
    pub(crate) keyword: Option<Keyword>,
    /// The instruction without heredoc bodies, continuation lines joined.
    pub(crate) text: String,
    /// `--flags` without quotes.
    pub(crate) flags: Vec<String>,
    /// The arguments; for `ONBUILD` the keyword and arguments of the trigger.
    pub(crate) arguments: Vec<String>,
    /// The arguments were a JSON array.
    pub(crate) json: bool,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) lines: Lines,
    pub(crate) comments: Vec<String>,
}

/// A file split into instructions.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) escape: char,
    pub(crate) nodes: Vec<Node>,
    /// Last lines of instructions with empty continuation lines.
    pub(crate) empty_continuations: Vec<u32>,
}

/// Splits a file.
pub(crate) fn parse_nodes(text: &[u8]) -> Result<Parsed, Error> {
    let whole = |problem| Error::Text { lines: None, problem };
    if text.is_empty() {
        return Err(whole(TextError::NoContent));
    }
    if text.len() > MAX_FILE {
        return Err(whole(TextError::FileTooLong(MAX_FILE)));
    }
    let text = String::from_utf8_lossy(text);
    Walk::new(text.strip_prefix('\u{feff}').unwrap_or(&text)).run()
}

struct Walk<'a> {
    input: Peekable<SplitInclusive<'a, char>>,
    /// Number of the line read last.
    line: u32,
    escape: char,
    directives: DirectiveParser,
    comments: Vec<String>,
    nodes: Vec<Node>,
    empty_continuations: Vec<u32>,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            input: text.split_inclusive('\n').peekable(),
            line: 0,
            escape: '\\',
            directives: DirectiveParser::new("#"),
            comments: Vec::new(),
            nodes: Vec::new(),
            empty_continuations: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Parsed, Error> {
        while let Some(line) = self.next_line()? {
            let line = trim_newline(line).trim_start();
            if self.directive(line)? {
                continue;
            }
            if let Some(comment) = line.strip_prefix('#') {
                self.comment(comment.trim());
            } else if !line.is_empty() {
                self.instruction(line)?;
            }
        }
        if self.nodes.is_empty() {
            return Err(self.error_at(self.line, TextError::NoInstructions));
        }
        Ok(Parsed {
            escape: self.escape,
            nodes: self.nodes,
            empty_continuations: self.empty_continuations,
        })
    }

    fn error_at(&self, start: u32, problem: TextError) -> Error {
        Error::Text { lines: Some(Lines::new(start, self.line)), problem }
    }

    /// The next physical line with its line end.
    fn next_line(&mut self) -> Result<Option<&'a str>, Error> {
        let Some(line) = self.input.next() else {
            return Ok(None);
        };
        self.line += 1;
        if line.len() > MAX_LINE {
            return Err(self.error_at(self.line, TextError::LineTooLong(MAX_LINE)));
        }
        Ok(Some(line))
    }

    fn directive(&mut self, line: &str) -> Result<bool, Error> {
        match self.directives.line(line).map_err(|problem| self.error_at(self.line, problem))? {
            None => Ok(false),
            Some(("escape", value)) => match value.as_str() {
                "\\" | "`" => {
                    self.escape = if value == "`" { '`' } else { '\\' };
                    Ok(true)
                }
                _ => Err(self.error_at(self.line, TextError::Escape(value))),
            },
            Some(_) => Ok(true),
        }
    }

    /// An empty comment separates what stands above from the instruction below.
    fn comment(&mut self, text: &str) {
        if text.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(text.to_owned());
        }
    }

    fn instruction(&mut self, first: &'a str) -> Result<(), Error> {
        let start = self.line;
        let Some(text) = self.joined(first)? else {
            return Ok(());
        };
        let node = self.node(text, start).map_err(|problem| self.error_at(start, problem))?;
        let node = self.with_heredocs(node, start)?;
        if self.nodes.len() == MAX_INSTRUCTIONS {
            let lines = Lines::new(start, self.line);
            return Err(Error::TooMany { lines, what: "instructions", limit: MAX_INSTRUCTIONS });
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Joins continuation lines, leaving out comments and empty lines between them. `None`
    /// when nothing but escape characters and space comes together at the end of a file.
    fn joined(&mut self, first: &'a str) -> Result<Option<String>, Error> {
        let (part, mut continues) = trim_continuation(first, self.escape);
        let mut text = part.to_owned();
        let mut empty = false;
        while continues {
            let Some(line) = self.next_line()? else { break };
            let line = trim_newline(line);
            let content = line.trim_start();
            if content.starts_with('#') {
                continue;
            }
            if content.is_empty() {
                empty = true;
                continue;
            }
            let (part, more) = trim_continuation(line, self.escape);
            continues = more;
            text.push_str(part);
        }
        if empty {
            self.empty_continuations.push(self.line);
        }
        Ok((!text.trim().is_empty()).then_some(text))
    }

    fn node(&mut self, text: String, start: u32) -> Result<Node, TextError> {
        if text.contains('\0') {
            return Err(TextError::Nul);
        }
        let Cut { keyword: keyword_text, flags, rest } = cut(&text, self.escape);
        let keyword = Keyword::parse(keyword_text);
        let mut heredocs = keyword.is_some_and(Keyword::takes_heredocs);
        let arguments = if keyword == Some(Keyword::Onbuild) && !rest.is_empty() {
            let trigger = cut(rest, self.escape);
            let trigger_keyword = Keyword::parse(trigger.keyword);
            let mut arguments = arguments(trigger_keyword, trigger.rest, self.escape)?;
            heredocs = trigger_keyword.is_some_and(Keyword::takes_heredocs) && !arguments.json;
            arguments.words.insert(0, trigger.keyword.to_owned());
            arguments.json = false;
            arguments
        } else {
            arguments(keyword, rest, self.escape)?
        };
        let heredocs = if heredocs && !arguments.json && text.contains("<<") {
            announcements(&text)?
        } else {
            Vec::new()
        };
        Ok(Node {
            keyword_text: keyword_text.to_owned(),
            keyword,
            flags,
            arguments: arguments.words,
            json: arguments.json,
            heredocs,
            text,
            lines: Lines::new(start, self.line),
            comments: std::mem::take(&mut self.comments),
        })
    }

    /// Reads the bodies of the heredocs a node announces.
    fn with_heredocs(&mut self, mut node: Node, start: u32) -> Result<Node, Error> {
        for heredoc in &mut node.heredocs {
            loop {
                let Some(line) = self.next_line()? else {
                    return Err(self.error_at(start, TextError::UnterminatedHeredoc));
                };
                let end = trim_newline(line);
                let end = if heredoc.strip_tabs { end.trim_start_matches('\t') } else { end };
                if end == heredoc.name {
                    break;
                }
                heredoc.content.push_str(line);
            }
            if heredoc.content.contains('\0') {
                return Err(self.error_at(start, TextError::Nul));
            }
        }
        node.lines = Lines::new(start, self.line);
        Ok(node)
    }
}

fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Cuts an escape character at the end of a line, and the space after it. One that is itself
/// preceded by an escape character does not continue the line.
fn trim_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}
