//! Attestation manifests: statements about one platform's image, beside it in its index.
//!
//! Follows what Docker's tools read: a manifest of platform `unknown/unknown` whose descriptor
//! names the image it is about, with a layer for each statement.

use base64::Engine as _;
use cofferdam_image::{Descriptor, ImageConfig, Manifest, Platform, media};
use cofferdam_provenance::{Subject, image_purl};

use super::image::{Document, PlatformImage};
use super::{Export, Part};
use crate::attest;
use crate::failure::Failure;

/// What an attestation manifest is as an artifact.
const ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const EMPTY: &[u8] = b"{}";

/// Statements about an image.
pub(super) struct AttestedImage {
    /// The statements and the config.
    pub(super) blobs: Vec<Document>,
    /// The manifest; its descriptor is as in an index.
    pub(super) manifest: Document,
}

/// Statements about `image`, which is called `names`. The budget is that of all images of the result.
pub(super) async fn make(
    export: &Export,
    part: &Part,
    image: &PlatformImage,
    names: &[String],
    budget: &mut attest::Budget,
) -> Result<AttestedImage, Failure> {
    let about = &image.manifest.descriptor;
    let subjects = subjects(names, part, about)?;
    let descriptors: Vec<Descriptor> =
        image.layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let layers = part.snapshot.as_ref().map(|files| (files, descriptors.as_slice()));
    let statements = attest::statements(&part.attestations, &subjects, layers, budget).await?;
    let oci = export.attributes.oci_types;
    let mut blobs = Vec::with_capacity(statements.len() + 1);
    let mut layers = Vec::with_capacity(statements.len());
    for (_, statement) in statements {
        let bytes = serde_json::to_vec(&statement).map_err(Failure::internal)?;
        let mut descriptor = Descriptor::of(media::IN_TOTO, &bytes);
        if oci {
            descriptor.annotations.insert(PREDICATE_TYPE.to_owned(), statement.predicate_type);
        }
        layers.push(descriptor.clone());
        blobs.push(Document { descriptor, bytes });
    }
    let config = if export.attributes.oci_artifact { empty() } else { config(&layers, oci)? };
    let media_type = if oci { media::OCI_MANIFEST } else { media::DOCKER_MANIFEST };
    let mut manifest = Manifest::new(media_type, config.descriptor.clone(), layers);
    if export.attributes.oci_artifact {
        manifest.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        manifest.subject = Some(Descriptor::new(&about.media_type, about.digest, about.size));
    }
    blobs.push(config);
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(Failure::internal)?;
    let mut descriptor = Descriptor::of(media_type, &bytes);
    for (key, value) in [
        (REFERENCE_TYPE, "attestation-manifest".to_owned()),
        (REFERENCE_DIGEST, about.digest.to_string()),
    ] {
        descriptor.annotations.insert(key.to_owned(), value);
    }
    descriptor.platform = Some(Platform::new("unknown", "unknown", ""));
    export.note(format!("exporting attestation manifest {}", descriptor.digest));
    Ok(AttestedImage { blobs, manifest: Document { descriptor, bytes } })
}

fn subjects(names: &[String], part: &Part, about: &Descriptor) -> Result<Vec<Subject>, Failure> {
    let subject = |name: &String| {
        let name = image_purl("docker", name, Some(&part.platform), &[]).map_err(Failure::of)?;
        Ok(Subject::new(name, &about.digest))
    };
    names.iter().map(subject).collect()
}

/// The config of an artifact, which says nothing.
fn empty() -> Document {
    let mut descriptor = Descriptor::of(media::OCI_EMPTY, EMPTY);
    let data = base64::engine::general_purpose::STANDARD.encode(EMPTY);
    descriptor.extra.insert("data".to_owned(), data.into());
    Document { descriptor, bytes: EMPTY.to_vec() }
}

/// The config of an image that nobody runs.
fn config(layers: &[Descriptor], oci: bool) -> Result<Document, Failure> {
    let mut config = ImageConfig::new(&Platform::new("unknown", "unknown", ""));
    config.rootfs.kind = "layers".to_owned();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.digest).collect();
    config.config = Default::default();
    let bytes = config.to_vec().map_err(Failure::of)?;
    let media_type = if oci { media::OCI_CONFIG } else { media::DOCKER_CONFIG };
    Ok(Document { descriptor: Descriptor::of(media_type, &bytes), bytes })
}
