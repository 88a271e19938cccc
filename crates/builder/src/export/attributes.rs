//! Attributes of an exporter, as clients write them: text to text, checked once.

use std::collections::BTreeMap;

use cofferdam_image::layer::Compression;

use crate::failure::Failure;

/// Which exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Push to a registry, or only make the image.
    Image,
    /// An OCI layout.
    Oci,
    /// A Docker archive.
    Docker,
    /// A tar of the files.
    Tar,
    /// A directory of the client.
    Local,
}

/// An exporter's attributes.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    /// Which exporter.
    pub(crate) kind: Kind,
    /// Names to give the image; `*` stands for the frontend's.
    pub(crate) names: Vec<String>,
    /// Push to the registry.
    pub(crate) push: bool,
    /// Push without a tag.
    pub(crate) push_by_digest: bool,
    /// Accept plain HTTP and any certificate.
    pub(crate) insecure: bool,
    /// One archive instead of blobs in the client's content store.
    pub(crate) tar: bool,
    /// OCI media types instead of Docker's.
    pub(crate) oci_types: bool,
    /// How layers made here are compressed.
    pub(crate) compression: Compression,
    /// Compress layers again that came in another form.
    pub(crate) force_compression: bool,
    /// No time in the image is later than this.
    pub(crate) epoch: Option<i64>,
    /// Whether the client said anything about that time, even that there is none.
    pub(crate) epoch_given: bool,
    /// Clamp times of files too.
    pub(crate) rewrite_timestamp: bool,
    /// A subdirectory per platform.
    pub(crate) platform_split: Option<bool>,
    /// Mirror instead of merge, for directories.
    pub(crate) delete: bool,
    /// Annotations by level and key.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Attributes {
    /// Checks attributes of exporter type `kind`.
    pub(crate) fn parse(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let kind = match kind {
            "image" | "moby" => Kind::Image,
            "oci" => Kind::Oci,
            "docker" => Kind::Docker,
            "tar" => Kind::Tar,
            "local" => Kind::Local,
            other => {
                return Err(Failure::not_found(format!("exporter {other:?} could not be found")));
            }
        };
        let names = attrs.get("name").map_or("", String::as_str);
        Ok(Self {
            kind,
            names: names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            push: flag(attrs, "push")?.unwrap_or(false),
            push_by_digest: flag(attrs, "push-by-digest")?.unwrap_or(false),
            insecure: flag(attrs, "registry.insecure")?.unwrap_or(false),
            tar: flag(attrs, "tar")?.unwrap_or(true),
            oci_types: flag(attrs, "oci-mediatypes")?.unwrap_or(true),
            compression: compression(attrs)?,
            force_compression: flag(attrs, "force-compression")?.unwrap_or(false),
            epoch: epoch(attrs)?,
            epoch_given: attrs.contains_key("source-date-epoch"),
            rewrite_timestamp: flag(attrs, "rewrite-timestamp")?.unwrap_or(false),
            platform_split: flag(attrs, "platform-split")?,
            delete: attrs.get("mode").is_some_and(|mode| mode == "delete"),
            annotations: attrs
                .iter()
                .filter_map(|(key, value)| {
                    let key = key.strip_prefix("annotation")?;
                    Some((key.to_owned(), value.clone()))
                })
                .collect(),
        })
    }

    /// The time to clamp file times to, if any.
    pub(crate) fn file_epoch(&self) -> Option<i64> {
        self.epoch.filter(|_| self.rewrite_timestamp)
    }

    /// Annotations of the manifest: `annotation.key` and `annotation-manifest.key`.
    pub(crate) fn manifest_annotations(&self) -> BTreeMap<String, String> {
        self.annotations_of(&[".", "-manifest."])
    }

    /// Annotations of the index: `annotation-index.key`.
    pub(crate) fn index_annotations(&self) -> BTreeMap<String, String> {
        self.annotations_of(&["-index."])
    }

    fn annotations_of(&self, prefixes: &[&str]) -> BTreeMap<String, String> {
        self.annotations
            .iter()
            .filter_map(|(key, value)| {
                let key = prefixes.iter().find_map(|prefix| key.strip_prefix(prefix))?;
                Some((key.to_owned(), value.clone()))
            })
            .collect()
    }
}

/// A boolean attribute; given without a value it is true.
fn flag(attrs: &BTreeMap<String, String>, key: &str) -> Result<Option<bool>, Failure> {
    match attrs.get(key).map(String::as_str) {
        None => Ok(None),
        Some("" | "true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(Some(true)),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => Err(Failure::invalid(format!("non-bool value {other:?} for {key}"))),
    }
}

fn compression(attrs: &BTreeMap<String, String>) -> Result<Compression, Failure> {
    let level = match attrs.get("compression-level") {
        Some(text) => Some(text.parse::<u32>().map_err(|_| {
            Failure::invalid(format!("non-int value {text:?} specified for compression-level"))
        })?),
        None => None,
    };
    match attrs.get("compression").map_or("gzip", String::as_str) {
        "gzip" | "estargz" => Ok(level.map_or(Compression::GZIP, |l| Compression::Gzip(l.min(9)))),
        "zstd" => {
            let level = level.and_then(|level| i32::try_from(level.min(22)).ok());
            Ok(level.map_or(Compression::ZSTD, Compression::Zstd))
        }
        "uncompressed" => Ok(Compression::Uncompressed),
        other => Err(Failure::invalid(format!("unsupported layer compression type {other:?}"))),
    }
}

fn epoch(attrs: &BTreeMap<String, String>) -> Result<Option<i64>, Failure> {
    match attrs.get("source-date-epoch").map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Failure::invalid(format!("invalid SOURCE_DATE_EPOCH {text:?}"))),
    }
}
