//! A line of terminal output as pieces: characters, and the sequences that matter within a row.
//!
//! Never fails: whatever is not understood is dropped if it is a complete sequence and handed on as
//! characters if it is not.

use std::str::Chars;

/// The most characters between the start of a control sequence and its end that are looked at.
const MAX_PARAMETERS: usize = 128;

/// A part of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A character to show; hidden ones are named later.
    Character(char),
    /// Parameters of "select graphic rendition".
    Graphics(&'a str),
    /// A carriage return.
    Return,
    /// To a column, from 0.
    Column(usize),
    /// Columns to the right.
    Forward(usize),
    /// Columns to the left.
    Back(usize),
    /// From the cursor to the end of the row.
    EraseRight,
    /// From the start of the row to the cursor.
    EraseLeft,
    /// The whole row.
    EraseRow,
}

/// The pieces of a line.
pub(super) struct Pieces<'a> {
    rest: Chars<'a>,
    /// Where an end of a string was looked for in vain: none follows, so none is looked for again.
    /// Without this a line of nothing but openings would take quadratic time.
    no_terminator: bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(line: &'a str) -> Pieces<'a> {
        Pieces { rest: line.chars(), no_terminator: false }
    }

    /// After ESC: skips the sequence. `None`: nothing to show for it.
    fn escape(&mut self) -> Option<Piece<'a>> {
        let rest = self.rest.as_str();
        match rest.chars().next() {
            Some('[') => self.control(1),
            Some(']' | 'P' | 'X' | '^' | '_') => self.string(1),
            // Designations of character sets and the like: one more character follows.
            Some('(' | ')' | '*' | '+' | '-' | '.' | '/' | '#' | '%' | ' ') => {
                let mut ahead = rest.chars();
                let complete = ahead.nth(1).is_some_and(|c| c.is_ascii_graphic());
                if !complete {
                    return Some(Piece::Character('\u{1b}'));
                }
                self.rest = ahead;
                None
            }
            Some('0'..='~') => {
                self.rest.next();
                None
            }
            _ => Some(Piece::Character('\u{1b}')),
        }
    }

    /// A control sequence whose parameters start `skip` bytes into the rest.
    fn control(&mut self, skip: usize) -> Option<Piece<'a>> {
        let body = &self.rest.as_str()[skip..];
        let end = body.bytes().take(MAX_PARAMETERS).position(|b| !(0x20..0x40).contains(&b));
        let Some((end, last @ 0x40..=0x7e)) =
            end.and_then(|end| Some((end, *body.as_bytes().get(end)?)))
        else {
            return Some(Piece::Character('\u{1b}'));
        };
        let parameters = &body[..end];
        self.rest = body[end + 1..].chars();
        let number = |or: usize| match parameters {
            "" => Some(or),
            digits => digits.parse::<usize>().ok().map(|n| n.min(crate::step::MAX_LINE_CHARS)),
        };
        match last {
            b'm' if parameters.bytes().all(|b| matches!(b, b'0'..=b'9' | b';' | b':')) => {
                Some(Piece::Graphics(parameters))
            }
            b'G' => number(1).map(|n| Piece::Column(n.saturating_sub(1))),
            b'C' => number(1).map(|n| Piece::Forward(n.max(1))),
            b'D' => number(1).map(|n| Piece::Back(n.max(1))),
            b'K' => match parameters {
                "" | "0" => Some(Piece::EraseRight),
                "1" => Some(Piece::EraseLeft),
                "2" => Some(Piece::EraseRow),
                _ => None,
            },
            _ => None,
        }
    }

    /// A command or device string whose content starts `skip` bytes into the rest. One that does
    /// not end in this line hides nothing: its opening is named and its content shown.
    fn string(&mut self, skip: usize) -> Option<Piece<'a>> {
        let opening = Some(Piece::Character('\u{1b}'));
        if self.no_terminator {
            return opening;
        }
        let body = &self.rest.as_str()[skip..];
        let end = body.char_indices().find_map(|(at, character)| match character {
            '\u{7}' | '\u{9c}' => Some(at + character.len_utf8()),
            '\u{1b}' if body[at + 1..].starts_with('\\') => Some(at + 2),
            _ => None,
        });
        let Some(end) = end else {
            self.no_terminator = true;
            return opening;
        };
        self.rest = body[end..].chars();
        None
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        loop {
            let piece = match self.rest.next()? {
                '\u{1b}' => self.escape(),
                // The eight-bit forms of the same openings.
                '\u{9b}' => self.control(0),
                '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => self.string(0),
                '\r' => Some(Piece::Return),
                '\u{8}' => Some(Piece::Back(1)),
                // Bell and shifts: nothing to see. A stray end of a string neither.
                '\u{7}' | '\u{e}' | '\u{f}' | '\u{9c}' => None,
                character => Some(Piece::Character(character)),
            };
            if piece.is_some() {
                return piece;
            }
        }
    }
}
