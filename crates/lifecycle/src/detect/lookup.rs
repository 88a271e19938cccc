//! The modules of a builder, found by id and version.
//!
//! Must never guess: an empty version is only taken where there is one candidate.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_cnb::{Descriptor, Kind};

/// Longest id or version in an error.
const MAX_NAME: usize = 80;

/// Every module there is, by kind, id and version.
#[derive(Debug, Clone, Default)]
pub struct Modules {
    by_id: BTreeMap<(Kind, String), BTreeMap<String, Arc<Descriptor>>>,
}

/// A module that cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is none of that id, or of that version.
    #[error("{kind} {id}@{version} is not in the builder")]
    Unknown {
        /// Buildpack or extension.
        kind: Kind,
        /// Its id.
        id: String,
        /// Its version, `(any)` where none was asked for.
        version: String,
    },
    /// No version was asked for and there are several.
    #[error("{kind} {id} needs a version: there are {versions}")]
    Ambiguous {
        /// Buildpack or extension.
        kind: Kind,
        /// Its id.
        id: String,
        /// Versions there are.
        versions: String,
    },
}

impl Modules {
    /// Modules by what names them; of two with one name the later counts.
    #[must_use]
    pub fn new(modules: impl IntoIterator<Item = Arc<Descriptor>>) -> Self {
        let mut all = Self::default();
        for module in modules {
            all.insert(module);
        }
        all
    }

    /// Adds one, or replaces the one of the same name.
    pub fn insert(&mut self, module: Arc<Descriptor>) {
        let id = (module.kind, module.info.id.as_str().to_owned());
        let version = module.info.version.as_str().to_owned();
        self.by_id.entry(id).or_default().insert(version, module);
    }

    /// Every module, by kind, id and version.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.by_id.values().flat_map(BTreeMap::values)
    }

    /// The module of an id and version; with an empty version the only one of that id.
    ///
    /// # Errors
    /// There is none, or several where no version is given.
    pub fn find(
        &self,
        kind: Kind,
        id: &str,
        version: &str,
    ) -> Result<&Arc<Descriptor>, LookupError> {
        let unknown = || LookupError::Unknown {
            kind,
            id: shown(id, MAX_NAME),
            version: if version.is_empty() { "(any)".to_owned() } else { shown(version, MAX_NAME) },
        };
        let versions = self.by_id.get(&(kind, id.to_owned())).ok_or_else(unknown)?;
        if !version.is_empty() {
            return versions.get(version).ok_or_else(unknown);
        }
        let mut all = versions.values();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(unknown()),
            (Some(_), Some(_)) => {
                let versions = versions.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Err(LookupError::Ambiguous { kind, id: shown(id, MAX_NAME), versions })
            }
        }
    }
}

/// What strangers wrote, on one line of bounded length.
pub(crate) fn shown(text: &str, length: usize) -> String {
    let visible = |char: char| if char.is_control() { ' ' } else { char };
    text.chars().map(visible).take(length).collect()
}
