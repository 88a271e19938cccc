//! Where something stands in a Dockerfile: a span of whole lines.
//!
//! Lines are counted from 1, as the LLB `Range` message does. Columns are not kept: the
//! frontend protocol reports instructions by whole lines. This module must never read text.

/// An inclusive span of lines, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lines {
    /// First line.
    pub start: u32,
    /// Last line, never before `start`.
    pub end: u32,
}

impl Lines {
    /// A span; an end before the start is read as one line.
    #[must_use]
    pub fn new(start: u32, end: u32) -> Self {
        Self { start, end: end.max(start) }
    }

    /// A single line.
    #[must_use]
    pub fn single(line: u32) -> Self {
        Self { start: line, end: line }
    }

    /// Every line of the span. The wire format carries one range per line.
    pub fn each(self) -> impl Iterator<Item = u32> {
        self.start..=self.end
    }
}
