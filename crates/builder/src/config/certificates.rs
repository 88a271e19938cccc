//! `tlsconfigdir` of a registry: directories of certificates, laid out as docker and containerd have them.

use std::path::PathBuf;

use super::{ConfigError, KeyPair, Registry};

/// Files of a directory that are looked at.
const MAX_FILES: usize = 1000;

impl Registry {
    /// Adds what the directories hold to the files that are named one by one. A directory that is missing holds nothing.
    pub(super) fn add_directories(&mut self) -> Result<(), ConfigError> {
        for dir in &self.tlsconfigdir {
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ConfigError::Read { path: dir.clone(), source }),
            };
            let mut files: Vec<PathBuf> =
                entries.flatten().take(MAX_FILES).map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => self.ca.push(file),
                    Some("cert") => {
                        let key = file.with_extension("key");
                        self.keypair.push(KeyPair { key, cert: file });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn directories_hold_authorities_and_pairs() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.crt", "me.cert", "me.key", "readme"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let tlsconfigdir = vec![dir.path().to_owned(), "/nonexistent".into()];
        let mut registry = Registry { tlsconfigdir, ..Registry::default() };
        registry.add_directories().unwrap();
        assert_eq!(registry.ca, [dir.path().join("a.crt")]);
        assert_eq!(registry.keypair.len(), 1);
        assert_eq!(registry.keypair[0].key, dir.path().join("me.key"));
    }
}
