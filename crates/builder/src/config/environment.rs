//! What the operator adds to the provenance of every build: JSON files of one directory, in the order of their names.

use std::path::{Path, PathBuf};

use cofferdam_provenance::check_environment;
use serde_json::{Map, Value};

use super::{Config, ConfigError, read_text};

/// Where the files are by default.
const DEFAULT: &str = "/etc/cofferdam/provenance.d";
/// Files that are read; each says something about the machine or its owner.
const MAX_FILES: usize = 1000;

impl Config {
    /// Reads the files; later ones win. They travel inline, as certificates do.
    ///
    /// # Errors
    /// A file cannot be read, is no JSON object or has a key that the builder writes itself. A directory that is missing is none,
    /// and so is the one of all builders of the machine where it is closed to whoever starts this one.
    pub fn load_provenance_env(&mut self) -> Result<(), ConfigError> {
        let dir = self.provenance_env_dir.clone().unwrap_or_else(|| DEFAULT.into());
        for path in unless_closed(files(&dir), self.provenance_env_dir.is_none())? {
            let text = read_text(&path)?;
            let object: Map<String, Value> = serde_json::from_str(&text)
                .map_err(|source| ConfigError::Json { path: path.clone(), source })?;
            check_environment(object.keys())
                .map_err(|source| ConfigError::Provenance { path: path.clone(), source })?;
            self.provenance_env.extend(object);
        }
        Ok(())
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: dir.to_owned(), source }),
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "json") && path.is_file()
        })
        .take(MAX_FILES)
        .collect();
    files.sort();
    Ok(files)
}

/// Files, or none of a directory that nobody asked for and that may not be read.
fn unless_closed(
    files: Result<Vec<PathBuf>, ConfigError>,
    is_default: bool,
) -> Result<Vec<PathBuf>, ConfigError> {
    match files {
        Err(ConfigError::Read { source, .. })
            if is_default && source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Ok(Vec::new())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_put_together_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.json"), r#"{"two":2,"one":"b"}"#).unwrap();
        std::fs::write(dir.path().join("a.json"), r#"{"one":"a"}"#).unwrap();
        std::fs::write(dir.path().join("c.txt"), "no json").unwrap();
        let mut config =
            Config { provenance_env_dir: Some(dir.path().to_owned()), ..Config::default() };
        config.load_provenance_env().unwrap();
        assert_eq!(
            Value::Object(config.provenance_env.clone()),
            serde_json::json!({"one":"b","two":2})
        );
        std::fs::write(dir.path().join("d.json"), "[]").unwrap();
        assert!(config.load_provenance_env().is_err());
        config.provenance_env_dir = Some("/nonexistent".into());
        config.load_provenance_env().unwrap();
    }

    #[test]
    fn what_the_builder_says_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.json"), r#"{"builderPlatform":"x"}"#).unwrap();
        let mut config =
            Config { provenance_env_dir: Some(dir.path().to_owned()), ..Config::default() };
        let error = config.load_provenance_env().unwrap_err();
        assert!(matches!(error, ConfigError::Provenance { .. }), "{error}");
        assert!(config.provenance_env.is_empty());
    }

    #[test]
    fn only_a_directory_that_somebody_named_must_be_readable() {
        let closed = || {
            let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            Err(ConfigError::Read { path: "/closed".into(), source })
        };
        assert!(unless_closed(closed(), true).unwrap().is_empty());
        assert!(unless_closed(closed(), false).is_err());
    }
}
