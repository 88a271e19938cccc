//! Attributes of an exporter, as clients write them: text to text, checked once.
//!
//! What cannot be done is refused and never left out in silence. `store` and `unpack` are about an image store beside the builder:
//! there is none, so both are read and change nothing.

use std::collections::BTreeMap;

use cofferdam_image::layer::Compression;

use super::annotations::Annotations;
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
    /// OCI media types instead of Docker's. Known once [`Attributes::settle`] was called.
    pub(crate) oci_types: bool,
    oci_given: Option<bool>,
    /// Attestations as artifacts that refer to their image; known likewise.
    pub(crate) oci_artifact: bool,
    artifact_given: Option<bool>,
    /// Attestations that belong into images only are put in, too.
    pub(crate) inline_attestations: bool,
    /// What names of attestations beside files begin with.
    pub(crate) attestation_prefix: String,
    /// The image is also called this with its digest.
    pub(crate) dangling_prefix: String,
    /// Only when it has no other name.
    pub(crate) dangling_empty_only: bool,
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
    /// Annotations by level, platform and key.
    pub(crate) annotations: Annotations,
    /// What replaces metadata of the result.
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
}

/// Attributes of image exporters; others replace metadata of the result.
const IMAGE_KEYS: [&str; 20] = [
    "attestation-inline",
    "compression",
    "compression-level",
    "danging-name-empty-only",
    "dangling-name-prefix",
    "force-compression",
    "name",
    "name-canonical",
    "oci-artifact",
    "oci-mediatypes",
    "prefer-nondist-layers",
    "push",
    "push-by-digest",
    "registry.insecure",
    "rewrite-timestamp",
    "source-date-epoch",
    "store",
    "tar",
    "unpack",
    "unsafe-internal-store-allow-incomplete",
];
/// The newest numbering of behaviour in which media types are OCI's unless said otherwise.
const OCI_BY_DEFAULT: i64 = 30;

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
        check(kind, attrs)?;
        let names = attrs.get("name").map_or("", String::as_str);
        Ok(Self {
            kind,
            names: names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            push: flag(attrs, "push")?.unwrap_or(false),
            push_by_digest: flag(attrs, "push-by-digest")?.unwrap_or(false),
            insecure: flag(attrs, "registry.insecure")?.unwrap_or(false),
            tar: flag(attrs, "tar")?.unwrap_or(true),
            oci_types: true,
            oci_given: boolean(attrs, "oci-mediatypes")?,
            oci_artifact: true,
            artifact_given: boolean(attrs, "oci-artifact")?,
            inline_attestations: boolean(attrs, "attestation-inline")?
                .unwrap_or(kind == Kind::Image),
            attestation_prefix: attrs.get("attestation-prefix").cloned().unwrap_or_default(),
            dangling_prefix: attrs.get("dangling-name-prefix").cloned().unwrap_or_default(),
            dangling_empty_only: flag(attrs, "danging-name-empty-only")?.unwrap_or(false),
            compression: compression(attrs)?,
            force_compression: flag(attrs, "force-compression")?.unwrap_or(false),
            epoch: epoch(attrs)?,
            epoch_given: attrs.contains_key("source-date-epoch"),
            rewrite_timestamp: boolean(attrs, "rewrite-timestamp")?.unwrap_or(false),
            platform_split: flag(attrs, "platform-split")?,
            delete: mode(attrs)?,
            annotations: Annotations::read(
                attrs.iter().map(|(key, value)| (key.as_str(), value.clone())),
            )?,
            metadata: metadata(kind, attrs),
        })
    }

    /// Decides what was left open, once it is known what the builder shall be like and whether
    /// anything is attested.
    pub(crate) fn settle(&mut self, compatibility: i64, attested: bool) -> Result<(), Failure> {
        let newer = compatibility >= OCI_BY_DEFAULT;
        let by_default = self.kind == Kind::Oci || newer || attested;
        // Docker has no words for what a reader of an eStargz must know; the compression is what was asked for by name.
        let lazy = matches!(self.compression, Compression::Estargz(_));
        self.oci_types = lazy || self.oci_given.unwrap_or(by_default);
        self.oci_artifact = self.artifact_given.unwrap_or(newer && self.oci_types);
        if self.oci_types {
            return Ok(());
        }
        if self.oci_artifact {
            return Err(Failure::invalid(
                "exporter option \"oci-artifact=true\" conflicts with \"oci-mediatypes=false\"",
            ));
        }
        Ok(())
    }

    /// The time to clamp file times to, if any.
    pub(crate) fn file_epoch(&self) -> Option<i64> {
        self.epoch.filter(|_| self.rewrite_timestamp)
    }
}

/// Refuses what an exporter of images does not do.
fn check(kind: Kind, attrs: &BTreeMap<String, String>) -> Result<(), Failure> {
    if matches!(kind, Kind::Tar | Kind::Local) {
        return Ok(());
    }
    for key in ["store", "unpack"] {
        flag(attrs, key)?;
    }
    if flag(attrs, "prefer-nondist-layers")? == Some(true) {
        return Err(Failure::invalid(
            "exporter option \"prefer-nondist-layers=true\" is not supported: all layers are distributed",
        ));
    }
    if kind != Kind::Image && flag(attrs, "push")? == Some(true) {
        return Err(Failure::invalid(
            "exporter option \"push=true\" is for exporter \"image\" only: an archive is not pushed",
        ));
    }
    Ok(())
}

fn mode(attrs: &BTreeMap<String, String>) -> Result<bool, Failure> {
    match attrs.get("mode").map(String::as_str) {
        None | Some("" | "copy") => Ok(false),
        Some("delete") => Ok(true),
        Some(other) => Err(Failure::invalid(format!("invalid local exporter mode {other:?}"))),
    }
}

fn metadata(kind: Kind, attrs: &BTreeMap<String, String>) -> BTreeMap<String, Vec<u8>> {
    if matches!(kind, Kind::Tar | Kind::Local) {
        return BTreeMap::new();
    }
    attrs
        .iter()
        .filter(|(key, _)| !IMAGE_KEYS.contains(&key.as_str()) && !key.starts_with("annotation"))
        .map(|(key, value)| (key.clone(), value.clone().into_bytes()))
        .collect()
}

/// A boolean attribute that needs a value.
fn boolean(attrs: &BTreeMap<String, String>, key: &str) -> Result<Option<bool>, Failure> {
    match attrs.get(key).map(String::as_str) {
        Some("") => Err(Failure::invalid(format!("non-bool value specified for {key}"))),
        _ => flag(attrs, key),
    }
}

/// A boolean attribute; given without a value it is true.
pub(crate) fn flag(attrs: &BTreeMap<String, String>, key: &str) -> Result<Option<bool>, Failure> {
    match attrs.get(key).map(String::as_str) {
        None => Ok(None),
        Some("" | "true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(Some(true)),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => Err(Failure::invalid(format!("non-bool value {other:?} for {key}"))),
    }
}

/// How layers are compressed.
pub(crate) fn compression(attrs: &BTreeMap<String, String>) -> Result<Compression, Failure> {
    let level = match attrs.get("compression-level") {
        Some(text) => Some(text.parse::<u32>().map_err(|_| {
            Failure::invalid(format!("non-int value {text:?} specified for compression-level"))
        })?),
        None => None,
    };
    match attrs.get("compression").map_or("gzip", String::as_str) {
        "gzip" => Ok(level.map_or(Compression::GZIP, |l| Compression::Gzip(l.min(9)))),
        "estargz" => {
            Ok(level.map_or(Compression::ESTARGZ, |level| Compression::Estargz(level.min(9))))
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(kind: &str, key: &str, value: &str) -> Result<Attributes, Failure> {
        Attributes::parse(kind, &BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for (kind, key, value) in [
            ("image", "prefer-nondist-layers", "true"),
            ("oci", "prefer-nondist-layers", "1"),
            ("image", "prefer-nondist-layers", "perhaps"),
            ("oci", "push", "true"),
            ("docker", "push", ""),
            ("image", "push", "yes"),
            ("image", "unpack", "yes"),
            ("oci", "store", "2"),
        ] {
            let refused = parse(kind, key, value).map(|_| ()).unwrap_err();
            assert!(refused.message().contains(key), "{kind} {key}={value}: {refused}");
        }
    }

    #[test]
    fn what_changes_nothing_is_accepted() {
        for (kind, key, value) in [
            ("image", "prefer-nondist-layers", "false"),
            ("oci", "push", "false"),
            ("image", "unpack", "true"),
            ("image", "store", ""),
            ("local", "push", "true"),
        ] {
            assert!(parse(kind, key, value).is_ok(), "{kind} {key}={value}");
        }
        assert!(parse("image", "push", "t").unwrap().push);
    }
}
