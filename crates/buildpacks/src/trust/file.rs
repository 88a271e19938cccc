//! The list of builders that somebody trusts and denies, as a TOML file.
//!
//! ```toml
//! [[trusted]]
//! image = "registry.example/team/builder@sha256:…"
//!
//! [[denied]]
//! image = "docker.io/somebody/builder"
//! ```
//!
//! A key that is not known is an error: a misspelt `denied` must never be read as nothing.

use cofferdam_cnb::{FileError, parse_toml};
use serde::Deserialize;

use super::{Trust, TrustEntry};
use crate::text::printable;

/// What somebody trusts and denies, each once, in the order it was added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustFile {
    /// Trusted builders.
    pub trusted: Vec<TrustEntry>,
    /// Denied builders.
    pub denied: Vec<TrustEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    trusted: Vec<RawEntry>,
    #[serde(default)]
    denied: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    image: String,
}

impl TrustFile {
    /// Parses the file; `file` is named in errors.
    ///
    /// # Errors
    /// It is not of this form, or an entry does not name an image.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, FileError> {
        let file = &printable(file);
        let Raw { trusted, denied } = parse_toml(file, bytes)?;
        Ok(Self {
            trusted: entries(file, "trusted", &trusted)?,
            denied: entries(file, "denied", &denied)?,
        })
    }

    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        // Entries have neither quotes nor backslashes: their grammar has none.
        let table = |key: &str, entries: &[TrustEntry]| {
            let table = |entry: &TrustEntry| format!("[[{key}]]\nimage = \"{entry}\"\n");
            entries.iter().map(table).collect::<Vec<_>>()
        };
        let mut tables = table("trusted", &self.trusted);
        tables.extend(table("denied", &self.denied));
        tables.join("\n")
    }

    /// Trusts an entry; an equal deny entry goes away, as the later word counts. Says whether
    /// anything changed.
    pub fn add(&mut self, entry: TrustEntry) -> bool {
        let mut changed = take(&mut self.denied, &entry);
        if !self.trusted.contains(&entry) {
            self.trusted.push(entry);
            changed = true;
        }
        changed
    }

    /// Denies an entry; an equal trusted entry goes away. Says whether anything changed.
    pub fn deny(&mut self, entry: TrustEntry) -> bool {
        let mut changed = take(&mut self.trusted, &entry);
        if !self.denied.contains(&entry) {
            self.denied.push(entry);
            changed = true;
        }
        changed
    }

    /// Forgets an entry, trusted or denied. Says whether there was one.
    pub fn remove(&mut self, entry: &TrustEntry) -> bool {
        take(&mut self.trusted, entry) | take(&mut self.denied, entry)
    }

    /// What these lists mean in a build.
    #[must_use]
    pub fn trust(&self, trust_builder: bool) -> Trust {
        Trust::new(self.trusted.clone(), self.denied.clone(), trust_builder)
    }
}

fn take(entries: &mut Vec<TrustEntry>, entry: &TrustEntry) -> bool {
    let before = entries.len();
    entries.retain(|other| other != entry);
    entries.len() != before
}

fn entries(file: &str, list: &str, raw: &[RawEntry]) -> Result<Vec<TrustEntry>, FileError> {
    let mut entries = Vec::new();
    for (index, RawEntry { image }) in raw.iter().enumerate() {
        let key = format!("{list}[{index}].image");
        let entry = TrustEntry::parse(image)
            .map_err(|error| FileError::value(file, key, error.to_string()))?;
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    Ok(entries)
}
