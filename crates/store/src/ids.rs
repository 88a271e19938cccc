//! Numbers: how container ids are written to disk, and the names of layers and directories.
//!
//! Must never hand out an id outside the range: an id that has no place on disk is an error of
//! the caller's input, not something to map to "nobody".

pub(crate) mod runs;

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a container's user and group ids live on disk: container id `n` is stored as
/// `first + n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The id on disk of container id 0.
    pub first: u32,
    /// How many ids a container has.
    pub count: u32,
}

impl IdRange {
    /// Container ids are stored as they are.
    pub const IDENTITY: Self = Self { first: 0, count: 65_536 };

    /// The id to store for a container's `id`; `None` when the range has no such id.
    #[must_use]
    pub fn to_disk(self, id: u32) -> Option<u32> {
        (id < self.count).then(|| self.first.checked_add(id)).flatten()
    }

    /// The container's id for an `id` found on disk; `None` when it is outside the range.
    #[must_use]
    pub fn from_disk(self, id: u32) -> Option<u32> {
        id.checked_sub(self.first).filter(|id| *id < self.count)
    }
}

impl Default for IdRange {
    fn default() -> Self {
        Self::IDENTITY
    }
}

/// The name of a layer within its store. Never given twice to different durable layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub(crate) u64);

impl LayerId {
    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&name_of(self.0))
    }
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The directory name of a number: base 36, because old kernels take all layers of a mount in
/// one page of text and short names leave room for more of them.
pub(crate) fn name_of(mut number: u64) -> String {
    let mut text = Vec::new();
    loop {
        text.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
        if number == 0 {
            return text.into_iter().rev().collect();
        }
    }
}

/// The number that has this name, for names made by [`name_of`] only.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 36).ok()?;
    (name_of(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_map_both_ways_and_stop_at_the_edges() {
        let range = IdRange { first: 65_536, count: 65_536 };
        assert_eq!(range.to_disk(0), Some(65_536));
        assert_eq!(range.to_disk(65_535), Some(131_071));
        assert_eq!(range.to_disk(65_536), None);
        assert_eq!(range.from_disk(131_071), Some(65_535));
        assert_eq!(range.from_disk(131_072), None);
        assert_eq!(range.from_disk(65_535), None);
        let high = IdRange { first: u32::MAX, count: 10 };
        assert_eq!(high.to_disk(1), None);
    }

    #[test]
    fn names_are_unique_and_strict() {
        for number in [0, 1, 35, 36, 1295, 1296, u64::MAX] {
            assert_eq!(number_of(&name_of(number)), Some(number));
        }
        for name in ["", "00", "01", "+1", "-1", "A", "../x", "1 ", "zzzzzzzzzzzzzzzz"] {
            assert_eq!(number_of(name), None, "{name:?}");
        }
    }
}
