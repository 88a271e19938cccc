//! What the operator adds to the provenance of every build: JSON files of one directory, in the order of their names.

use std::path::{Path, PathBuf};

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
    /// A file cannot be read or is no JSON object. A directory that is missing is none.
    pub fn load_provenance_env(&mut self) -> Result<(), ConfigError> {
        let dir = self.provenance_env_dir.clone().unwrap_or_else(|| DEFAULT.into());
        for path in files(&dir)? {
            let text = read_text(&path)?;
            let object: Map<String, Value> = serde_json::from_str(&text)
                .map_err(|source| ConfigError::Json { path: path.clone(), source })?;
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
}
