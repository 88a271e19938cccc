//! Media types of the documents and layers this product reads and writes.
//!
//! From the [OCI image specification](https://github.com/opencontainers/image-spec/blob/main/media-types.md)
//! and Docker's image manifest V2, schema 2. Other types are opaque: they may be carried, never parsed.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The empty JSON object, config of artifacts.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// OCI layer without compression.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer without compression.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// An in-toto attestation statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// Whether `media_type` names an image manifest.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether `media_type` names an index (manifest list).
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether `media_type` names an image config.
#[must_use]
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Whether `media_type` names a file system layer, foreign ones included.
#[must_use]
pub fn is_layer(media_type: &str) -> bool {
    [OCI_LAYER, OCI_FOREIGN, DOCKER_LAYER, DOCKER_FOREIGN].into_iter().any(|base| {
        media_type
            .strip_prefix(base)
            .is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    })
}

/// Whether `media_type` names a layer that is not to be pushed unless asked for.
#[must_use]
pub fn is_foreign_layer(media_type: &str) -> bool {
    is_layer(media_type)
        && (media_type.starts_with(OCI_FOREIGN) || media_type.starts_with(DOCKER_FOREIGN))
}

/// The other family's name for the same kind of document or layer: OCI when `oci`, else Docker.
/// Types that have no counterpart stay as they are.
#[must_use]
pub fn converted(media_type: &str, oci: bool) -> &str {
    const PAIRS: [(&str, &str); 7] = [
        (OCI_MANIFEST, DOCKER_MANIFEST),
        (OCI_INDEX, DOCKER_INDEX),
        (OCI_CONFIG, DOCKER_CONFIG),
        (OCI_LAYER, DOCKER_LAYER),
        (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP),
        (OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ),
    ];
    PAIRS
        .iter()
        .find(|(a, b)| *a == media_type || *b == media_type)
        .map_or(media_type, |(a, b)| if oci { a } else { b })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_recognised_exactly() {
        for good in [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER_GZIP] {
            assert!(is_layer(good) && !is_foreign_layer(good));
        }
        assert!(is_foreign_layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"));
        assert!(!is_layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"));
        assert_eq!(converted(DOCKER_LAYER_GZIP, true), OCI_LAYER_GZIP);
        assert_eq!(converted(OCI_INDEX, false), DOCKER_INDEX);
        assert_eq!(converted(IN_TOTO, false), IN_TOTO);
    }
}
