//! Text from outside made fit for a document: the only place that makes markup out of text.
//!
//! Escaping keeps elements and attributes out. Characters that would change how the text around
//! them reads (controls, bidirectional overrides, invisible tags) are named instead of shown, so a
//! name cannot pose as another. Every function that takes text from outside bounds it.

use std::fmt::{self, Write as _};

/// The most characters of an ordinary text such as a name; longer ones end in an ellipsis.
pub(crate) const MAX_TEXT_CHARS: usize = 300;

/// Markup that was made here from text, or of nothing but this crate's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Markup(String);

impl Markup {
    /// Appends text: escaped, with hidden characters named.
    pub(crate) fn push_text(&mut self, text: &str) {
        text.chars().for_each(|character| self.push_char(character));
    }

    /// Appends one character of text.
    pub(crate) fn push_char(&mut self, character: char) {
        match character {
            '<' => self.0.push_str("&lt;"),
            '>' => self.0.push_str("&gt;"),
            '&' => self.0.push_str("&amp;"),
            '"' => self.0.push_str("&quot;"),
            '\'' => self.0.push_str("&#39;"),
            hidden if is_hidden(hidden) => {
                self.0.push_str(r#"<span class="ctl">"#);
                push_name(&mut self.0, hidden);
                self.0.push_str("</span>");
            }
            plain => self.0.push(plain),
        }
    }

    /// Appends markup of this crate's own, which is why it must be part of the program.
    pub(crate) fn push_markup(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Appends markup that was made here before.
    pub(crate) fn push(&mut self, markup: &Markup) {
        self.0.push_str(&markup.0);
    }

    /// Appends a number.
    pub(crate) fn push_number(&mut self, number: impl Into<u64>) {
        let _ = write!(self.0, "{}", number.into());
    }

    /// How many bytes it takes in a document.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl askama::filters::HtmlSafe for Markup {}

/// One line of text as markup, at most [`MAX_TEXT_CHARS`] of it.
pub(crate) fn shown(text: &str) -> Markup {
    shown_within(text, MAX_TEXT_CHARS)
}

/// One line of text as markup, at most `most` characters of it. Line feeds and tabs become spaces.
pub(crate) fn shown_within(text: &str, most: usize) -> Markup {
    let mut markup = Markup::default();
    let line = one_line(text, most);
    markup.push_text(&line.text);
    if line.cut {
        markup.push_char('…');
    }
    markup
}

/// One line of text for places that hold no markup (titles, attributes), at most
/// [`MAX_TEXT_CHARS`] of it. The template engine still escapes it.
pub(crate) fn plain(text: &str) -> String {
    let line = one_line(text, MAX_TEXT_CHARS);
    let mut plain = String::with_capacity(line.text.len());
    for character in line.text.chars() {
        if is_hidden(character) {
            plain.push('[');
            push_name(&mut plain, character);
            plain.push(']');
        } else {
            plain.push(character);
        }
    }
    if line.cut {
        plain.push('…');
    }
    plain
}

struct Line {
    text: String,
    cut: bool,
}

fn one_line(text: &str, most: usize) -> Line {
    let mut characters = text.trim().chars();
    let text = characters
        .by_ref()
        .take(most)
        .map(|character| if matches!(character, '\n' | '\t' | '\r') { ' ' } else { character })
        .collect();
    Line { text, cut: characters.next().is_some() }
}

/// Whether a character has no look of its own but changes how others look or are read. Joiners
/// (U+200C, U+200D) are not among them: scripts and emoji need them.
pub(crate) fn is_hidden(character: char) -> bool {
    matches!(character,
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' // controls but tab and line feed
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

fn push_name(text: &mut String, hidden: char) {
    match hidden {
        '\u{1b}' => text.push_str("ESC"),
        '\u{8}' => text.push_str("BS"),
        '\r' => text.push_str("CR"),
        other => {
            let _ = write!(text, "U+{:04X}", u32::from(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(
            shown(r#"</title><script>alert("1")</script>&'"#).to_string(),
            "&lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;"
        );
    }

    #[test]
    fn hidden_characters_are_named() {
        assert_eq!(
            shown("a\u{202e}gpj.exe").to_string(),
            r#"a<span class="ctl">U+202E</span>gpj.exe"#
        );
        assert_eq!(plain("a\u{202e}b\u{1b}[0m"), "a[U+202E]b[ESC][0m");
        for hidden in ['\0', '\u{9b}', '\u{2066}', '\u{2069}', '\u{200f}', '\u{feff}', '\u{e0041}']
        {
            assert!(is_hidden(hidden), "{hidden:?}");
            assert!(!shown(&format!("x{hidden}x")).to_string().contains(hidden));
            assert!(!plain(&format!("x{hidden}x")).contains(hidden));
        }
    }

    #[test]
    fn scripts_and_emoji_stay_as_they_are() {
        for text in ["שלום", "مرحبا", "👩‍👩‍👧", "日本語", "é", "می‌خواهم"]
        {
            assert_eq!(shown(text).to_string(), text);
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn text_is_one_bounded_line() {
        assert_eq!(shown(" a\nb\tc\r\nd ").to_string(), "a b c  d");
        assert_eq!(shown(&"x".repeat(301)).to_string(), format!("{}…", "x".repeat(300)));
        assert_eq!(plain(&"é".repeat(300)), "é".repeat(300));
        assert!(shown(&"\u{202e}".repeat(1_000_000)).len() < 300 * 40);
        assert_eq!(shown_within("abc", 2).to_string(), "ab…");
    }
}
