//! Answers to subrequests as text for people: tables and excerpts of the Dockerfile.

use std::fmt::Write as _;

use crate::lines::Lines;

/// Columns padded to equal width, `gap` spaces between them. The last one is not padded.
pub(super) fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let pad = widths[column].saturating_sub(cell.chars().count()) + gap;
                text.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.push('\n');
    }
    text
}

/// The lines of a file with a few around them, marked by `>>>`.
pub(super) fn excerpt(filename: &str, data: &[u8], lines: Lines) -> String {
    let data = String::from_utf8_lossy(data);
    let all: Vec<&str> = data.split('\n').collect();
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let (mut start, mut end) = (lines.start, lines.end.min(count));
    if start < 1 || start > count {
        return String::new();
    }
    let wanted = if lines.start == lines.end { 4 } else { 2 };
    let mut padded = 0;
    while padded < wanted {
        if start > 1 {
            start -= 1;
            padded += 1;
        }
        if end != count {
            end += 1;
            padded += 1;
        }
        padded += 1;
    }
    let mut text = format!("{filename}:{}\n--------------------\n", lines.start);
    for (number, line) in (1..).zip(&all).skip(start as usize - 1).take((end - start) as usize + 1)
    {
        let mark = if (lines.start..=lines.end).contains(&number) { ">>>" } else { "   " };
        let written = writeln!(text, " {number:3} | {mark} {line}");
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }
    text.push_str("--------------------\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![
            vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()],
            vec!["a".to_owned(), "x".to_owned()],
        ];
        assert_eq!(table(&rows, 1), "TARGET DESCRIPTION\na      x\n");
    }

    #[test]
    fn excerpts_mark_their_lines() {
        let text = excerpt("Dockerfile", b"FROM a\nRUN b\nRUN c", Lines::new(2, 2));
        assert!(text.starts_with("Dockerfile:2\n--------------------\n"), "{text}");
        assert!(text.contains("   2 | >>> RUN b\n"), "{text}");
        assert!(text.contains("   1 |     FROM a\n"), "{text}");
        assert_eq!(excerpt("Dockerfile", b"", Lines::new(7, 9)), "");
    }
}
