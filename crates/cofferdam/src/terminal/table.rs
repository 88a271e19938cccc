//! Columns of text.

use cofferdam_client::text;

/// Widest cell; what is longer is cut, so that one name does not push everything else away.
const WIDEST: usize = 80;

/// Between two columns.
const GAP: &str = "  ";

/// Rows below a heading. Cells are made safe for a terminal when they are added.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
    headed: bool,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            widths: columns.iter().map(|column| text::width(column)).collect(),
            headed: false,
        }
    }

    /// Adds a row; the last cell may be of any length.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let last = self.columns.len().saturating_sub(1);
        let cells: Vec<String> = cells
            .into_iter()
            .enumerate()
            .map(|(index, cell)| {
                let cell = text::single_line(&cell);
                if index == last { cell } else { shortened(cell) }
            })
            .collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(text::width(cell));
        }
        self.rows.push(cells);
    }

    /// The rows added since the last time, below the heading the first time. Columns keep the width they once had.
    pub(crate) fn take(&mut self) -> String {
        let mut out = String::new();
        if !self.headed {
            self.headed = true;
            let heading: Vec<String> = self.columns.iter().map(|name| (*name).to_owned()).collect();
            self.line(&heading, &mut out);
        }
        for row in std::mem::take(&mut self.rows) {
            self.line(&row, &mut out);
        }
        out
    }

    fn line(&self, cells: &[String], out: &mut String) {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width.saturating_sub(text::width(cell))));
            line.push_str(GAP);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

fn shortened(cell: String) -> String {
    if text::width(&cell) <= WIDEST {
        return cell;
    }
    format!("{}...", text::truncate(&cell, WIDEST - 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(row(&["a", "first"]));
        table.row(row(&["日本", ""]));
        assert_eq!(table.take(), "ID    NAME\na     first\n日本\n");
        table.row(row(&["b", "later"]));
        assert_eq!(table.take(), "b     later\n", "no second heading, same widths");
        assert_eq!(table.take(), "");
    }

    #[test]
    fn cells_control_nothing() {
        let mut table = Table::new(&["A", "B"]);
        table.row(row(&["a\x1b[2J\nb", "\x1b]0;t\x07c\u{202e}"]));
        assert_eq!(table.take(), "A       B\na[2J b  ]0;tc\n");
    }

    #[test]
    fn long_cells_are_cut_except_the_last() {
        let mut table = Table::new(&["A", "B"]);
        let long = "x".repeat(100);
        table.row(row(&[&long, &long]));
        let text = table.take();
        let line = text.lines().nth(1).unwrap_or_default();
        assert_eq!(line, format!("{}...  {long}", &long[..77]));
    }
}
