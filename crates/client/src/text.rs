//! Text from a daemon or a step on its way to a terminal.
//!
//! Nothing that reaches a terminal may move the cursor, set the title or hide what follows. A plain
//! log may be colored.

use std::fmt::Write as _;

/// Control characters out, tabs as spaces.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .filter_map(|character| match character {
            '\t' => Some(' '),
            character if is_hostile(character) => None,
            character => Some(character),
        })
        .collect()
}

/// As [`printable`], with line breaks as spaces.
#[must_use]
pub fn single_line(text: &str) -> String {
    let flat: String =
        text.chars().map(|character| if character == '\n' { ' ' } else { character }).collect();
    printable(&flat)
}

/// As [`printable`], line by line.
#[must_use]
pub fn lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// JSON with everything in its strings escaped that a terminal could act on; its meaning stays.
#[must_use]
pub fn json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for character in document.chars() {
        // Line breaks of JSON itself; those within strings are escaped already.
        if character == '\n' || !is_hostile(character) {
            out.push(character);
        } else {
            // All of them lie in the first plane. Writing to a String cannot fail.
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        }
    }
    out
}

/// A step's output for a redrawn display: escape sequences out, only the text after the last
/// carriage return, control characters out.
#[must_use]
pub fn log_line(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut out = String::with_capacity(line.len());
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            skip_escape(&mut rest);
        } else if character == '\t' {
            out.push_str("    ");
        } else if !is_hostile(character) {
            out.push(character);
        }
    }
    out
}

/// A step's output for a plain log: colors stay, other escape sequences and control characters go,
/// and so does what a carriage return would have written over. A color ends with its line.
#[must_use]
pub fn colored_line(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut out = String::with_capacity(line.len());
    let mut colored = false;
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            let mut ahead = rest.clone();
            if let Some(color) = color(&mut ahead) {
                colored = !matches!(color.as_str(), "" | "0");
                out.push_str("\u{1b}[");
                out.push_str(&color);
                out.push('m');
                rest = ahead;
            } else {
                skip_escape(&mut rest);
            }
        } else if character == '\t' || !is_hostile(character) {
            out.push(character);
        }
    }
    if colored {
        out.push_str("\u{1b}[0m");
    }
    out
}

/// The parameters of a sequence that sets a color, where one follows: `[` digits and `;` and `m`. One
/// that hides text (8) is none.
fn color(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    /// `38;2;255;255;255` twice, with room.
    const MAX_PARAMETERS: usize = 40;
    rest.next_if_eq(&'[')?;
    let mut parameters = String::new();
    loop {
        match rest.next()? {
            'm' => {
                let hides = parameters.split(';').any(|one| one.trim_start_matches('0') == "8");
                return (!hides).then_some(parameters);
            }
            digit @ ('0'..='9' | ';') if parameters.len() < MAX_PARAMETERS => {
                parameters.push(digit)
            }
            _ => return None,
        }
    }
}

/// Controls, and the invisible characters that reorder what is around them.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn skip_escape(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match rest.next() {
        Some('[') => {
            for character in rest.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&character) {
                    break;
                }
            }
        }
        // Strings for the terminal (titles, links) end at BEL or at ESC backslash.
        Some(']' | 'P' | '^' | '_' | 'X') => {
            while let Some(character) = rest.next() {
                if character == '\u{7}' {
                    break;
                }
                if character == '\u{1b}' {
                    rest.next_if_eq(&'\\');
                    break;
                }
            }
        }
        _ => {}
    }
}

/// Columns `text` takes, counting wide characters twice.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// The longest start of `text` within `columns`.
#[must_use]
pub fn truncate(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (index, character) in text.char_indices() {
        used += char_width(character);
        if used > columns {
            return &text[..index];
        }
    }
    text
}

fn char_width(character: char) -> usize {
    match u32::from(character) {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_controls_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\x07\tc\u{9b}d\u{202e}e"), "a[2Jb cde");
        assert_eq!(single_line("a\nb\r"), "a b");
        assert_eq!(log_line("\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;u\x1b\\y"), "red xy");
        assert_eq!(log_line("10%\r20%\r30%\r"), "30%");
        assert_eq!(log_line("\x1b[unterminated"), "nterminated");
    }

    #[test]
    fn plain_logs_keep_colors_only() {
        assert_eq!(colored_line("\x1b[1;31mred\x1b[0m\tx"), "\x1b[1;31mred\x1b[0m\tx");
        assert_eq!(colored_line("\x1b[31mred"), "\x1b[31mred\x1b[0m");
        let hostile = "a\x1b[2J\x1b[1;1Hb\x1b]0;title\x07c\x1b[8mhidden\x1b[?25l\x07d\u{9b}2Je";
        assert_eq!(colored_line(hostile), "abchiddend2Je");
        assert_eq!(colored_line("10%\r20%\r"), "20%");
        assert_eq!(colored_line(&format!("\x1b[{}mx", "1;".repeat(100))), "x");
    }

    #[test]
    fn lines_and_documents_keep_their_shape() {
        assert_eq!(lines("a\x1b[2J\n\tb\r\n"), "a[2J\n b\n");
        let document = "{\n  \"a\": \"\u{9b}2J\u{202e}\u{7f}ä\"\n}";
        let escaped = json(document);
        assert_eq!(escaped, "{\n  \"a\": \"\\u009b2J\\u202e\\u007fä\"\n}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        assert_eq!(value(&escaped), value(document));
    }

    #[test]
    fn widths() {
        assert_eq!(width("日本a"), 5);
        assert_eq!(truncate("日本a", 4), "日本");
        assert_eq!(truncate("日本a", 3), "日");
        assert_eq!(truncate("abc", 9), "abc");
    }
}
