//! The image exporter: to registries.
//!
//! Layers and config go first, manifests after them and the index last, so that a name never
//! refers to something that is not there yet.

use std::sync::Arc;

use bytes::Bytes;
use cofferdam_image::Reference;
use cofferdam_image::registry::{RegistryError, Repository};
use cofferdam_store::Store;
use futures::{StreamExt, TryStreamExt};

use super::image::{self, Document, Image};
use super::layers::{Content, PackedLayer};
use super::{Export, Output, Part, Response};
use crate::blocking::blocking;
use crate::failure::Failure;

/// Blobs uploaded at once.
const PARALLEL_PUSHES: usize = 4;

/// Makes the image and pushes it under each name when asked to.
pub(super) async fn export(
    export: &Export,
    output: &Output,
    parts: &[Part],
) -> Result<Response, Failure> {
    let image = image::make(export, output, parts).await?;
    let root = &image.root()?.descriptor;
    let mut names = image::names(export, output);
    let attributes = &export.attributes;
    if !(attributes.dangling_prefix.is_empty()
        || attributes.dangling_empty_only && !names.is_empty())
    {
        names.push(format!("{}@{}", attributes.dangling_prefix, root.digest));
    }
    export.record(&image, root).await?;
    if export.attributes.push && names.is_empty() {
        return Err(Failure::invalid("pushing an image needs a name: use name=…"));
    }
    for name in &names {
        let reference = Reference::parse(name).map_err(Failure::of)?;
        export.note(format!("naming to {reference}"));
        if export.attributes.push {
            push(export, &image, &reference).await?;
        }
    }
    image.response(&names, root)
}

async fn push(export: &Export, image: &Image, reference: &Reference) -> Result<(), Failure> {
    let repository = export.context.repository_for_push(
        reference,
        export.sessions.clone(),
        export.attributes.insecure,
    )?;
    let root = image.root()?;
    let layers = push_blobs(&export.context.store, &repository, image);
    export.step("pushing layers", layers).await?;
    let name = format!("pushing manifest for {reference}@{}", root.descriptor.digest);
    let manifests = async {
        if image.index.is_some() {
            for platform in &image.images {
                put(&repository, &platform.manifest, None).await?;
            }
            for attested in &image.attested {
                put(&repository, &attested.manifest, None).await?;
            }
        }
        let tag = reference.tag().filter(|_| !export.attributes.push_by_digest);
        put(&repository, root, tag).await
    };
    export.step(name, manifests).await
}

async fn put(
    repository: &Repository,
    document: &Document,
    tag: Option<&str>,
) -> Result<(), Failure> {
    let bytes = Bytes::copy_from_slice(&document.bytes);
    repository
        .push_manifest(&document.descriptor.media_type, bytes, tag)
        .await
        .map(|_| ())
        .map_err(Failure::of)
}

/// Pushes what a manifest refers to.
pub(crate) async fn push_blobs_of(
    store: &Arc<Store>,
    repository: &Repository,
    layers: &[PackedLayer],
) -> Result<(), Failure> {
    let mut seen = std::collections::HashSet::new();
    let unique: Vec<PackedLayer> =
        layers.iter().filter(|layer| seen.insert(layer.descriptor.digest)).cloned().collect();
    futures::stream::iter(unique)
        .map(|layer| async move {
            let body = layer.body()?;
            let from = layer.neighbour(repository.name().domain());
            let pushed = repository.push_blob(&layer.descriptor, &*body, from.as_deref()).await;
            let is_ours = matches!(layer.content, Content::Here(_));
            if is_ours && pushed.as_ref().is_err_and(may_be_the_bytes) {
                // One that the disk changed is set aside: the next push packs its layer anew.
                let (store, digest) = (Arc::clone(store), layer.descriptor.digest);
                let _ = blocking(move || store.check_blob(&digest)).await;
            }
            pushed.map(|_| ()).map_err(Failure::of)
        })
        .buffer_unordered(PARALLEL_PUSHES)
        .try_collect()
        .await
}

/// Whether a push can have failed because a file does not hold what its name says, or cannot be read.
const fn may_be_the_bytes(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Status { .. }
            | RegistryError::Transport { .. }
            | RegistryError::Body { .. }
            | RegistryError::Mismatch { .. }
    )
}

async fn push_blobs(
    store: &Arc<Store>,
    repository: &Repository,
    image: &Image,
) -> Result<(), Failure> {
    for platform in &image.images {
        push_blobs_of(store, repository, &platform.layers).await?;
    }
    for document in image.blobs() {
        push_bytes(repository, document).await?;
    }
    Ok(())
}

async fn push_bytes(repository: &Repository, document: &Document) -> Result<(), Failure> {
    let body = Bytes::copy_from_slice(&document.bytes);
    repository.push_blob(&document.descriptor, &body, None).await.map_err(Failure::of)?;
    Ok(())
}
