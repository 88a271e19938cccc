//! An image from an output: config, manifest and, for several platforms, an index.

use std::collections::BTreeMap;

use base64::Engine as _;
use chrono::{DateTime, SecondsFormat, Utc};
use cofferdam_digest::Digest;
use cofferdam_image::{Descriptor, History, ImageConfig, Index, Manifest, media};

use super::layers::{self, PackedLayer, Packing};
use super::{Export, Kind, Output, Part, Refs, Response};
use crate::failure::Failure;

/// What frontends put under this key names the image when the client asks for `*`.
const NAME_KEY: &str = "image.name";

/// A document of the image: descriptor and bytes.
pub(super) struct Document {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
}

/// One platform's image.
pub(super) struct PlatformImage {
    pub(super) manifest: Document,
    pub(super) config: Document,
    pub(super) layers: Vec<PackedLayer>,
}

/// A finished image.
pub(super) struct Image {
    pub(super) images: Vec<PlatformImage>,
    pub(super) index: Option<Document>,
}

impl Image {
    /// What a name of the image refers to.
    pub(super) fn root(&self) -> Result<&Document, Failure> {
        self.index
            .as_ref()
            .or_else(|| self.images.first().map(|image| &image.manifest))
            .ok_or_else(|| Failure::invalid("nothing to export"))
    }

    /// The response keys every image exporter gives.
    pub(super) fn response(&self, names: &[String]) -> Result<Response, Failure> {
        let root = self.root()?;
        let mut response = Response::new();
        response.insert("containerimage.digest".into(), root.descriptor.digest.to_string());
        if let (None, Some(image)) = (&self.index, self.images.first()) {
            let digest = image.config.descriptor.digest.to_string();
            response.insert("containerimage.config.digest".into(), digest);
        }
        let json = serde_json::to_vec(&root.descriptor).map_err(Failure::internal)?;
        let text = base64::engine::general_purpose::STANDARD.encode(json);
        response.insert("containerimage.descriptor".into(), text);
        if !names.is_empty() {
            response.insert(NAME_KEY.into(), names.join(","));
        }
        Ok(response)
    }
}

/// The names to give the image.
pub(super) fn names(export: &Export, output: &Output) -> Vec<String> {
    if export.attributes.names == ["*"] {
        let named = output.metadata.get(NAME_KEY);
        let named = named.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        return named.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
    }
    export.attributes.names.clone()
}

/// Makes the image of an output.
pub(super) async fn make(
    export: &Export,
    output: &Output,
    parts: &[Part],
) -> Result<Image, Failure> {
    let attributes = &export.attributes;
    let packing = Packing {
        compression: attributes.compression,
        force: attributes.force_compression,
        epoch: attributes.file_epoch(),
        oci_types: attributes.oci_types,
    };
    let mut images = Vec::with_capacity(parts.len());
    for part in parts {
        let packed = layers::pack(&export.context.store, &part.tree, packing);
        let layers = export.step("exporting layers", packed).await?;
        let config = config(part, &layers, attributes.epoch)?;
        let media_type = config_type(attributes.oci_types);
        let config = Document { descriptor: Descriptor::of(media_type, &config), bytes: config };
        let manifest = manifest(export, &config, &layers)?;
        export.note(format!("exporting manifest {}", manifest.descriptor.digest));
        export.note(format!("exporting config {}", config.descriptor.digest));
        images.push(PlatformImage { manifest, config, layers });
    }
    let index = match output.refs {
        Refs::Map(_) if attributes.kind == Kind::Docker => {
            return Err(Failure::invalid(
                "docker exporter does not currently support exporting manifest lists",
            ));
        }
        Refs::Map(_) => Some(index(export, parts, &images)?),
        Refs::Single(_) => None,
    };
    Ok(Image { images, index })
}

const fn config_type(oci: bool) -> &'static str {
    if oci { media::OCI_CONFIG } else { media::DOCKER_CONFIG }
}

/// Documents are indented as BuildKit's are, so that people can read them.
fn indented(value: &impl serde::Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec_pretty(value).map_err(Failure::internal)
}

fn manifest(
    export: &Export,
    config: &Document,
    layers: &[PackedLayer],
) -> Result<Document, Failure> {
    let oci = export.attributes.oci_types;
    let media_type = if oci { media::OCI_MANIFEST } else { media::DOCKER_MANIFEST };
    let descriptors = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let mut manifest = Manifest::new(media_type, config.descriptor.clone(), descriptors);
    manifest.annotations = export.attributes.manifest_annotations();
    let bytes = indented(&manifest)?;
    Ok(Document { descriptor: Descriptor::of(media_type, &bytes), bytes })
}

fn index(export: &Export, parts: &[Part], images: &[PlatformImage]) -> Result<Document, Failure> {
    let oci = export.attributes.oci_types;
    let media_type = if oci { media::OCI_INDEX } else { media::DOCKER_INDEX };
    let manifests = parts
        .iter()
        .zip(images)
        .map(|(part, image)| {
            let mut descriptor = image.manifest.descriptor.clone();
            descriptor.platform = Some(part.platform.clone());
            descriptor
        })
        .collect();
    let mut index = Index::new(media_type, manifests);
    index.annotations = export.attributes.index_annotations();
    let bytes = indented(&index)?;
    let descriptor = Descriptor::of(media_type, &bytes);
    export.note(format!("exporting manifest list {}", descriptor.digest));
    Ok(Document { descriptor, bytes })
}

/// The image config: the frontend's, with layers, history and times put in.
fn config(part: &Part, layers: &[PackedLayer], epoch: Option<i64>) -> Result<Vec<u8>, Failure> {
    let mut config = match &part.config {
        Some(bytes) => ImageConfig::parse(bytes).map_err(Failure::of)?,
        None => ImageConfig::new(&part.platform),
    };
    if config.platform.os.is_empty() != config.platform.architecture.is_empty() {
        return Err(Failure::invalid(
            "invalid image config: os and architecture must be specified together",
        ));
    }
    if config.platform.os.is_empty() {
        config.platform = part.platform.clone();
    }
    config.rootfs.kind = "layers".to_owned();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect::<Vec<Digest>>();
    let limit = epoch.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    complete_history(&mut config.history, layers, limit);
    for entry in &mut config.history {
        if let Some(created) = &mut entry.created {
            clamp(created, limit);
        }
    }
    config.created = match limit {
        Some(limit) => Some(text(limit)),
        None => config.history.iter().rev().find_map(|entry| entry.created.clone()),
    };
    config.to_vec().map_err(Failure::of)
}

/// Brings the history in line with the layers: each layer has one entry that is not empty.
fn complete_history(
    history: &mut Vec<History>,
    layers: &[PackedLayer],
    epoch: Option<DateTime<Utc>>,
) {
    let time = |layer: &PackedLayer| match epoch {
        Some(epoch) if !layer.pulled => text(epoch),
        _ => text(layer.created),
    };
    let mut layer = layers.iter();
    let mut last: Option<String> = None;
    for entry in history.iter_mut() {
        if !entry.empty_layer {
            match layer.next() {
                Some(layer) => {
                    entry.created.get_or_insert_with(|| time(layer));
                }
                None => entry.empty_layer = true,
            }
        }
        if entry.created.is_none() {
            entry.created.clone_from(&last);
        }
        last.clone_from(&entry.created);
    }
    for layer in layer {
        history.push(History {
            created: Some(time(layer)),
            comment: "buildkit.exporter.image.v0".to_owned(),
            ..History::default()
        });
    }
    // Entries before the first layer happened when it did, as far as anybody can tell.
    let first = history.iter().find_map(|entry| entry.created.clone());
    for entry in history.iter_mut().take_while(|entry| entry.created.is_none()) {
        entry.created.clone_from(&first);
    }
}

fn clamp(created: &mut String, limit: Option<DateTime<Utc>>) {
    if let (Some(limit), Ok(time)) = (limit, DateTime::parse_from_rfc3339(created))
        && time > limit
    {
        *created = text(limit);
    }
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

impl Export {
    /// Mentions a finished piece of work.
    pub(super) fn note(&self, text: String) {
        self.log.status(cofferdam_solver::Status::begin(text, "").done());
    }
}

/// Annotations every descriptor in a layout's index carries.
pub(super) fn name_annotations(name: &str, tag: Option<&str>) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    annotations.insert("io.containerd.image.name".to_owned(), name.to_owned());
    if let Some(tag) = tag {
        annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.to_owned());
    }
    annotations
}
