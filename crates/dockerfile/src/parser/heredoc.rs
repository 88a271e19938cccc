//! Heredocs: `<<EOF`, `<<-EOF`, `<<"EOF"`, several on one line.
//!
//! See <https://docs.docker.com/reference/dockerfile/#here-documents>.

use crate::expand::{ExpandError, Expander};

/// A heredoc as announced by a word, with its body once read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes.
    pub name: String,
    /// The number before `<<`; zero when absent.
    pub descriptor: u32,
    /// Variables are expanded: the delimiter is not quoted.
    pub expand: bool,
    /// `<<-`: tabs at the start of lines are not part of the body.
    pub strip_tabs: bool,
    /// The body as written, tabs included.
    pub content: String,
}

/// Reads one word as a heredoc announcement (`<<EOF`); anything else is `None`.
#[must_use]
pub fn parse_heredoc(word: &str) -> Option<Heredoc> {
    announcement(word).ok().flatten()
}

/// Removes the tabs at the start of every line.
#[must_use]
pub fn strip_tabs(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// The heredocs announced on the line of an instruction, bodies still empty. A line that
/// does not lex as shell words announces none: it may be meant for another shell.
pub(super) fn announcements(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    let expander = Expander::new('\\').raw_quotes().raw_escapes().keep_unset();
    let Ok(expanded) = expander.expand(line, &()) else {
        return Ok(Vec::new());
    };
    expanded.words.iter().filter_map(|word| announcement(word).transpose()).collect()
}

fn announcement(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let delimiter = rest.trim_ascii_start();
    if delimiter.is_empty() || delimiter.contains('<') {
        return Ok(None);
    }
    // Quotes that vanish when the delimiter is read quote it, and with it the body.
    let expander = Expander::new('\\').keep_unset();
    let mut words = expander.expand(delimiter, &())?.words;
    let raw = expander.raw_quotes().expand(delimiter, &())?.words;
    let (Some(name), true) = (words.pop(), words.is_empty()) else {
        return Ok(None);
    };
    let quoted = raw.first().is_none_or(|raw| quotes(raw) != quotes(&name));
    Ok(Some(Heredoc {
        name,
        descriptor: number.parse().unwrap_or_default(),
        expand: !quoted,
        strip_tabs,
        content: String::new(),
    }))
}

fn quotes(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}
