//! Manifests as clients push them: what they are and what they refer to.
//!
//! Understood are OCI images, indexes and artifacts and Docker's second schema
//! ([media types](https://github.com/opencontainers/image-spec/blob/main/media-types.md)). The
//! bytes are kept as they came; this module only reads them, in memory and bounded, and must
//! never follow a reference.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::digest::ContentDigest;
use crate::limits::{ATTACHED_ANNOTATIONS, DESCRIPTORS};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Beginnings of the types of layers that are not pushed: their owners forbid it.
const FOREIGN: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
];
/// Longest media or artifact type; RFC 6838 allows 127 characters on each side of the slash.
const MAX_TYPE: usize = 255;

/// A manifest that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) media_type: &'static str,
    /// Config and layers of an image, content of an artifact or of an index that lists blobs.
    pub(crate) blobs: Vec<Part>,
    /// Manifests an index lists.
    pub(crate) manifests: Vec<Part>,
    /// The manifest this one is attached to. It need not exist.
    pub(crate) subject: Option<ContentDigest>,
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Something a manifest refers to, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: ContentDigest,
    /// Bytes, as the manifest says.
    pub(crate) size: u64,
    /// Whether it must be there. Foreign layers need not.
    pub(crate) required: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
}

impl Manifest {
    /// Reads a manifest that came with `content_type`.
    ///
    /// # Errors
    /// A text for the client: another media type, a body that contradicts it, or references that
    /// are not well formed.
    pub(crate) fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, String> {
        let document: Document =
            serde_json::from_slice(body).map_err(|error| format!("it cannot be read: {error}"))?;
        let announced = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let media_type =
            match (announced.filter(|text| !text.is_empty()), document.media_type.as_deref()) {
                (Some(header), Some(inside)) if header != inside => {
                    return Err("its mediaType is not the Content-Type of the request".to_owned());
                }
                (Some(given), _) | (None, Some(given)) => known(given)?,
                (None, None) => {
                    return Err("neither Content-Type nor mediaType tells what it is".to_owned());
                }
            };
        if media_type != OCI_ARTIFACT && document.schema_version != Some(2) {
            return Err("its schemaVersion is not 2".to_owned());
        }
        let count = [&document.layers, &document.blobs, &document.manifests]
            .into_iter()
            .flatten()
            .map(Vec::len)
            .sum::<usize>();
        if count > DESCRIPTORS {
            return Err(format!("it refers to more than {DESCRIPTORS} things"));
        }
        Self::of(document, media_type)
    }

    /// One shape per media type: a document that could be read as another type is refused, so
    /// that no two clients can see two different images in it.
    fn of(document: Document, media_type: &'static str) -> Result<Self, String> {
        let Document { config, layers, blobs, manifests, .. } = document;
        let mut artifact_type = document.artifact_type.filter(|text| !text.is_empty());
        let mut parts = Parts::default();
        match media_type {
            OCI_MANIFEST | DOCKER_MANIFEST => {
                if manifests.is_some() || blobs.is_some() {
                    return Err("an image has neither manifests nor blobs".to_owned());
                }
                let config = config.ok_or("it has no config")?;
                artifact_type = artifact_type.or_else(|| config.media_type.clone());
                parts.add_blob(config)?;
                layers
                    .unwrap_or_default()
                    .into_iter()
                    .try_for_each(|layer| parts.add_blob(layer))?;
            }
            OCI_ARTIFACT => {
                if manifests.is_some() || layers.is_some() || config.is_some() {
                    return Err("an artifact has neither config, layers nor manifests".to_owned());
                }
                blobs.unwrap_or_default().into_iter().try_for_each(|blob| parts.add_blob(blob))?;
            }
            _ => {
                if config.is_some() || layers.is_some() || blobs.is_some() {
                    return Err("an index has neither config, layers nor blobs".to_owned());
                }
                manifests
                    .unwrap_or_default()
                    .into_iter()
                    .try_for_each(|child| parts.add_child(child))?;
            }
        }
        if artifact_type.as_ref().is_some_and(|text| text.len() > MAX_TYPE) {
            return Err(format!("its artifact type has more than {MAX_TYPE} characters"));
        }
        let subject = document.subject.map(|subject| digest(&subject.digest)).transpose()?;
        let annotations = document.annotations.unwrap_or_default();
        let length = annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if subject.is_some() && length > ATTACHED_ANNOTATIONS {
            return Err(format!("its annotations have more than {ATTACHED_ANNOTATIONS} bytes"));
        }
        Ok(Self {
            media_type,
            blobs: parts.blobs,
            manifests: parts.manifests,
            subject,
            artifact_type,
            annotations,
        })
    }
}

/// References in order, each digest once.
#[derive(Default)]
struct Parts {
    blobs: Vec<Part>,
    manifests: Vec<Part>,
    seen: BTreeSet<ContentDigest>,
}

impl Parts {
    fn add_blob(&mut self, descriptor: Descriptor) -> Result<(), String> {
        let media_type = descriptor.media_type.as_deref().unwrap_or_default();
        let required = !FOREIGN.iter().any(|foreign| media_type.starts_with(foreign));
        let part = Part { digest: digest(&descriptor.digest)?, size: descriptor.size, required };
        if self.seen.insert(part.digest.clone()) {
            self.blobs.push(part);
        }
        Ok(())
    }

    /// An index lists manifests. BuildKit's cache exports list layers and a config in one.
    fn add_child(&mut self, descriptor: Descriptor) -> Result<(), String> {
        if known(descriptor.media_type.as_deref().unwrap_or_default()).is_err() {
            return self.add_blob(descriptor);
        }
        let part =
            Part { digest: digest(&descriptor.digest)?, size: descriptor.size, required: true };
        if self.seen.insert(part.digest.clone()) {
            self.manifests.push(part);
        }
        Ok(())
    }
}

fn digest(text: &str) -> Result<ContentDigest, String> {
    let excerpt = crate::error::excerpt(text);
    ContentDigest::parse(text).ok_or_else(|| format!("{excerpt:?} is not a supported digest"))
}

fn known(media_type: &str) -> Result<&'static str, String> {
    let all = [OCI_MANIFEST, OCI_INDEX, OCI_ARTIFACT, DOCKER_MANIFEST, DOCKER_LIST];
    let excerpt = crate::error::excerpt(media_type);
    all.into_iter()
        .find(|known| *known == media_type)
        .ok_or_else(|| format!("{excerpt:?} is not a media type of manifests this registry takes"))
}

/// For fuzzing: whatever is accepted holds only well-formed references.
pub(crate) fn exercise(data: &[u8]) {
    for content_type in
        [None, Some(OCI_MANIFEST), Some(OCI_INDEX), Some(OCI_ARTIFACT), Some(DOCKER_LIST)]
    {
        let Ok(manifest) = Manifest::parse(content_type, data) else { continue };
        let parts = manifest.blobs.iter().chain(&manifest.manifests);
        let distinct: BTreeSet<_> = parts.clone().map(|part| &part.digest).collect();
        assert_eq!(distinct.len(), parts.clone().count(), "a reference was taken twice");
        for digest in parts.map(|part| &part.digest).chain(&manifest.subject) {
            assert_eq!(ContentDigest::parse(&digest.to_string()).as_ref(), Some(digest));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn sha(text: &str) -> String {
        ContentDigest::of(crate::digest::Algorithm::Sha256, text.as_bytes()).to_string()
    }

    fn descriptor(text: &str) -> serde_json::Value {
        json!({ "mediaType": "application/x", "digest": sha(text), "size": text.len() })
    }

    fn parse(content_type: &str, body: &serde_json::Value) -> Result<Manifest, String> {
        Manifest::parse(Some(content_type), body.to_string().as_bytes())
    }

    #[test]
    fn an_image_refers_to_config_and_layers_once() {
        let layers = json!([descriptor("layer"), descriptor("layer"), descriptor("other")]);
        let body = json!({ "schemaVersion": 2, "config": descriptor("config"), "layers": layers });
        let image =
            parse("application/vnd.oci.image.manifest.v1+json; charset=utf-8", &body).unwrap();
        assert_eq!(image.blobs.len(), 3);
        assert_eq!(image.artifact_type.as_deref(), Some("application/x"));
        assert!(image.manifests.is_empty() && image.subject.is_none());
        let without = json!({ "schemaVersion": 2, "config": descriptor("config"), "layers": null });
        assert_eq!(parse(OCI_MANIFEST, &without).unwrap().blobs.len(), 1);
    }

    #[test]
    fn foreign_layers_need_not_be_there() {
        let mut layer = descriptor("layer");
        layer["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        let body = json!({ "schemaVersion": 2, "config": descriptor("c"), "layers": [layer] });
        let image = parse(DOCKER_MANIFEST, &body).unwrap();
        assert_eq!(image.blobs.iter().map(|part| part.required).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn an_index_lists_manifests_and_a_cache_lists_blobs() {
        let mut child = descriptor("child");
        child["mediaType"] = json!(OCI_MANIFEST);
        let body = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child, descriptor("layer")],
            "subject": descriptor("subject"), "annotations": { "a": "b" }, "artifactType": "",
        });
        let index = Manifest::parse(None, body.to_string().as_bytes()).unwrap();
        assert_eq!((index.manifests.len(), index.blobs.len()), (1, 1));
        assert_eq!(index.subject.unwrap().to_string(), sha("subject"));
        assert_eq!(index.artifact_type, None);
        assert_eq!(index.annotations["a"], "b");
    }

    #[test]
    fn hostile_manifests_are_refused() {
        let config = descriptor("c");
        let image = |extra: serde_json::Value| {
            let mut body = json!({ "schemaVersion": 2, "config": config, "layers": [] });
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            parse(OCI_MANIFEST, &body)
        };
        assert!(image(json!({})).is_ok());
        for extra in [
            json!({ "schemaVersion": 1 }),
            json!({ "schemaVersion": null }),
            json!({ "mediaType": OCI_INDEX }),
            json!({ "manifests": [] }),
            json!({ "blobs": [] }),
            json!({ "config": null }),
            json!({ "config": { "digest": "sha256:../x", "size": 1 } }),
            json!({ "config": { "digest": sha("c"), "size": -1 } }),
            json!({ "config": { "digest": sha("c"), "size": 1.5 } }),
            json!({ "config": { "digest": sha("c"), "size": 1e30 } }),
            json!({ "config": { "digest": sha("c") } }),
            json!({ "layers": { } }),
            json!({ "layers": [null] }),
            json!({ "subject": { "digest": "x", "size": 1 } }),
            json!({ "annotations": { "a": 1 } }),
            json!({ "artifactType": "x".repeat(256) }),
        ] {
            assert!(image(extra.clone()).is_err(), "{extra} was accepted");
        }
        for body in
            ["", "null", "[]", "{}", "{\"schemaVersion\":2,\"schemaVersion\":2}", "\u{feff}{}"]
        {
            assert!(Manifest::parse(Some(OCI_MANIFEST), body.as_bytes()).is_err(), "{body}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Manifest::parse(Some(OCI_MANIFEST), deep.as_bytes()).is_err());
        let v1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(parse(v1, &json!({ "schemaVersion": 1 })).is_err());
        let many = vec![config.clone(); DESCRIPTORS + 1];
        assert!(image(json!({ "layers": many })).is_err());
    }
}
