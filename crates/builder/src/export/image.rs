//! An image from an output: config, manifest and, for several platforms, an index.

use std::collections::BTreeMap;

use base64::Engine as _;
use chrono::{DateTime, SecondsFormat, Utc};
use cofferdam_digest::Digest;
use cofferdam_image::{Descriptor, History, ImageConfig, Index, Manifest, media};

use super::attested::{self, AttestedImage};
use super::layers::{self, PackedLayer, Packing};
use super::{Annotations, Export, Kind, Output, Part, Refs, Response};
use crate::attest::Budget;
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
    pub(super) attested: Vec<AttestedImage>,
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

    /// Documents that are blobs: configs and statements.
    pub(super) fn blobs(&self) -> Vec<&Document> {
        let configs = self.images.iter().map(|image| &image.config);
        configs.chain(self.attested.iter().flat_map(|image| &image.blobs)).collect()
    }

    /// Manifests, those that others refer to first.
    pub(super) fn manifests(&self) -> Vec<&Document> {
        let images = self.images.iter().map(|image| &image.manifest);
        let attested = self.attested.iter().map(|image| &image.manifest);
        images.chain(attested).chain(&self.index).collect()
    }

    /// The response keys every image exporter gives.
    pub(super) fn response(
        &self,
        names: &[String],
        root: &Descriptor,
    ) -> Result<Response, Failure> {
        let mut response = Response::new();
        response.insert("containerimage.digest".into(), root.digest.to_string());
        if let (None, Some(image)) = (&self.index, self.images.first()) {
            let digest = image.config.descriptor.digest.to_string();
            response.insert("containerimage.config.digest".into(), digest);
        }
        let json = serde_json::to_vec(root).map_err(Failure::internal)?;
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
    if attributes.kind == Kind::Docker && matches!(output.refs, Refs::Map(_)) {
        return Err(Failure::invalid(
            "docker exporter does not currently support exporting manifest lists",
        ));
    }
    let mut annotations = attributes.annotations.clone();
    let stated = output.metadata.iter();
    annotations.merge(Annotations::read(
        stated.map(|(key, value)| (key.as_str(), String::from_utf8_lossy(value).into_owned())),
    )?);
    let single = matches!(output.refs, Refs::Single(_));
    let has = |id: &str| single || parts.iter().any(|part| part.id == id);
    annotations.check(has, attributes.oci_types)?;
    let is_attested = |part: &Part| {
        let inline = attributes.inline_attestations;
        part.attestations.iter().any(|attestation| inline || !attestation.is_inline_only())
    };
    let indexed = !single || parts.iter().any(is_attested);
    if indexed && !attributes.oci_types && !output.attestations.is_empty() {
        return Err(Failure::invalid("cannot export attestations with \"oci-mediatypes=false\""));
    }
    let of_all = annotations.levels(None);
    let annotates_index = !of_all.index.is_empty() || !of_all.index_descriptor.is_empty();
    if annotates_index && !indexed {
        return Err(Failure::invalid("index annotations not supported for single platform export"));
    }
    let mut images = Vec::with_capacity(parts.len());
    for part in parts {
        images.push(platform_image(export, part, &annotations, !indexed).await?);
    }
    let mut made = Image { images, attested: Vec::new(), index: None };
    if !indexed {
        return Ok(made);
    }
    let names = names(export, output);
    let mut budget = Budget::default();
    for (part, image) in parts.iter().zip(&made.images) {
        if !part.attestations.is_empty() {
            made.attested.push(attested::make(export, part, image, &names, &mut budget).await?);
        }
    }
    made.index = Some(index(export, parts, &made, &annotations)?);
    Ok(made)
}

async fn platform_image(
    export: &Export,
    part: &Part,
    annotations: &Annotations,
    alone: bool,
) -> Result<PlatformImage, Failure> {
    let attributes = &export.attributes;
    let packing = Packing {
        compression: attributes.compression,
        force: attributes.force_compression,
        epoch: attributes.file_epoch(),
        oci_types: attributes.oci_types,
    };
    let packed = layers::pack(&export.context.blocks, &part.tree, packing);
    let layers = export.step("exporting layers", packed).await?;
    let config = config(part, &layers, attributes.epoch)?;
    let media_type = config_type(attributes.oci_types);
    let config = Document { descriptor: Descriptor::of(media_type, &config), bytes: config };
    // What stands alone is no platform's in particular.
    let levels = annotations.levels((!alone).then_some(&part.platform));
    let mut manifest = manifest(export, &config, &layers, levels.manifest)?;
    manifest.descriptor.annotations = levels.manifest_descriptor;
    manifest.descriptor.platform = Some(part.platform.clone());
    export.note(format!("exporting manifest {}", manifest.descriptor.digest));
    export.note(format!("exporting config {}", config.descriptor.digest));
    Ok(PlatformImage { manifest, config, layers })
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
    annotations: BTreeMap<String, String>,
) -> Result<Document, Failure> {
    let oci = export.attributes.oci_types;
    let media_type = if oci { media::OCI_MANIFEST } else { media::DOCKER_MANIFEST };
    let descriptors = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let mut manifest = Manifest::new(media_type, config.descriptor.clone(), descriptors);
    manifest.annotations = annotations;
    let bytes = indented(&manifest)?;
    Ok(Document { descriptor: Descriptor::of(media_type, &bytes), bytes })
}

fn index(
    export: &Export,
    parts: &[Part],
    made: &Image,
    annotations: &Annotations,
) -> Result<Document, Failure> {
    let oci = export.attributes.oci_types;
    let media_type = if oci { media::OCI_INDEX } else { media::DOCKER_INDEX };
    let mut manifests: Vec<Descriptor> = parts
        .iter()
        .zip(&made.images)
        .map(|(part, image)| {
            let mut descriptor = image.manifest.descriptor.clone();
            descriptor.platform = Some(part.platform.clone());
            descriptor
        })
        .collect();
    manifests.extend(made.attested.iter().map(|image| image.manifest.descriptor.clone()));
    let mut index = Index::new(media_type, manifests);
    let levels = annotations.levels(None);
    index.annotations = levels.index;
    let bytes = indented(&index)?;
    let mut descriptor = Descriptor::of(media_type, &bytes);
    descriptor.annotations = levels.index_descriptor;
    export.note(format!("exporting manifest list {}", descriptor.digest));
    Ok(Document { descriptor, bytes })
}

/// The image config: the frontend's, with layers, history and times put in.
fn config(part: &Part, layers: &[PackedLayer], epoch: Option<i64>) -> Result<Vec<u8>, Failure> {
    let mut config = match &part.config {
        Some(bytes) if bytes == b"null" => {
            return Err(Failure::invalid("invalid null image config for export"));
        }
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
