//! Instructions of a Dockerfile, as far as an extension's must be known before it is executed.
//!
//! Follows the Dockerfile reference: comments, the escape directive, continued lines,
//! here-documents. Must never expand or execute; the text comes from an extension.

use cofferdam_cnb::{FileError, MAX_FILE};

use crate::extend::ExtendError;

/// One instruction; `rest` is what follows its name on the first line, as far as it matters here.
#[derive(Debug)]
pub(super) struct Instruction<'a> {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) rest: &'a str,
}

/// Instructions of a Dockerfile; knows comments, continued lines and here-documents.
pub(super) fn read<'a>(file: &str, bytes: &'a [u8]) -> Result<Vec<Instruction<'a>>, ExtendError> {
    if bytes.len() > MAX_FILE {
        return Err(FileError::Size { file: file.to_owned() }.into());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| FileError::Text { file: file.to_owned() })?;
    let escape = escape(text);
    let mut instructions = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, first)) = lines.next() {
        let first = first.trim();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (name, rest) = first.split_once(char::is_whitespace).unwrap_or((first, ""));
        let (name, line) = (name.to_ascii_uppercase(), number + 1);
        let mut documents = here_documents(&name, rest);
        let mut last = first;
        let mut continued = false;
        while continues(last, escape) {
            let Some((_, next)) = lines.next() else { break };
            let next = next.trim();
            // An empty line or a comment in between does not end the instruction.
            if next.is_empty() || next.starts_with('#') {
                continue;
            }
            documents.extend(here_documents(&name, next));
            last = next;
            continued = true;
        }
        if continued && matches!(name.as_str(), "FROM" | "ARG") {
            let problem = "FROM and ARG must be on one line";
            return Err(ExtendError::Dockerfile { file: file.to_owned(), line, problem });
        }
        for document in documents {
            let ends = |text: &str| text.trim_start_matches('\t') == document;
            lines.by_ref().find(|(_, text)| ends(text));
        }
        instructions.push(Instruction { line, name, rest: rest.trim() });
    }
    Ok(instructions)
}

fn continues(line: &str, escape: char) -> bool {
    line.ends_with(escape)
}

/// The escape character: that of a directive before the first instruction, or the backslash.
fn escape(text: &str) -> char {
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#'));
    let value = directives
        .filter_map(|line| line.split_once('='))
        .find_map(|(key, value)| key.trim().eq_ignore_ascii_case("escape").then(|| value.trim()));
    if value == Some("`") { '`' } else { '\\' }
}

/// Names of the here-documents that a line opens.
fn here_documents(instruction: &str, line: &str) -> Vec<String> {
    if !matches!(instruction, "RUN" | "COPY" | "ADD") {
        return Vec::new();
    }
    let name = |word: &str| {
        let name =
            word.trim_start_matches(|char: char| char.is_ascii_digit()).strip_prefix("<<")?;
        let name = name.strip_prefix('-').unwrap_or(name);
        let name = name.trim_matches(['"', '\'']);
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.');
        is_name.then(|| name.to_owned())
    };
    line.split_whitespace().filter_map(name).collect()
}
