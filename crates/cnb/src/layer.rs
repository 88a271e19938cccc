//! What a buildpack says about one of its layers.

use serde::{Deserialize, Serialize};

use crate::api::ApiVersion;
use crate::text::FileError;

/// Longest name of a layer: it becomes the name of a directory and, with a suffix, of files.
const MAX_NAME: usize = 200;
/// Names of files that are not about a layer.
const RESERVED: [&str; 3] = ["launch", "build", "store"];

/// `<layer>.toml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerFile {
    /// What the layer is for; absent in what is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<LayerTypes>,
    /// Free form.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub metadata: toml::Table,
    /// At the top level these are an error since Buildpack API 0.6.
    #[serde(default, skip_serializing)]
    pub launch: Option<toml::Value>,
    /// As `launch`.
    #[serde(default, skip_serializing)]
    pub build: Option<toml::Value>,
    /// As `launch`.
    #[serde(default, skip_serializing)]
    pub cache: Option<toml::Value>,
}

/// What a layer is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTypes {
    /// In the app image.
    #[serde(default)]
    pub launch: bool,
    /// For buildpacks that build later.
    #[serde(default)]
    pub build: bool,
    /// Restored by the next build.
    #[serde(default)]
    pub cache: bool,
}

/// `store.toml`: kept from one build to the next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreFile {
    /// Free form.
    #[serde(default)]
    pub metadata: toml::Table,
}

/// A name that no layer can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerNameError {
    /// Not a file name.
    #[error("{0:?} is no name of a layer: it is empty, too long, or has '/' or control characters")]
    Form(String),
    /// `<name>.toml` means something else.
    #[error("a layer cannot be called {0:?}: the name is reserved")]
    Reserved(String),
}

/// The name, when a layer may have it.
///
/// # Errors
/// See [`LayerNameError`].
pub fn layer_name(name: &str) -> Result<&str, LayerNameError> {
    let shown = || name.chars().take(80).collect();
    let bad = name.is_empty() || name.len() > MAX_NAME || name == "." || name == "..";
    if bad || name.contains(|part: char| part == '/' || part.is_control()) {
        return Err(LayerNameError::Form(shown()));
    }
    if RESERVED.contains(&name) {
        return Err(LayerNameError::Reserved(shown()));
    }
    Ok(name)
}

impl LayerFile {
    /// Checks it against the rules of a Buildpack API; all that are supported have the same.
    ///
    /// # Errors
    /// Types at the top level instead of in `[types]`.
    pub fn check(&self, api: ApiVersion, file: &str) -> Result<(), FileError> {
        let keys = [("launch", &self.launch), ("build", &self.build), ("cache", &self.cache)];
        match keys.iter().find(|(_, value)| value.is_some()) {
            Some((key, _)) => {
                let problem = format!("belongs into [types] in Buildpack API {api}");
                Err(FileError::value(file, key, problem))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parse_toml;

    #[test]
    fn names_are_names_of_directories() {
        for name in ["jre", "a.b", "node modules", "é", ".hidden", "..."] {
            assert_eq!(layer_name(name).unwrap(), name);
        }
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", ".", "..", "a/b", "/", "a\0", "a\u{1b}[2J", "a\n", "\u{85}", &long] {
            assert!(matches!(layer_name(name), Err(LayerNameError::Form(_))), "{name:?}");
        }
        for name in RESERVED {
            assert!(matches!(layer_name(name), Err(LayerNameError::Reserved(_))), "{name}");
        }
    }

    #[test]
    fn types_have_their_table() {
        let read = |text: &str| {
            let file: LayerFile = parse_toml("a.toml", text.as_bytes()).unwrap();
            file.check(ApiVersion::minor(12), "a.toml").map(|()| file)
        };
        let file = read("[types]\nlaunch = true\n[metadata]\nx = 1").unwrap();
        assert!(file.types.unwrap().launch && file.metadata["x"].as_integer() == Some(1));
        assert!(read("").unwrap().types.is_none());
        for text in ["launch = true", "build = 1", "cache = {}"] {
            let key = text.split(' ').next().unwrap();
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(&format!("a.toml: {key}: belongs into [types]")), "{error}");
        }
    }
}
