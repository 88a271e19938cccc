//! Descriptors, image manifests and indexes.
//!
//! Follows the OCI image specification and Docker's schema 2. Unknown fields survive a round
//! trip. A document that could be read as both a manifest and an index is refused
//! (CVE-2021-41190): what is meant must not depend on who reads it.

use std::collections::BTreeMap;

use cofferdam_digest::Digest;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Platform, media};

/// Largest manifest, index or config that is read, in bytes. Registries agree on 4 MiB.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Names content: type, digest and size, with what is said about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Other places that claim to have the content. Kept, never followed.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of an artifact, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A plain descriptor of given content.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
            extra: BTreeMap::new(),
        }
    }

    /// The descriptor of `bytes`.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// An image manifest: a config and its layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type; old OCI manifests leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// Layers, bottom first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// What this manifest is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Manifest {
    /// A manifest of the given media type.
    #[must_use]
    pub fn new(media_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        }
    }
}

/// An index: manifests for several platforms, and attestations about them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type; old OCI indexes leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// What this index is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Index {
    /// An index of the given media type.
    #[must_use]
    pub fn new(media_type: &str, manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        }
    }

    /// The manifest that runs best on `platform`. Attestations and other entries marked
    /// `unknown` never match; when no entry names a platform, the first one is taken.
    #[must_use]
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let documents = || {
            self.manifests.iter().filter(|entry| {
                media::is_manifest(&entry.media_type) || media::is_index(&entry.media_type)
            })
        };
        let best = documents()
            .filter_map(|entry| {
                let offered = entry.platform.as_ref().filter(|offered| !offered.is_unknown())?;
                Some((platform.rank(offered)?, entry))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry);
        best.or_else(|| {
            if self.manifests.iter().any(|entry| entry.platform.is_some()) {
                None
            } else {
                documents().next()
            }
        })
    }

    /// Platforms this index offers, for messages.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        let known =
            |entry: &Descriptor| entry.platform.clone().filter(|platform| !platform.is_unknown());
        self.manifests.iter().filter_map(known).collect()
    }
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are few of these, and none is kept for long")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// Bytes that are not a manifest or index we accept.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// More than [`MAX_DOCUMENT`] bytes.
    #[error("document of {size} bytes is larger than the limit of {MAX_DOCUMENT}")]
    TooLarge {
        /// Size in bytes, as announced or as read so far.
        size: u64,
    },
    /// Not the JSON we expect.
    #[error("malformed document")]
    Json(#[source] serde_json::Error),
    /// Could be read in two ways.
    #[error("ambiguous document: {reason}")]
    Ambiguous {
        /// What is ambiguous.
        reason: &'static str,
    },
    /// Says one media type inside and was delivered as another.
    #[error("document says it is {inside:?} but was delivered as {outside:?}")]
    MediaTypeMismatch {
        /// The `mediaType` field.
        inside: String,
        /// What the descriptor or the registry said.
        outside: String,
    },
    /// A type this product does not read, Docker schema 1 among them.
    #[error("unsupported document type {media_type:?}")]
    Unsupported {
        /// The type.
        media_type: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Parses a manifest or index. `media_type` is what the descriptor or registry called it;
    /// `None` or a type that says nothing (`application/json`) leaves it to the document.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, DocumentError> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(DocumentError::TooLarge { size: bytes.len() as u64 });
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        refuse_case_variants(bytes)?;
        let outside = media_type
            .map(|text| text.split(';').next().unwrap_or_default().trim())
            .filter(|text| {
                media::is_index(text)
                    || media::is_manifest(text)
                    || text.starts_with("application/vnd.")
            });
        let kind = resolve_kind(&probe, outside)?;
        if probe.schema_version != Some(2) {
            return Err(DocumentError::Unsupported { media_type: kind });
        }
        if media::is_index(&kind) {
            let mut index: Index = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            index.media_type.get_or_insert(kind);
            Ok(Self::Index(index))
        } else if media::is_manifest(&kind) {
            let mut manifest: Manifest =
                serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            manifest.media_type.get_or_insert(kind);
            Ok(Self::Manifest(manifest))
        } else {
            Err(DocumentError::Unsupported { media_type: kind })
        }
    }

    /// The media type.
    #[must_use]
    pub fn media_type(&self) -> &str {
        let (known, fallback) = match self {
            Self::Manifest(manifest) => (&manifest.media_type, media::OCI_MANIFEST),
            Self::Index(index) => (&index.media_type, media::OCI_INDEX),
        };
        known.as_deref().unwrap_or(fallback)
    }
}

fn resolve_kind(probe: &Probe, outside: Option<&str>) -> Result<String, DocumentError> {
    let ambiguous = |reason| Err(DocumentError::Ambiguous { reason });
    if probe.fs_layers.is_some() {
        return Err(DocumentError::Unsupported { media_type: "docker schema 1".to_owned() });
    }
    if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) {
        return ambiguous("it has both manifests and layers or config");
    }
    let kind = match (probe.media_type.as_deref().filter(|text| !text.is_empty()), outside) {
        (Some(inside), Some(outside)) if inside != outside => {
            return Err(DocumentError::MediaTypeMismatch {
                inside: inside.to_owned(),
                outside: outside.to_owned(),
            });
        }
        (Some(inside), _) => inside,
        (None, Some(outside)) => outside,
        (None, None) if probe.manifests.is_some() => media::OCI_INDEX,
        (None, None) => media::OCI_MANIFEST,
    };
    if media::is_index(kind) && (probe.layers.is_some() || probe.config.is_some()) {
        return ambiguous("an index must not have layers or config");
    }
    if media::is_manifest(kind) && probe.manifests.is_some() {
        return ambiguous("a manifest must not have manifests");
    }
    Ok(kind.to_owned())
}

/// Some readers match field names without regard to case; a document that relies on it means
/// different things to different readers.
fn refuse_case_variants(bytes: &[u8]) -> Result<(), DocumentError> {
    const FIELDS: [&str; 6] =
        ["schemaVersion", "mediaType", "manifests", "layers", "config", "subject"];
    let keys: BTreeMap<String, IgnoredAny> =
        serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
    let variant =
        |key: &String| FIELDS.iter().any(|field| field != key && field.eq_ignore_ascii_case(key));
    if keys.keys().any(variant) {
        return Err(DocumentError::Ambiguous {
            reason: "a field name differs only in case from a known one",
        });
    }
    Ok(())
}

/// Reads JSON `null` as the default value, as other implementations write it for empty lists.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn descriptor(media_type: &str) -> Value {
        serde_json::json!({"mediaType": media_type, "digest": Digest::of(b""), "size": 0})
    }

    #[test]
    fn unknown_fields_survive() {
        let json = serde_json::json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": descriptor(media::OCI_CONFIG),
            "layers": [{"mediaType": media::OCI_LAYER, "digest": Digest::of(b"x"), "size": 1, "data": "eA==", "new": 1}],
            "annotations": {"a": "b"}, "newField": {"x": [1]}
        });
        let Document::Manifest(manifest) =
            Document::parse(json.to_string().as_bytes(), None).unwrap()
        else {
            panic!("not a manifest");
        };
        assert_eq!(serde_json::to_value(&manifest).unwrap(), json);
    }

    #[test]
    fn hostile_documents_are_refused() {
        let config = descriptor(media::OCI_CONFIG);
        for (json, outside) in [
            (
                serde_json::json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []}),
                None,
            ),
            (serde_json::json!({"schemaVersion": 2, "config": config, "manifests": []}), None),
            (
                serde_json::json!({"schemaVersion": 2, "layers": [], "mediaType": media::OCI_INDEX}),
                None,
            ),
            (serde_json::json!({"schemaVersion": 2, "manifests": []}), Some(media::OCI_MANIFEST)),
            (
                serde_json::json!({"schemaVersion": 2, "manifests": [], "mediaType": media::OCI_INDEX}),
                Some(media::DOCKER_INDEX),
            ),
            (
                serde_json::json!({"schemaVersion": 2, "config": config, "layers": [], "Manifests": []}),
                None,
            ),
            (serde_json::json!({"schemaVersion": 1, "fsLayers": []}), None),
            (
                serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.x", "layers": []}),
                None,
            ),
            (serde_json::json!({"manifests": []}), None),
            (serde_json::json!([]), None),
        ] {
            assert!(
                Document::parse(json.to_string().as_bytes(), outside).is_err(),
                "{json} was accepted"
            );
        }
        let duplicate =
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"layers":[]}}"#);
        assert!(Document::parse(duplicate.as_bytes(), None).is_err());
        let deep = "[".repeat(100_000);
        assert!(Document::parse(deep.as_bytes(), None).is_err());
        let large = vec![b' '; 5 << 20];
        assert!(matches!(Document::parse(&large, None), Err(DocumentError::TooLarge { .. })));
    }

    #[test]
    fn selection_skips_attestations() {
        let entry = |os: &str, architecture: &str, variant: &str, content: &str| Descriptor {
            platform: Some(Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.to_owned(),
                ..Platform::default()
            }),
            ..Descriptor::of(media::OCI_MANIFEST, content.as_bytes())
        };
        let index = Index::new(
            media::OCI_INDEX,
            vec![
                entry("unknown", "unknown", "", "attestation"),
                entry("linux", "arm64", "v8", "arm64"),
                entry("linux", "amd64", "", "amd64"),
            ],
        );
        let select = |text| index.select(&Platform::parse(text).unwrap()).map(|entry| entry.digest);
        assert_eq!(select("linux/amd64"), Some(Digest::of(b"amd64")));
        assert_eq!(select("linux/arm64"), Some(Digest::of(b"arm64")));
        assert_eq!(select("linux/s390x"), None);
        assert_eq!(index.platforms().len(), 2);
    }
}
