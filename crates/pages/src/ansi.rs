//! Lines of logs as a terminal would show them: colours become spans with classes.
//!
//! A line is replayed onto a row of cells, so that carriage returns and erasures leave what was
//! visible in the end. Of the escape sequences (ECMA-48, as xterm reads them) only those that colour
//! or move within the row do anything; titles, links, queries and device strings are dropped when
//! they are complete and named where they are not, so that nothing can swallow the rest of a line.
//! Text that would be invisible (concealed, or coloured like its ground) is shown all the same.

use crate::step::MAX_LINE_CHARS;
use crate::text::Markup;

mod colour;
mod sequence;

use colour::Style;
use sequence::{Piece, Pieces};

/// The most bytes of markup one line becomes; colours that change with every character cost more
/// than they tell.
const MAX_LINE_MARKUP: usize = 32 * 1024;

/// Renders the lines of one log in order; colours go on from line to line as on a terminal.
#[derive(Default)]
pub(crate) struct Painter {
    style: Style,
    cells: Vec<(char, Style)>,
}

impl Painter {
    /// A line as markup. `line` has no line feed at its end.
    pub(crate) fn paint(&mut self, line: &str) -> Markup {
        let cut = self.replay(line);
        let (mut markup, shown) = self.spans();
        let cut = cut + (self.cells.len() - shown);
        if cut > 0 {
            markup.push_markup(r#"<span class="cut"> … "#);
            markup.push_text(&crate::format::count(cut as u64));
            markup.push_markup(" more characters</span>");
        }
        markup
    }

    /// Takes note of a line's colours without rendering it.
    pub(crate) fn skip(&mut self, line: &str) {
        for piece in Pieces::of(line) {
            if let Piece::Graphics(parameters) = piece {
                self.style.apply(parameters);
            }
        }
    }

    /// Fills the row with a line, and says how many characters did not fit.
    fn replay(&mut self, line: &str) -> usize {
        self.cells.clear();
        let (mut cursor, mut beyond) = (0_usize, 0_usize);
        for piece in Pieces::of(line) {
            match piece {
                Piece::Character(character) => match self.cells.get_mut(cursor) {
                    Some(cell) => (*cell, cursor) = ((character, self.style), cursor + 1),
                    None if cursor < MAX_LINE_CHARS => {
                        self.cells.resize(cursor, (' ', Style::default()));
                        self.cells.push((character, self.style));
                        cursor += 1;
                    }
                    None => beyond += 1,
                },
                Piece::Graphics(parameters) => self.style.apply(parameters),
                Piece::Return => cursor = 0,
                Piece::Column(column) => cursor = column.min(MAX_LINE_CHARS),
                Piece::Forward(by) => cursor = (cursor + by).min(MAX_LINE_CHARS),
                Piece::Back(by) => cursor = cursor.saturating_sub(by),
                Piece::EraseRight => {
                    self.cells.truncate(cursor);
                    beyond = 0;
                }
                Piece::EraseLeft => {
                    let end = (cursor + 1).min(self.cells.len());
                    self.cells[..end].fill((' ', Style::default()));
                }
                Piece::EraseRow => {
                    self.cells.clear();
                    beyond = 0;
                }
            }
        }
        beyond
    }

    /// The row as markup, and how many cells of it fit.
    fn spans(&self) -> (Markup, usize) {
        let mut markup = Markup::default();
        let mut open: Option<Style> = None;
        let mut shown = 0;
        for (character, style) in &self.cells {
            if markup.len() > MAX_LINE_MARKUP {
                break;
            }
            if open.unwrap_or_default() != *style {
                if open.take().is_some() {
                    markup.push_markup("</span>");
                }
                if *style != Style::default() {
                    style.open(&mut markup);
                    open = Some(*style);
                }
            }
            markup.push_char(*character);
            shown += 1;
        }
        if open.is_some() {
            markup.push_markup("</span>");
        }
        (markup, shown)
    }
}

/// Renders a log as pages do and returns its markup: the entry point for fuzzing. Whatever it is
/// given, the result has no elements but `<span class="…">` and no raw controls.
#[must_use]
pub fn fuzz_log(log: &[u8]) -> String {
    let mut painter = Painter::default();
    let mut markup = Markup::default();
    for line in log.split(|byte| *byte == b'\n') {
        markup.push(&painter.paint(&String::from_utf8_lossy(line)));
        markup.push_markup("\n");
    }
    markup.to_string()
}

#[cfg(test)]
mod tests;
