//! Images made for the tests: a layer, a config, a manifest, and a layout clients can copy.

use std::path::Path;

use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha512:{}", hex::encode(sha2::Sha512::digest(bytes)))
}

/// `count` bytes that no compression makes smaller and every seed makes differently.
pub(crate) fn noise(seed: &str, count: usize) -> Vec<u8> {
    use sha2::Digest as _;
    let mut bytes = Vec::with_capacity(count + 64);
    let mut block = 0_u64;
    while bytes.len() < count {
        let mut hash = sha2::Sha512::new();
        hash.update(seed);
        hash.update(block.to_le_bytes());
        bytes.extend_from_slice(&hash.finalize());
        block += 1;
    }
    bytes.truncate(count);
    bytes
}

/// A descriptor of `bytes`.
pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(bytes), "size": bytes.len() })
}

/// An image of one layer with one file.
pub(crate) struct Image {
    pub(crate) config: Vec<u8>,
    pub(crate) layer: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Image {
    /// An image whose file holds `size` bytes that depend on `seed`.
    pub(crate) fn new(seed: &str, size: usize) -> Self {
        Self::for_architecture(seed, size, "amd64")
    }

    pub(crate) fn for_architecture(seed: &str, size: usize, architecture: &str) -> Self {
        let content = noise(seed, size);
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "file", content.as_slice()).unwrap();
        let tar = archive.into_inner().unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        let layer = encoder.finish().unwrap();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/file"] },
            "created": "2024-01-01T00:00:00Z",
            "history": [{ "created": "2024-01-01T00:00:00Z", "created_by": seed }],
            "rootfs": { "type": "layers", "diff_ids": [sha256(&tar)] },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)],
        });
        Self { config, layer, manifest: manifest.to_string().into_bytes() }
    }

    pub(crate) fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// The manifest with more fields.
    pub(crate) fn manifest_with(&self, extra: Value) -> Vec<u8> {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        let Value::Object(extra) = extra else { panic!("fields") };
        manifest.as_object_mut().unwrap().extend(extra);
        manifest.to_string().into_bytes()
    }
}

/// An index of `images`, one per architecture.
pub(crate) fn index(images: &[(&Image, &str)]) -> Vec<u8> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(image, architecture)| {
            let mut child = descriptor(MANIFEST, &image.manifest);
            child["platform"] = json!({ "os": "linux", "architecture": architecture });
            child
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
        .to_string()
        .into_bytes()
}

/// Writes an OCI layout in which `top` (a manifest or an index) has the tag `latest`.
pub(crate) fn layout(dir: &Path, images: &[&Image], top: &[u8], media_type: &str) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let write = |bytes: &[u8]| {
        let digest = sha256(bytes);
        std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
    };
    for image in images {
        [&image.config, &image.layer, &image.manifest].into_iter().for_each(|bytes| write(bytes));
    }
    write(top);
    let mut entry = descriptor(media_type, top);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
}
