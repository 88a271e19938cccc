//! The `oci` and `docker` exporters: one archive, sent to the client as it is written, or blobs
//! in the client's content store.

use std::io::Write;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use cofferdam_image::layout::{DockerImage, LayoutError, LayoutWriter};
use cofferdam_image::{Descriptor, Index, Reference, media};
use cofferdam_session::{ExportError, ExportTarget, Session};
use cofferdam_store::{Blob, Store};
use futures::FutureExt;

use super::image::{self, Image};
use super::{Export, Kind, Output, Part, Response};
use crate::blocking::blocking;
use crate::failure::Failure;

/// When an image was made, as descriptors say it.
const CREATED: &str = "org.opencontainers.image.created";
/// The client's content store for outputs that are not archives.
const EXPORT_STORE: &str = "export";

/// Makes the image and sends it.
pub(super) async fn export(
    export: &Export,
    output: &Output,
    parts: &[Part],
) -> Result<Response, Failure> {
    let image = image::make(export, output, parts).await?;
    let names = normalized(&image::names(export, output))?;
    let mut root = image.root()?.descriptor.clone();
    let created = export.attributes.epoch.and_then(|epoch| DateTime::from_timestamp(epoch, 0));
    let created = created.unwrap_or_else(Utc::now).to_rfc3339_opts(SecondsFormat::Secs, true);
    root.annotations.entry(CREATED.to_owned()).or_insert(created);
    let response = image.response(&names, &root)?;
    export.record(&image, &root).await?;
    let session = session(export).await?;
    let contents = Contents::new(&image, &names, root, export.attributes.kind).await?;
    if export.attributes.tar {
        let epoch = export.attributes.epoch;
        export.step("sending tarball", send(export, session, &response, contents, epoch)).await?;
    } else {
        export.step("copying blobs", copy(&session, contents)).await?;
    }
    Ok(response)
}

/// The client's session for an exporter.
pub(super) async fn session(export: &Export) -> Result<Arc<Session>, Failure> {
    export.context.any_session(&export.sessions, |session| async { Ok(session) }.boxed()).await
}

fn normalized(names: &[String]) -> Result<Vec<String>, Failure> {
    names
        .iter()
        .map(|name| {
            let reference = Reference::parse(name).map_err(Failure::of)?;
            Ok(reference.to_string())
        })
        .collect()
}

/// Names as people write them, which is how Docker's archives have them.
fn familiar(names: &[String]) -> Result<Vec<String>, Failure> {
    names.iter().map(|name| Ok(Reference::parse(name).map_err(Failure::of)?.familiar())).collect()
}

/// Everything an archive holds, owned, so that a blocking thread can write it.
struct Contents {
    documents: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<(Descriptor, Blob)>,
    index: Index,
    docker: Vec<DockerImage>,
}

impl Contents {
    async fn new(
        image: &Image,
        names: &[String],
        root: Descriptor,
        kind: Kind,
    ) -> Result<Self, Failure> {
        let mut documents = Vec::new();
        let mut blobs = Vec::new();
        for platform in &image.images {
            for layer in &platform.layers {
                blobs.push((layer.descriptor.clone(), layer.blob().await?));
            }
        }
        for document in [image.manifests(), image.blobs()].concat() {
            documents.push((document.descriptor.clone(), document.bytes.clone()));
        }
        // An archive has each blob once.
        let mut seen = std::collections::HashSet::new();
        blobs.retain(|(descriptor, _): &(Descriptor, Blob)| seen.insert(descriptor.digest));
        documents.retain(|(descriptor, _): &(Descriptor, Vec<u8>)| seen.insert(descriptor.digest));
        let mut entries = Vec::new();
        for name in names {
            let tag = Reference::parse(name).map_err(Failure::of)?.tag().map(str::to_owned);
            let mut entry = root.clone();
            entry.annotations.extend(image::name_annotations(name, tag.as_deref()));
            entries.push(entry);
        }
        if entries.is_empty() {
            entries.push(root);
        }
        let docker = match (kind, image.images.first()) {
            (Kind::Docker, Some(platform)) => vec![DockerImage {
                config: platform.config.descriptor.digest,
                repo_tags: familiar(names)?,
                layers: platform.layers.iter().map(|layer| layer.descriptor.digest).collect(),
            }],
            _ => Vec::new(),
        };
        Ok(Self { documents, blobs, index: Index::new(media::OCI_INDEX, entries), docker })
    }

    fn write(self, store: &Store, out: impl Write, epoch: Option<i64>) -> Result<(), Failure> {
        let mut layout = LayoutWriter::new(out, epoch).map_err(Failure::of)?;
        for (descriptor, blob) in &self.blobs {
            let file = blob.open().map_err(Failure::store)?;
            let written = layout.blob(&descriptor.digest, descriptor.size, file);
            if let Err(LayoutError::Blob { .. } | LayoutError::Mismatch { .. }) = &written {
                // One that the disk changed is set aside: the next image packs its layer anew.
                store.check_blob(&descriptor.digest).ok();
            }
            written.map_err(Failure::of)?;
        }
        for (descriptor, bytes) in &self.documents {
            layout
                .blob(&descriptor.digest, descriptor.size, bytes.as_slice())
                .map_err(Failure::of)?;
        }
        layout.finish(&self.index, &self.docker).map_err(Failure::of)?;
        Ok(())
    }
}

async fn send(
    export: &Export,
    session: Arc<Session>,
    response: &Response,
    contents: Contents,
    epoch: Option<i64>,
) -> Result<(), Failure> {
    let target =
        ExportTarget { exporter: export.index, metadata: response.clone(), multi_platform: false };
    let sender = session.send_file(&target).await.map_err(Failure::of)?;
    let mut writer = sender.blocking_writer();
    let store = Arc::clone(&export.context.store);
    let written = blocking(move || {
        contents.write(&store, &mut writer, epoch)?;
        writer.flush().map_err(Failure::of)
    })
    .await?;
    // When the client refused, its reason says more than our broken pipe.
    let finished = sender.finish().await;
    match (written, finished) {
        (Ok(()), Ok(())) => Ok(()),
        // The client knows by the metadata that it has this result.
        (_, Err(ExportError::AlreadyExists)) => Ok(()),
        (Err(failure), Ok(())) => Err(failure),
        (_, Err(error)) => Err(Failure::of(error)),
    }
}

async fn copy(session: &Arc<Session>, contents: Contents) -> Result<(), Failure> {
    for (descriptor, blob) in &contents.blobs {
        let mut file = blob.open().map_err(Failure::store)?;
        crate::cache::write_blob(session, EXPORT_STORE, descriptor, &mut file).await?;
    }
    for (descriptor, bytes) in &contents.documents {
        let mut reader = bytes.as_slice();
        crate::cache::write_blob(session, EXPORT_STORE, descriptor, &mut reader).await?;
    }
    Ok(())
}
