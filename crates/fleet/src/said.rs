//! One line of a builder's standard error: a JSON object, where it comes from its log, or whatever a program says that ends badly.
//!
//! The builder is behind a wall: what it says is shortened, and an id is taken for one only if it looks like one. Whether it may
//! speak of that build is for others to say.

use serde_json::{Map, Value};

/// Longest text that is passed on; the rest of it is dropped.
const MAX_TEXT: usize = 2048;
/// Longest id of a build.
const MAX_ID: usize = 64;
/// Length of a digest: the algorithm, a colon, 64 digits.
const DIGEST: usize = 71;
/// What the server's own log says of every message.
const KNOWN: [&str; 7] = ["timestamp", "level", "target", "message", "project", "build", "step"];

/// What a builder said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// As it can be shown.
    pub(crate) text: String,
    /// The build that it is about.
    pub(crate) build: Option<String>,
    /// The digest of the step that it is about.
    pub(crate) step: Option<String>,
}

impl Said {
    pub(crate) fn in_line(line: &[u8]) -> Self {
        match serde_json::from_slice::<Map<String, Value>>(line) {
            Ok(object) if object.contains_key("message") => Self::in_object(&object),
            _ => Self { text: readable(&String::from_utf8_lossy(line)), build: None, step: None },
        }
    }

    fn in_object(object: &Map<String, Value>) -> Self {
        let mut text = plain(&object["message"]);
        for (name, value) in object.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str())) {
            text.push_str(&format!(" {name}={}", plain(value)));
        }
        let id = |name: &str, fits: fn(&str) -> bool| {
            object.get(name).and_then(Value::as_str).filter(|id| fits(id)).map(str::to_owned)
        };
        Self { text: readable(&text), build: id("build", is_build_id), step: id("step", is_digest) }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_build_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain)
}

fn is_digest(id: &str) -> bool {
    let digits = id.strip_prefix("sha256:");
    id.len() == DIGEST
        && digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A text as it can be shown: names of steps may hold anything, escape sequences of terminals for example.
fn readable(text: &str) -> String {
    let mut clean: String = text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    let mut end = clean.len().min(MAX_TEXT);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean.truncate(end);
    clean.truncate(clean.trim_end().len());
    clean
}

/// What is not shown itself but changes how the rest is: where lines end, and in which direction they run.
fn is_hidden(c: char) -> bool {
    let marks = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}');
    let ranges = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || marks || ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(Said::in_line(b"a\x1b[2Jb\r").text, "a [2Jb");
        assert_eq!(Said::in_line(b"\xff").text, "\u{fffd}");
        let quoted = br#"{"message":"a\u001b[2Jb","name":"c\nd"}"#;
        assert_eq!(Said::in_line(quoted).text, "a [2Jb name=c d");
    }

    #[test]
    fn what_turns_lines_around_is_not_shown() {
        let hidden = "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";
        for c in hidden.chars() {
            let said = Said::in_line(format!("a{c}b").as_bytes());
            assert_eq!(said.text, "a b", "{}", c.escape_unicode());
        }
        let shown = "\u{200d}\u{2010}\u{202f}\u{e9}";
        assert_eq!(Said::in_line(shown.as_bytes()).text, shown);
    }

    #[test]
    fn ids_are_told_apart_from_the_text() {
        let step = format!("sha256:{}", "a".repeat(64));
        let line = format!(
            r#"{{"timestamp":"t","level":"WARN","message":"it broke","project":"p2","build":"b1","step":"{step}","bytes":3}}"#
        );
        let said = Said::in_line(line.as_bytes());
        assert_eq!(said.text, "it broke bytes=3");
        assert_eq!((said.build.as_deref(), said.step), (Some("b1"), Some(step)));
    }

    #[test]
    fn what_is_no_id_is_not_taken_for_one() {
        for id in ["", "a b", "b\\u0000", "\u{e9}", &"b".repeat(65)] {
            let line = format!(r#"{{"message":"x","build":"{id}","step":"{id}"}}"#);
            let said = Said::in_line(line.as_bytes());
            assert_eq!((said.text.as_str(), said.build, said.step), ("x", None, None), "{id:?}");
        }
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_no_object_is_a_text() {
        let long = format!(r#"{{"message":"{}"}}"#, "\u{e9}".repeat(MAX_TEXT));
        assert_eq!(Said::in_line(long.as_bytes()).text.len(), MAX_TEXT);
        for line in [r#"{"build":"b1"}"#, "[1]", "{\"message\":"] {
            assert_eq!(Said::in_line(line.as_bytes()).text, line);
        }
    }
}
