//! Variables of a stage, in the order LLB wants them.
//!
//! A variable that is set again moves to the end. Cheap to copy, because every stage that builds on
//! another starts with all of its variables.

use std::collections::HashMap;
use std::sync::Arc;

use crate::expand::Variables;

/// An ordered set of variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Env {
    entries: Arc<Vec<(String, String)>>,
}

impl Env {
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        Arc::make_mut(&mut self.entries).push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if self.value(name).is_some() {
            Arc::make_mut(&mut self.entries).retain(|(key, _)| key != name);
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Values by name, for many look-ups.
    pub(crate) fn map(&self) -> HashMap<&str, &str> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that a copy of it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.entries.iter().map(|(key, value)| key.len() + value.len() + 48).sum()
    }

    /// `NAME=value` for each.
    pub(crate) fn list(&self) -> Vec<String> {
        self.entries.iter().map(|(key, value)| format!("{key}={value}")).collect()
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
