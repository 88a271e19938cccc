//! Parts of long lists.

use serde::Serialize;

/// One part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// What is in it.
    pub items: Vec<T>,
    /// What to ask for next; absent at the end.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The wire writes the end as an absent or an empty token.
    pub(crate) fn new(items: Vec<T>, next: Option<String>) -> Self {
        Self { items, next: next.filter(|token| !token.is_empty()) }
    }
}

/// Which part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Most entries; the server's choice when absent, and its limit when too large.
    pub size: Option<i32>,
    /// [`Page::next`] of the part before; absent for the first.
    pub token: Option<String>,
}

impl PageRequest {
    /// The part that `token` names.
    #[must_use]
    pub fn at(token: Option<&str>) -> Self {
        Self { size: None, token: token.map(str::to_owned) }
    }

    /// With at most `size` entries.
    #[must_use]
    pub const fn of(mut self, size: i32) -> Self {
        self.size = Some(size);
        self
    }
}
