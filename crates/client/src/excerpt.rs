//! The lines of a user's file around a failure.

use std::fmt::Write as _;

use crate::error::SourceLocation;
use crate::text;

/// Lines shown before and after.
const CONTEXT: usize = 3;

/// Lines shown of one long instruction.
const MAX_LINES: usize = 40;

/// `file:line`, then the marked lines with a little around them; empty when the location names
/// no line of the text.
#[must_use]
pub fn excerpt(location: &SourceLocation) -> String {
    let all: Vec<&str> = location.text.lines().collect();
    let marked: Vec<(usize, usize)> = location
        .lines
        .iter()
        .copied()
        .filter(|(start, _)| (1..=all.len()).contains(start))
        .map(|(start, end)| (start, end.min(all.len())))
        .collect();
    let (Some(first), Some(last)) =
        (marked.iter().map(|(start, _)| *start).min(), marked.iter().map(|(_, end)| *end).max())
    else {
        return String::new();
    };
    let from = first.saturating_sub(CONTEXT).max(1);
    let to = (last + CONTEXT).min(all.len()).min(from + MAX_LINES);
    let rule = "-".repeat(20);
    let mut out = format!("{}:{first}\n{rule}\n", text::single_line(&location.filename));
    for number in from..=to {
        let hit = marked.iter().any(|(start, end)| (*start..=*end).contains(&number));
        let mark = if hit { ">>>" } else { "   " };
        let line = text::printable(all[number - 1]);
        // Writing to a String cannot fail.
        let _ = writeln!(out, " {number:>3} | {mark} {line}");
    }
    out.push_str(&rule);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_line_is_marked_within_its_surroundings() {
        let text = "FROM x\n\nRUN a\nRUN \x1b[31mb\nRUN c\nRUN d\nRUN e\nRUN f\n".to_string();
        let location = SourceLocation {
            filename: "Dockerfile".into(),
            text: text.clone(),
            lines: vec![(4, 4)],
        };
        let shown = excerpt(&location);
        assert!(shown.starts_with("Dockerfile:4\n----"));
        assert!(shown.contains("   4 | >>> RUN [31mb\n"), "{shown}");
        assert!(shown.contains("   1 |     FROM x\n") && shown.contains("   7 |     RUN e\n"));
        assert!(!shown.contains("RUN f"));
        for lines in [vec![], vec![(0, 0)], vec![(99, 100)]] {
            let location = SourceLocation { filename: "D".into(), text: text.clone(), lines };
            assert!(excerpt(&location).is_empty());
        }
    }
}
