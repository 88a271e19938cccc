//! What one document may hold in all, so that a build with a thousand noisy steps still opens.
//!
//! Steps that failed or run draw on it first; what the others have no room for is said, not shown.

/// The most bytes of markup that all logs and errors of a page take.
const MAX_MARKUP: usize = 6 * 1024 * 1024;
/// The most rows that all network tables of a page have.
const MAX_ROWS: usize = 2_000;

/// What is left of a document.
#[derive(Debug)]
pub(crate) struct Budget {
    markup: usize,
    rows: usize,
}

impl Budget {
    /// The budget of a whole page.
    pub(crate) fn of_a_page() -> Budget {
        Budget { markup: MAX_MARKUP, rows: MAX_ROWS }
    }

    /// Bytes of markup that are left.
    pub(crate) fn markup(&self) -> usize {
        self.markup
    }

    /// Table rows that are left.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes bytes of markup.
    pub(crate) fn spend_markup(&mut self, bytes: usize) {
        self.markup = self.markup.saturating_sub(bytes);
    }

    /// Takes table rows.
    pub(crate) fn spend_rows(&mut self, rows: usize) {
        self.rows = self.rows.saturating_sub(rows);
    }
}
