//! How arguments split: flags, words, pairs, JSON.
//!
//! Quotes and escapes stay in words, for expansion to remove; flags lose them here.

use serde_json::Value;

use super::TextError;
use super::keyword::Keyword;

/// The space that separates a keyword from the rest and plain words from each other. Line
/// ends cannot occur; other Unicode space is part of a word.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Arguments of an instruction before they are interpreted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Arguments {
    pub(super) words: Vec<String>,
    pub(super) json: bool,
}

impl Arguments {
    fn plain(words: Vec<String>) -> Self {
        Self { words, json: false }
    }

    fn text(text: &str) -> Self {
        Self::plain(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] })
    }
}

/// A line cut into keyword, flags and the rest.
pub(super) struct Cut<'a> {
    pub(super) keyword: &'a str,
    pub(super) flags: Vec<String>,
    pub(super) rest: &'a str,
}

/// Cuts a line.
pub(super) fn cut(line: &str, escape: char) -> Cut<'_> {
    let line = line.trim();
    match line.split_once(BLANKS) {
        None => Cut { keyword: line, flags: Vec::new(), rest: "" },
        Some((keyword, rest)) => {
            let (flags, rest) = flags(rest.trim_start_matches(BLANKS), escape);
            Cut { keyword, flags, rest: rest.trim() }
        }
    }
}

/// Splits the rest of a line the way its instruction wants.
pub(super) fn arguments(
    keyword: Option<Keyword>,
    rest: &str,
    escape: char,
) -> Result<Arguments, TextError> {
    Ok(match keyword {
        None | Some(Keyword::Onbuild) => Arguments::default(),
        Some(Keyword::Add | Keyword::Copy | Keyword::Volume) => match json(rest)? {
            Some(words) => Arguments { words, json: true },
            None => Arguments::plain(blank_separated(rest)),
        },
        Some(Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Shell) => {
            json_or_text(rest)?
        }
        Some(Keyword::Expose | Keyword::From) => Arguments::plain(blank_separated(rest)),
        Some(Keyword::Maintainer | Keyword::Stopsignal | Keyword::User | Keyword::Workdir) => {
            Arguments::text(rest)
        }
        Some(Keyword::Arg) => Arguments::plain(quoted_words(rest, escape)),
        Some(Keyword::Env) => Arguments::plain(pairs(rest, "ENV", escape)?),
        Some(Keyword::Label) => Arguments::plain(pairs(rest, "LABEL", escape)?),
        Some(Keyword::Healthcheck) => healthcheck(rest)?,
    })
}

/// Takes `--flag` words from the front. A lone `--` ends them and is dropped.
fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (word, end) = flag_word(rest, escape);
        rest = rest.get(end..).unwrap_or_default();
        if word == "--" {
            break;
        }
        flags.push(word);
        rest = rest.trim_start();
    }
    (flags, rest)
}

/// One flag without its quotes and escapes, and where it ends.
fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut input = text.char_indices();
    while let Some((position, character)) = input.next() {
        if quote.is_none() && character.is_whitespace() {
            return (word, position);
        }
        if Some(character) == quote {
            quote = None;
        } else if quote.is_none() && matches!(character, '\'' | '"') {
            quote = Some(character);
        } else if character == escape {
            word.extend(input.next().map(|(_, escaped)| escaped));
        } else {
            word.push(character);
        }
    }
    (word, text.len())
}

fn blank_separated(rest: &str) -> Vec<String> {
    rest.split(BLANKS).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A JSON array of strings; `None` when it is not a JSON array.
fn json(rest: &str) -> Result<Option<Vec<String>>, TextError> {
    let rest = rest.trim_start();
    if !rest.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(rest) else {
        return Ok(None);
    };
    let strings = values.into_iter().map(|value| match value {
        // Written as an escape it passes the check of the line.
        Value::String(text) if text.contains('\0') => Err(TextError::Nul),
        Value::String(text) => Ok(text),
        _ => Err(TextError::NotStringArray),
    });
    strings.collect::<Result<_, _>>().map(Some)
}

fn json_or_text(rest: &str) -> Result<Arguments, TextError> {
    Ok(match json(rest)? {
        Some(words) => Arguments { words, json: true },
        None => Arguments::text(rest),
    })
}

/// A type word, then a command.
fn healthcheck(rest: &str) -> Result<Arguments, TextError> {
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if kind.is_empty() {
        return Ok(Arguments::default());
    }
    let mut arguments = json_or_text(command.trim_start())?;
    arguments.words.insert(0, kind.to_owned());
    Ok(arguments)
}

/// `name=value …` or the legacy `name value`, as triples of name, value and separator.
fn pairs(rest: &str, keyword: &'static str, escape: char) -> Result<Vec<String>, TextError> {
    let words = quoted_words(rest, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let (name, value) = rest.split_once(BLANKS).ok_or(TextError::TwoArguments(keyword))?;
        return Ok(vec![
            name.to_owned(),
            value.trim_start_matches(BLANKS).to_owned(),
            String::new(),
        ]);
    }
    let mut triples = Vec::with_capacity(words.len() * 3);
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(TextError::NoEquals(word));
        };
        triples.extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(triples)
}

/// Words separated by space outside quotes; quotes and escapes stay. An escape character at
/// the very end is dropped, an unterminated quote ends with the text.
fn quoted_words(rest: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut input = rest.chars();
    while let Some(character) = input.next() {
        if quote.is_none() && character.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else if character == escape && quote != Some('\'') {
            // Nothing can be escaped within single quotes.
            if let Some(escaped) = input.next() {
                word.extend([character, escaped]);
            }
        } else {
            if Some(character) == quote {
                quote = None;
            } else if quote.is_none() && matches!(character, '\'' | '"') {
                quote = Some(character);
            }
            word.push(character);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
