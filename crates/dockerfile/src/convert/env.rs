//! Variables of a stage, in the order LLB wants them.
//!
//! A variable that is set again moves to the end. Cheap to copy, because every stage that builds on
//! another starts with all of its variables, and cheap to search, because every word may name one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::expand::Variables;

/// An ordered set of variables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    entries: Arc<HashMap<String, Entry>>,
    next: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    value: String,
    /// Counts up with every change.
    order: u64,
}

impl Env {
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|entry| entry.value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let entry = Entry { value: value.to_owned(), order: self.next };
        self.next += 1;
        Arc::make_mut(&mut self.entries).insert(name.to_owned(), entry);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if self.entries.contains_key(name) {
            Arc::make_mut(&mut self.entries).remove(name);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that a copy of it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.entries.iter().map(|(key, entry)| key.len() + entry.value.len() + 64).sum()
    }

    /// Names, the one changed last at the end.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.sorted().into_iter().map(|(name, _)| name)
    }

    /// `NAME=value` for each.
    pub(crate) fn list(&self) -> Vec<String> {
        self.sorted().into_iter().map(|(name, entry)| format!("{name}={}", entry.value)).collect()
    }

    fn sorted(&self) -> Vec<(&str, &Entry)> {
        let mut entries: Vec<_> =
            self.entries.iter().map(|(name, entry)| (name.as_str(), entry)).collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.order);
        entries
    }
}

impl Variables for Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.value(name)
    }
}

/// Cuts `NAME=value`; a name alone has an empty value.
pub(crate) fn split_entry(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_again_moves_to_the_end() {
        let mut env = Env::default();
        env.set("A", "1");
        env.set("B", "2");
        let old = env.clone();
        env.set("A", "3");
        assert_eq!(env.list(), ["B=2", "A=3"]);
        assert_eq!(old.list(), ["A=1", "B=2"]);
        env.remove("B");
        assert_eq!(env.names().collect::<Vec<_>>(), ["A"]);
    }
}
