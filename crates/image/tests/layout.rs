//! Image archives, as other programs read them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read;

use cofferdam_digest::Digest;
use cofferdam_image::layout::{DockerImage, LayoutError, LayoutWriter};
use cofferdam_image::{Descriptor, Index, Manifest, media};

fn write(docker: bool) -> Vec<u8> {
    let (config, layer) = (b"{}".as_slice(), vec![7_u8; 1000]);
    let config_descriptor = Descriptor::of(media::OCI_CONFIG, config);
    let layer_descriptor = Descriptor::of(media::OCI_LAYER, &layer);
    let manifest = Manifest::new(
        media::OCI_MANIFEST,
        config_descriptor.clone(),
        vec![layer_descriptor.clone()],
    );
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let manifest_descriptor = Descriptor::of(media::OCI_MANIFEST, &manifest);
    let mut writer = LayoutWriter::new(Vec::new(), Some(1000)).unwrap();
    writer.blob(&layer_descriptor.digest, 1000, layer.as_slice()).unwrap();
    writer.blob(&layer_descriptor.digest, 1000, layer.as_slice()).unwrap();
    writer.blob(&config_descriptor.digest, 2, config).unwrap();
    writer.blob(&manifest_descriptor.digest, manifest.len() as u64, manifest.as_slice()).unwrap();
    assert!(writer.contains(&layer_descriptor.digest));
    let image = DockerImage {
        config: config_descriptor.digest,
        repo_tags: vec!["docker.io/library/x:1".to_owned()],
        layers: vec![layer_descriptor.digest],
    };
    let images = if docker { vec![image] } else { Vec::new() };
    writer.finish(&Index::new(media::OCI_INDEX, vec![manifest_descriptor]), &images).unwrap()
}

fn entries(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 1000);
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        assert!(found.insert(name, content).is_none(), "an entry is there twice");
    }
    found
}

#[test]
fn layouts_hold_every_blob_once_under_its_name() {
    let (oci, docker) = (entries(&write(false)), entries(&write(true)));
    assert_eq!(
        oci.keys().filter(|name| name.starts_with("blobs/sha256/") && name.len() > 20).count(),
        3
    );
    for (name, content) in &oci {
        if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            assert_eq!(Digest::of(content).hex(), hex);
        }
    }
    assert_eq!(oci["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    assert!(!oci.contains_key("manifest.json"));
    let list: serde_json::Value = serde_json::from_slice(&docker["manifest.json"]).unwrap();
    assert_eq!(list[0]["RepoTags"][0], "docker.io/library/x:1");
    for path in [&list[0]["Config"], &list[0]["Layers"][0]] {
        assert!(docker.contains_key(path.as_str().unwrap()));
    }
    assert_eq!(write(true), write(true));
}

#[test]
fn blobs_must_be_what_they_are_called() {
    for (digest, size, content) in [
        (Digest::of(b"a"), 1, &b"b"[..]),
        (Digest::of(b"a"), 2, b"a"),
        (Digest::of(b"a"), 1, b"ab"),
    ] {
        let mut writer = LayoutWriter::new(Vec::new(), None).unwrap();
        assert!(matches!(writer.blob(&digest, size, content), Err(LayoutError::Mismatch { .. })));
    }
}
