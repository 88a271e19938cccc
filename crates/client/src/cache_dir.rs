//! `type=local` caches: an OCI layout directory that a build reads or writes.
//!
//! The daemon moves blobs through the session's content stores; which manifest is meant stands
//! in the directory's `index.json`, and that is this module's business.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use cofferdam_digest::Digest;
use cofferdam_session::{ContentStore, ContentStoreError, Services};
use serde_json::{Value, json};

use crate::solve::CacheEntry;

const KIND: &str = "local";
const DEFAULT_TAG: &str = "latest";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Response entry with the descriptor of the exported cache.
const MANIFEST_KEY: &str = "cache.manifest";

/// Largest index; each entry is a few hundred bytes.
const MAX_INDEX: u64 = 4 << 20;

/// A cache directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheDirError {
    /// `src` or `dest` is missing.
    #[error("local cache requires {attribute}=<directory>")]
    Missing {
        /// Which attribute.
        attribute: &'static str,
    },
    /// Not a content store.
    #[error(transparent)]
    Store(#[from] ContentStoreError),
    /// The index cannot be read or written.
    #[error("{action} {}", path.display())]
    Index {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The index is no OCI index, or the daemon's answer no descriptor.
    #[error("malformed {what}")]
    Malformed {
        /// Which.
        what: String,
    },
}

/// The directories of one build's local caches.
#[derive(Debug, Default)]
pub struct CacheDirectories {
    exports: Vec<(PathBuf, String)>,
}

impl CacheDirectories {
    /// Offers every local cache in `imports` and `exports` as a content store and completes the
    /// entries; an import that does not exist yet is dropped.
    ///
    /// # Errors
    /// Missing attributes or unusable directories.
    pub fn prepare(
        imports: &mut Vec<CacheEntry>,
        exports: &mut [CacheEntry],
        mut services: Services,
    ) -> Result<(Self, Services), CacheDirError> {
        let mut kept = Vec::with_capacity(imports.len());
        for mut entry in imports.drain(..) {
            if entry.kind != KIND {
                kept.push(entry);
                continue;
            }
            let src = attribute(&entry.attrs, "src")?;
            let Ok(store) = ContentStore::open(Path::new(&src)) else {
                tracing::warn!(src, "local cache does not exist yet");
                continue;
            };
            if !entry.attrs.contains_key("digest") {
                let tag = entry.attrs.get("tag").map_or(DEFAULT_TAG, String::as_str);
                let Some(digest) = find(Path::new(&src), tag)? else {
                    tracing::warn!(src, tag, "local cache has no such entry");
                    continue;
                };
                entry.attrs.insert("digest".to_string(), digest.to_string());
            }
            services = services.content_store(format!("local:{src}"), store);
            kept.push(entry);
        }
        *imports = kept;
        let mut directories = Self::default();
        for entry in exports.iter().filter(|entry| entry.kind == KIND) {
            let dest = attribute(&entry.attrs, "dest")?;
            let store = ContentStore::create(Path::new(&dest))?;
            services = services.content_store(format!("local:{dest}"), store);
            let tag = entry.attrs.get("tag").map_or(DEFAULT_TAG, String::as_str);
            directories.exports.push((PathBuf::from(dest), tag.to_string()));
        }
        Ok((directories, services))
    }

    /// Writes what was exported into each directory's index.
    ///
    /// # Errors
    /// A malformed answer, or an index that cannot be written.
    pub fn finish(&self, response: &BTreeMap<String, String>) -> Result<(), CacheDirError> {
        let Some(descriptor) = response.get(MANIFEST_KEY).filter(|_| !self.exports.is_empty())
        else {
            return Ok(());
        };
        let descriptor: Value = serde_json::from_str(descriptor)
            .map_err(|_| CacheDirError::Malformed { what: format!("response {MANIFEST_KEY}") })?;
        for (directory, tag) in &self.exports {
            put(directory, tag, descriptor.clone())?;
        }
        Ok(())
    }
}

fn attribute(
    attrs: &BTreeMap<String, String>,
    attribute: &'static str,
) -> Result<String, CacheDirError> {
    let value = attrs.get(attribute).filter(|value| !value.is_empty());
    value.cloned().ok_or(CacheDirError::Missing { attribute })
}

fn read_index(directory: &Path) -> Result<Option<Value>, CacheDirError> {
    let path = directory.join("index.json");
    let mut bytes = Vec::new();
    match std::fs::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.and_then(|file| file.take(MAX_INDEX).read_to_end(&mut bytes)).map_err(
            |source| CacheDirError::Index { action: "read", path: path.clone(), source },
        )?,
    };
    let malformed = |_| CacheDirError::Malformed { what: path.display().to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(malformed)
}

fn tag_of(descriptor: &Value) -> Option<&str> {
    descriptor.get("annotations")?.get(REF_NAME)?.as_str()
}

/// The digest that `tag` names in a layout.
pub(crate) fn find(directory: &Path, tag: &str) -> Result<Option<Digest>, CacheDirError> {
    let Some(index) = read_index(directory)? else { return Ok(None) };
    let manifests = index.get("manifests").and_then(Value::as_array);
    let found = manifests.into_iter().flatten().rev().find(|entry| tag_of(entry) == Some(tag));
    let digest = found.and_then(|entry| entry.get("digest")?.as_str());
    Ok(digest.and_then(|digest| Digest::parse(digest).ok()))
}

/// Writes `tag` and its descriptor into a layout's index, replacing an earlier one.
pub(crate) fn put(directory: &Path, tag: &str, mut descriptor: Value) -> Result<(), CacheDirError> {
    let empty = || json!({"schemaVersion": 2, "manifests": []});
    let mut index = read_index(directory)?.unwrap_or_else(empty);
    let malformed = |what: &str| CacheDirError::Malformed { what: what.to_string() };
    let object = descriptor.as_object_mut().ok_or_else(|| malformed("cache descriptor"))?;
    let annotations = object.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(REF_NAME.to_string(), json!(tag));
    }
    let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
    let manifests = manifests.ok_or_else(|| malformed("index.json"))?;
    manifests.retain(|entry| tag_of(entry) != Some(tag));
    manifests.push(descriptor);
    let write = |name: &str, content: &Value| {
        let path = directory.join(name);
        let temporary = directory.join(format!("{name}.partial"));
        std::fs::write(&temporary, content.to_string())
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|source| CacheDirError::Index { action: "write", path, source })
    };
    write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
    write("index.json", &index)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(attribute: &str, directory: &Path) -> CacheEntry {
        let attrs = BTreeMap::from([(attribute.to_string(), directory.display().to_string())]);
        CacheEntry { kind: "local".into(), attrs }
    }

    #[test]
    fn what_one_build_exports_the_next_imports() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        let mut imports = vec![entry("src", &path)];
        let mut exports = vec![entry("dest", &path)];
        let (directories, _) =
            CacheDirectories::prepare(&mut imports, &mut exports, Services::new()).unwrap();
        assert!(imports.is_empty());
        for content in ["one", "two"] {
            let digest = Digest::of(content);
            let descriptor = json!({"mediaType": "x", "digest": digest.to_string(), "size": 3});
            let response = BTreeMap::from([(MANIFEST_KEY.to_string(), descriptor.to_string())]);
            directories.finish(&response).unwrap();
            let mut imports = vec![entry("src", &path)];
            CacheDirectories::prepare(&mut imports, &mut [], Services::new()).unwrap();
            assert_eq!(imports[0].attrs["digest"], digest.to_string());
        }
        let index = read_index(&path).unwrap().unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn missing_attributes_are_named() {
        let bare = CacheEntry { kind: "local".into(), attrs: BTreeMap::new() };
        let error = CacheDirectories::prepare(&mut vec![bare], &mut [], Services::new());
        assert_eq!(error.err().unwrap().to_string(), "local cache requires src=<directory>");
    }
}
