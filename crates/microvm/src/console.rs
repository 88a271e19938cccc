//! The guest's console: its last lines are kept for the day it dies.
//!
//! Whatever runs in the guest can write here, as much as it wants. So little is kept, in a fixed space, and only printable
//! characters of it ever reach a terminal or a log.

use std::collections::VecDeque;

/// Bytes kept; a kernel's panic with its registers is some three thousand.
const KEPT: usize = 16 << 10;
/// Lines and characters a line of what is shown.
const SHOWN_LINES: usize = 30;
const SHOWN_LENGTH: usize = 500;

/// The last bytes of a console.
#[derive(Debug, Default)]
pub(crate) struct Console {
    bytes: VecDeque<u8>,
}

impl Console {
    /// Adds what came in and forgets what is too old.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// The last lines, fit to be shown.
    #[must_use]
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> =
            text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].to_vec()
    }
}

/// A line without what would control a terminal, and not too long.
#[must_use]
pub(crate) fn printable(line: &str) -> String {
    let shown = line.chars().filter(|c| !c.is_control() || *c == '\t');
    shown.take(SHOWN_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut console = Console::default();
        for number in 0..100_000 {
            console.push(format!("line {number}\n").as_bytes());
        }
        assert!(console.bytes.len() <= KEPT);
        let lines = console.last_lines();
        assert_eq!(lines.len(), SHOWN_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 99999"));
        console.push(&vec![b'x'; 10 * KEPT]);
        assert_eq!(console.bytes.len(), KEPT);
        assert_eq!(console.last_lines(), ["x".repeat(SHOWN_LENGTH)]);
    }

    #[test]
    fn nothing_controls_a_terminal() {
        let mut console = Console::default();
        console.push(b"\x1b]0;title\x07a\x1b[2Jb\r\nwhole \xff\xfe line\n\n\x00\n");
        assert_eq!(console.last_lines(), ["]0;titlea[2Jb", "whole \u{fffd}\u{fffd} line"]);
    }
}
