//! A bound on what variables may produce.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::ExpandProblem;

/// Bytes all expansions of one Dockerfile may take from variables together. The file itself
/// is limited to the same size; real files stay a thousand times below, while a chain of
/// doublings passes it after twenty lines.
const MAX_EXPANDED: usize = 1 << 20;

/// Bytes that expansions of one Dockerfile may still produce from variables.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: AtomicUsize::new(MAX_EXPANDED) }
    }
}

impl Budget {
    /// Takes `bytes`, before they are produced.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), ExpandProblem> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .map(|_| ())
            .map_err(|_| ExpandProblem::TooLarge(MAX_EXPANDED))
    }
}
