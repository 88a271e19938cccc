//! The walk over one text: quotes, escapes, `$` and the splitting into words.
//!
//! One recursive descent; recursion only happens inside `${…}` and its depth is bounded.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::pattern::{Pattern, Reach};
use super::{ExpandProblem, Expanded, Expander, Variables};

/// Nesting of `${…}` inside `${…}`; hand-written files use two or three.
const MAX_DEPTH: usize = 64;

type Outcome<T> = Result<T, ExpandProblem>;

pub(super) struct Lexer<'a> {
    settings: &'a Expander,
    variables: &'a dyn Variables,
    input: Peekable<Chars<'a>>,
    raw_escapes: bool,
    depth: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// Text and the words it splits into, both under construction.
#[derive(Default)]
struct Output {
    text: String,
    words: Vec<String>,
    word: String,
}

impl Output {
    fn literal(&mut self, character: char) {
        self.text.push(character);
        self.word.push(character);
    }

    fn literal_text(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    /// Space ends a word, unless nothing has been collected for it yet.
    fn splitting(&mut self, character: char) {
        self.text.push(character);
        if !character.is_whitespace() {
            self.word.push(character);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> (String, Vec<String>) {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        (self.text, std::mem::take(&mut self.words))
    }
}

impl<'a> Lexer<'a> {
    pub(super) fn new(settings: &'a Expander, text: &'a str, variables: &'a dyn Variables) -> Self {
        Self {
            settings,
            variables,
            input: text.chars().peekable(),
            raw_escapes: settings.raw_escapes,
            depth: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    pub(super) fn run(mut self) -> Outcome<Expanded> {
        let (text, words) = self.until(None, self.raw_escapes)?.finish();
        Ok(Expanded { text, words, matched: self.matched, unmatched: self.unmatched })
    }

    /// Reads up to and including `stop`, or to the end when there is none.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Outcome<Output> {
        if self.depth == MAX_DEPTH {
            return Err(ExpandProblem::TooDeep(MAX_DEPTH));
        }
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        self.depth += 1;
        let outcome = self.until_inner(stop);
        self.depth -= 1;
        self.raw_escapes = outer;
        outcome
    }

    fn until_inner(&mut self, stop: Option<char>) -> Outcome<Output> {
        let mut output = Output::default();
        while let Some(&character) = self.input.peek() {
            if Some(character) == stop {
                self.input.next();
                return Ok(output);
            }
            match character {
                '$' => self.dollar()?.chars().for_each(|character| output.splitting(character)),
                '<' => output.literal_text(&self.angle()),
                '\'' if !self.settings.literal_quotes => {
                    output.literal_text(&self.single_quoted()?)
                }
                '"' if !self.settings.literal_quotes => output.literal_text(&self.double_quoted()?),
                _ => self.plain(&mut output),
            }
        }
        match stop {
            None => Ok(output),
            Some('/') => Err(ExpandProblem::Unterminated("/")),
            Some(_) => Err(ExpandProblem::Unterminated("}")),
        }
    }

    fn plain(&mut self, output: &mut Output) {
        let Some(character) = self.input.next() else { return };
        if character != self.settings.escape {
            output.splitting(character);
            return;
        }
        if self.raw_escapes {
            output.literal(character);
        }
        // An escape character at the very end escapes nothing and goes.
        if let Some(escaped) = self.input.next() {
            output.literal(escaped);
        }
    }

    /// `<<` keeps the space after it, so that `<< EOF` stays one word.
    fn angle(&mut self) -> String {
        self.input.next();
        let mut text = String::from("<");
        if self.input.next_if_eq(&'<').is_some() {
            text.push('<');
            while let Some(space) = self.input.next_if(|next| matches!(next, '\t' | '\r' | ' ')) {
                text.push(space);
            }
        }
        text
    }

    fn single_quoted(&mut self) -> Outcome<String> {
        let mut text = String::new();
        let quote = self.input.next();
        text.extend(quote.filter(|_| self.settings.raw_quotes));
        loop {
            match self.input.next() {
                None => return Err(ExpandProblem::Unterminated("single-quote")),
                Some('\'') => break,
                Some(character) => text.push(character),
            }
        }
        text.extend(quote.filter(|_| self.settings.raw_quotes));
        Ok(text)
    }

    fn double_quoted(&mut self) -> Outcome<String> {
        let mut text = String::new();
        let quote = self.input.next();
        text.extend(quote.filter(|_| self.settings.raw_quotes));
        loop {
            match self.input.peek() {
                None => return Err(ExpandProblem::Unterminated("double-quote")),
                Some('"') => break,
                Some('$') => text.push_str(&self.dollar()?),
                Some(_) => self.double_quoted_plain(&mut text),
            }
        }
        self.input.next();
        text.extend(quote.filter(|_| self.settings.raw_quotes));
        Ok(text)
    }

    /// Within double quotes only `"`, `$` and the escape character itself can be escaped.
    fn double_quoted_plain(&mut self, text: &mut String) {
        let Some(mut character) = self.input.next() else { return };
        let escape = self.settings.escape;
        if character == escape {
            if self.raw_escapes {
                text.push(character);
            }
            match self.input.peek() {
                None => return,
                Some(&next) if next == '"' || next == '$' || next == escape => {
                    character = next;
                    self.input.next();
                }
                Some(_) => {}
            }
        }
        text.push(character);
    }

    fn dollar(&mut self) -> Outcome<String> {
        self.input.next();
        if self.input.next_if_eq(&'{').is_some() {
            return self.braced();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        match self.lookup(&name) {
            None if self.settings.keep_unset => Ok(format!("${name}")),
            value => self.inserted(value),
        }
    }

    fn braced(&mut self) -> Outcome<String> {
        match self.input.peek() {
            None => return Err(ExpandProblem::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandProblem::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.input.next() {
            Some('}') => match self.lookup(&name) {
                None if self.settings.keep_unset => Ok(format!("${{{name}}}")),
                value => self.inserted(value),
            },
            Some(':') => match self.input.next() {
                Some(modifier @ ('#' | '%')) => {
                    Err(ExpandProblem::Modifier(format!(":{modifier}")))
                }
                modifier => {
                    self.modified(&name, true, modifier.unwrap_or(char::REPLACEMENT_CHARACTER))
                }
            },
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, false, modifier),
            Some('/') => self.replaced(&name),
            other => Err(ExpandProblem::Modifier(
                other.unwrap_or(char::REPLACEMENT_CHARACTER).to_string(),
            )),
        }
    }

    /// `${name<modifier>word}`
    fn modified(&mut self, name: &str, null_is_unset: bool, modifier: char) -> Outcome<String> {
        let colon = if null_is_unset { ":" } else { "" };
        let word = self.part('}', matches!(modifier, '#' | '%'), ExpandProblem::MissingBrace)?;
        let value = self.lookup(name);
        if self.settings.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let usable = value.filter(|value| !(null_is_unset && value.is_empty()));
        match modifier {
            '-' if usable.is_none() => Ok(word),
            '+' => Ok(if usable.is_some() { word } else { String::new() }),
            '?' if usable.is_none() => Err(required(name, value.is_none(), word)),
            '-' | '?' => self.inserted(value),
            '#' | '%' => self.trimmed(value.unwrap_or_default(), modifier, &word),
            _ => Err(ExpandProblem::Modifier(format!("{colon}{modifier}"))),
        }
    }

    fn trimmed(&self, value: &str, modifier: char, word: &str) -> Outcome<String> {
        self.settings.budget.charge(value.len())?;
        let (reach, text) = match word.strip_prefix(modifier) {
            Some(rest) => (Reach::Longest, rest),
            None => (Reach::Shortest, word),
        };
        let pattern = Pattern::parse(text)?;
        if modifier == '#' {
            pattern.trim_start(value, reach)
        } else {
            pattern.trim_end(value, reach)
        }
    }

    /// `${name/pattern/replacement}` and with `//` for all places.
    fn replaced(&mut self, name: &str) -> Outcome<String> {
        let all = self.input.next_if_eq(&'/').is_some();
        let pattern = self.part('/', true, ExpandProblem::MissingSlash)?;
        let replacement = self.part('}', true, ExpandProblem::MissingBrace)?;
        let value = self.lookup(name);
        if self.settings.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        self.settings.budget.charge(value.len())?;
        let limit = if all { usize::MAX } else { 1 };
        Pattern::parse(&pattern)?.replace(value, &replacement, limit, &self.settings.budget)
    }

    /// Reads a nested text; running out of input is reported as `missing`.
    fn part(&mut self, stop: char, raw_escapes: bool, missing: ExpandProblem) -> Outcome<String> {
        match self.until(Some(stop), raw_escapes) {
            Ok(output) => Ok(output.text),
            Err(problem @ (ExpandProblem::TooDeep(_) | ExpandProblem::TooLarge(_))) => Err(problem),
            Err(_) if self.input.peek().is_none() => Err(missing),
            Err(problem) => Err(problem),
        }
    }

    /// A run of digits, one special parameter, or letters, digits and `_`.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.input.peek() {
            Some(first) if first.is_numeric() => {
                while let Some(digit) = self.input.next_if(|next| next.is_numeric()) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.input.next()),
            _ => {
                while let Some(next) =
                    self.input.next_if(|next| next.is_alphanumeric() || *next == '_')
                {
                    name.push(next);
                }
            }
        }
        name
    }

    fn lookup(&mut self, name: &str) -> Option<&'a str> {
        let variables = self.variables;
        let value = variables.get(name);
        let names = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }

    fn inserted(&self, value: Option<&str>) -> Outcome<String> {
        let value = value.unwrap_or_default();
        self.settings.budget.charge(value.len())?;
        Ok(value.to_owned())
    }
}

fn required(name: &str, unset: bool, word: String) -> ExpandProblem {
    let message = match (word.is_empty(), unset) {
        (false, _) => word,
        (true, true) => "is not allowed to be unset".to_owned(),
        (true, false) => "is not allowed to be empty".to_owned(),
    };
    ExpandProblem::Required { name: name.to_owned(), message }
}
