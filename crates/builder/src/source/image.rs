//! Images: `docker-image://` from registries, `oci-layout://` from the client's own store.
//!
//! A reference is resolved once per vertex and pinned to its digest from there on. Manifests and
//! configs are kept as blobs, so that a pinned image needs no registry the next time. Nothing in
//! an image (labels, `urls`, annotations) is ever taken for an instruction.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_graph::Vertex;
use cofferdam_image::registry::{RegistryError, Repository};
use cofferdam_image::{
    Descriptor, Document as ImageDocument, ImageConfig, Manifest, Platform, Reference,
};
use cofferdam_session::{ContentError, Session};
use cofferdam_solver::{Step, VertexLog};
use cofferdam_store::Document;
use cofferdam_wire::pb;
use connectrpc::ErrorCode;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::layers::{BlobSource, RemoteLayer, RemoteLayers};
use super::{SourceKey, cancellable};
use crate::blocking::blocking;
use crate::context::Context;
use crate::credentials::SessionCredentials;
use crate::failure::Failure;
use crate::snapshot::Snapshot;

/// Kind of store documents that hold manifests, indexes and configs by digest.
pub(super) const DOCUMENTS: &str = "image";
/// Kind of store documents that say which repository an image came from.
pub(super) const ORIGINS: &str = "image-origin";

/// An image for one platform: what names it and what it says.
#[derive(Debug, Clone)]
pub(crate) struct ResolvedImage {
    /// Digest of what the reference named: an index or a manifest.
    pub(crate) root: Digest,
    /// Digest of the manifest.
    pub(crate) digest: Digest,
    /// The manifest.
    pub(crate) manifest: Manifest,
    /// The configuration's bytes.
    pub(crate) config: Bytes,
}

/// Platform of the wire as the image room has it.
pub(crate) fn platform_of(platform: &pb::Platform) -> Platform {
    let mut found = Platform::new(&platform.OS, &platform.Architecture, &platform.Variant);
    found.os_version.clone_from(&platform.OSVersion);
    found
}

/// A registry's blobs.
pub(crate) struct RegistryBlobs(Repository);

impl RegistryBlobs {
    /// Blobs of `repository`.
    pub(crate) const fn new(repository: Repository) -> Self {
        Self(repository)
    }
}

#[async_trait]
impl BlobSource for RegistryBlobs {
    async fn open(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        Ok(self.0.blob(descriptor, offset).map_err(Failure::of).boxed())
    }

    fn place(&self, _: &Descriptor) -> Option<Reference> {
        Some(self.0.name().clone())
    }
}

/// Blobs of a content store that the client serves.
pub(crate) struct SessionBlobs {
    session: Arc<Session>,
    store: String,
}

impl SessionBlobs {
    /// Blobs of `store` in the client of `session`.
    pub(crate) const fn new(session: Arc<Session>, store: String) -> Self {
        Self { session, store }
    }

    /// Reads a whole small blob and verifies it.
    pub(crate) async fn small(&self, digest: &Digest, max: u64) -> Result<Bytes, Failure> {
        let info = self.session.content_info(&self.store, digest).await.map_err(Failure::of)?;
        if info.size > max {
            return Err(Failure::invalid(format!("{digest} has more than {max} bytes")));
        }
        let descriptor = Descriptor::new("application/octet-stream", *digest, info.size);
        let mut stream = self.open(&descriptor, 0).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > max {
                return Err(Failure::invalid(format!("{digest} has more than {max} bytes")));
            }
        }
        if Digest::of(&bytes) != *digest {
            return Err(Failure::unknown(format!("content of {digest} does not match its digest")));
        }
        Ok(bytes.into())
    }
}

#[async_trait]
impl BlobSource for SessionBlobs {
    async fn has(&self, descriptor: &Descriptor) -> bool {
        match self.session.content_info(&self.store, &descriptor.digest).await {
            Ok(info) => info.size == descriptor.size,
            Err(error) => !matches!(error, ContentError::NotFound { .. }),
        }
    }

    async fn open(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let stream = self
            .session
            .content_read(&self.store, &descriptor.digest, offset)
            .await
            .map_err(Failure::of)?;
        Ok(stream.map_err(Failure::of).boxed())
    }
}

impl Context {
    /// The repository of `reference`, with the credentials of the sessions `ids`.
    pub(crate) fn repository(&self, reference: &Reference, ids: Vec<String>) -> Repository {
        let credentials = SessionCredentials::new(&self.sessions, ids);
        self.registries.repository(reference, credentials)
    }

    /// As [`Context::repository`], for pushing; `insecure` accepts plain HTTP and any certificate.
    pub(crate) fn repository_for_push(
        &self,
        reference: &Reference,
        ids: Vec<String>,
        insecure: bool,
    ) -> Result<Repository, Failure> {
        if !insecure {
            return Ok(self.repository(reference, ids));
        }
        let client = crate::registries::insecure_client(&self.config, reference.domain())?;
        Ok(client.repository(reference, SessionCredentials::new(&self.sessions, ids)))
    }

    /// Resolves `reference` for `platform`, from this disk when it is pinned and known.
    pub(crate) async fn resolve_image(
        self: &Arc<Self>,
        reference: &Reference,
        platform: &Platform,
        sessions: Vec<String>,
    ) -> Result<ResolvedImage, Failure> {
        if let Some(digest) = reference.digest()
            && self.came_from(reference, digest).await?
            && let Some(known) = self.known_image(digest, platform).await?
        {
            return Ok(known);
        }
        let repository = self.repository(reference, sessions);
        let target = reference.target();
        let resolved = repository.resolve(&target, platform).await.map_err(unresolved)?;
        let root = resolved.root.descriptor.digest;
        // What this repository names has been here before as a rule: nothing to fetch then, and nothing to write down.
        if self.came_from(reference, root).await?
            && let Some(known) = self.known_image(root, platform).await?
            && known.digest == resolved.descriptor.digest
        {
            return Ok(known);
        }
        let config = repository.small_blob(&resolved.manifest.config).await.map_err(Failure::of)?;
        for bytes in [&resolved.root.bytes, &resolved.manifest_bytes, &config] {
            self.keep_document(bytes.clone()).await?;
        }
        self.remember_origin(reference, root).await?;
        Ok(ResolvedImage {
            root,
            digest: resolved.descriptor.digest,
            manifest: resolved.manifest,
            config,
        })
    }

    async fn known_image(
        self: &Arc<Self>,
        digest: Digest,
        platform: &Platform,
    ) -> Result<Option<ResolvedImage>, Failure> {
        let Some(mut bytes) = self.document(digest).await? else { return Ok(None) };
        let mut manifest_digest = digest;
        let manifest = loop {
            match ImageDocument::parse(&bytes, None).map_err(Failure::of)? {
                ImageDocument::Manifest(manifest) => break manifest,
                ImageDocument::Index(index) => {
                    let Some(selected) = index.select(platform) else { return Ok(None) };
                    manifest_digest = selected.digest;
                    match self.document(manifest_digest).await? {
                        Some(next) => bytes = next,
                        None => return Ok(None),
                    }
                }
            }
        };
        let Some(config) = self.document(manifest.config.digest).await? else { return Ok(None) };
        Ok(Some(ResolvedImage { root: digest, digest: manifest_digest, manifest, config }))
    }

    /// The layers of an image that was resolved before, as its manifest has them.
    pub(crate) async fn layers_of_image(
        self: &Arc<Self>,
        root: Digest,
        platform: &Platform,
    ) -> Result<Option<Vec<Descriptor>>, Failure> {
        let known = self.known_image(root, platform).await?;
        Ok(known.map(|image| image.manifest.layers))
    }

    /// Whether an image was got from the repository of `reference` before. A digest alone must not
    /// open an image whose repository the client may not read.
    async fn came_from(
        self: &Arc<Self>,
        reference: &Reference,
        digest: Digest,
    ) -> Result<bool, Failure> {
        let store = Arc::clone(&self.store);
        let key = origin_key(reference, digest);
        let found = blocking(move || store.document(ORIGINS, &key)).await?;
        Ok(found.map_err(Failure::store)?.is_some())
    }

    async fn remember_origin(
        self: &Arc<Self>,
        reference: &Reference,
        digest: Digest,
    ) -> Result<(), Failure> {
        let store = Arc::clone(&self.store);
        let key = origin_key(reference, digest);
        let document = Document { key, bytes: Vec::new(), blobs: Vec::new() };
        blocking(move || store.put_document(ORIGINS, &document)).await?.map_err(Failure::store)
    }

    /// A manifest or config that was kept.
    pub(crate) async fn document(
        self: &Arc<Self>,
        digest: Digest,
    ) -> Result<Option<Bytes>, Failure> {
        let store = Arc::clone(&self.store);
        let found = blocking(move || store.document(DOCUMENTS, &digest.to_string()))
            .await?
            .map_err(Failure::store)?;
        Ok(found.map(|document| Bytes::from(document.bytes)))
    }

    async fn keep_document(self: &Arc<Self>, bytes: Bytes) -> Result<(), Failure> {
        let store = Arc::clone(&self.store);
        let key = Digest::of(&bytes).to_string();
        let document = Document { key, bytes: bytes.to_vec(), blobs: Vec::new() };
        blocking(move || store.put_document(DOCUMENTS, &document)).await?.map_err(Failure::store)
    }
}

/// A reference that could not be resolved; the code tells absence and refusal from trouble.
pub(super) fn unresolved(error: RegistryError) -> Failure {
    let code = match error {
        RegistryError::NotFound { .. } => Some(ErrorCode::NotFound),
        RegistryError::Denied { .. } => Some(ErrorCode::PermissionDenied),
        _ => None,
    };
    let failure = Failure::of(error);
    match code {
        Some(code) => failure.with_code(code),
        None => failure,
    }
}

fn origin_key(reference: &Reference, digest: Digest) -> String {
    format!("{}/{}@{digest}", reference.domain(), reference.path())
}

fn parse(reference: &str) -> Result<Reference, Failure> {
    Reference::parse(reference).map_err(|error| Failure::invalid(crate::failure::chain(&error)))
}

async fn resolve(
    context: &Arc<Context>,
    vertex: &Vertex,
    op: &pb::SourceOp,
    reference: &str,
    pin: Option<Digest>,
    step: &Step,
) -> Result<(Reference, ResolvedImage), Failure> {
    let mut parsed = parse(reference)?;
    if let Some(pin) = pin {
        parsed = parsed.with_digest(pin);
    }
    let platform = platform_of(&vertex.effective_platform());
    let sessions = context.sessions_of(step);
    let resolved = cancellable(step, context.resolve_image(&parsed, &platform, sessions)).await?;
    if let Some(expected) = op.attrs.get("image.checksum")
        && *expected != resolved.root.to_string()
    {
        return Err(Failure::unknown(format!(
            "image digest {} for {reference} does not match expected checksum {expected}",
            resolved.root
        )));
    }
    let pinned = parsed.with_digest(resolved.root);
    Ok((pinned, resolved))
}

/// What names an image's content: its manifest.
pub(crate) async fn key(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    op: &pb::SourceOp,
    reference: &str,
    step: &Step,
) -> Result<SourceKey, Failure> {
    let (_, resolved) = resolve(context, vertex, op, reference, None, step).await?;
    let limit = op.attrs.get("image.layerlimit").map_or("", String::as_str);
    let key = SourceKey::stable(&["image", &resolved.digest.to_string(), limit]);
    Ok(key.pinned(&resolved.root.to_string()))
}

/// The layers of the image that was named `pin`, not yet fetched.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    op: &pb::SourceOp,
    reference: &str,
    pin: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let pin = Digest::parse(pin).map_err(Failure::internal)?;
    let (pinned, resolved) = resolve(context, vertex, op, reference, Some(pin), step).await?;
    let blobs = RegistryBlobs::new(context.repository(&pinned, context.sessions_of(step)));
    let name = format!("pulled from {}", pinned.familiar());
    layers(context, op, &resolved, Arc::new(blobs), name, step.progress.clone())
}

fn layers(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    resolved: &ResolvedImage,
    blobs: Arc<dyn BlobSource>,
    name: String,
    log: VertexLog,
) -> Result<Snapshot, Failure> {
    let config = ImageConfig::parse(&resolved.config).map_err(Failure::of)?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != resolved.manifest.layers.len() {
        return Err(Failure::unknown(format!(
            "image {} has {} layers but its config names {}",
            resolved.digest,
            resolved.manifest.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers: Vec<RemoteLayer> = resolved
        .manifest
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| RemoteLayer {
            descriptor: descriptor.clone(),
            diff_id: *diff_id,
            created: None,
        })
        .collect();
    if let Some(limit) = op.attrs.get("image.layerlimit").or_else(|| op.attrs.get("oci.layerlimit"))
    {
        let limit: usize = limit
            .parse()
            .ok()
            .filter(|limit| *limit > 0)
            .ok_or_else(|| Failure::invalid(format!("invalid layer limit {limit}")))?;
        layers.truncate(limit);
    }
    Ok(RemoteLayers::new(context, blobs, layers, name, log).into())
}

/// What names an image in a layout: its digest, which such a reference must have.
pub(crate) fn layout_key(op: &pb::SourceOp, reference: &str) -> Result<SourceKey, Failure> {
    let digest = parse(reference)?.digest().ok_or_else(|| {
        Failure::invalid(format!("oci-layout reference {reference:?} has no digest"))
    })?;
    let limit = op.attrs.get("oci.layerlimit").map_or("", String::as_str);
    let digest = digest.to_string();
    Ok(SourceKey::stable(&["image", &digest, limit]).pinned(&digest))
}

/// An image in the client's own layout.
pub(crate) async fn layout_snapshot(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    op: &pb::SourceOp,
    reference: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let platform = platform_of(&vertex.effective_platform());
    let ids = context.sessions_with(step, op.attrs.get("oci.session"));
    let store = op.attrs.get("oci.store").cloned().unwrap_or_default();
    let (blobs, resolved) = resolve_layout(context, reference, &store, &platform, &ids).await?;
    layers(context, op, &resolved, Arc::new(blobs), reference.to_owned(), step.progress.clone())
}

/// Resolves an image in the client's layout `store`.
pub(crate) async fn resolve_layout(
    context: &Arc<Context>,
    reference: &str,
    store: &str,
    platform: &Platform,
    sessions: &[String],
) -> Result<(SessionBlobs, ResolvedImage), Failure> {
    let parsed = parse(reference)?;
    let root = parsed.digest().ok_or_else(|| {
        Failure::invalid(format!("oci-layout reference {reference:?} has no digest"))
    })?;
    // The client's layouts are addressed by a prefixed id.
    let store = if store.is_empty() { parsed.familiar() } else { store.to_owned() };
    let open = |session: Arc<Session>| {
        let blobs = SessionBlobs::new(session, format!("oci:{store}"));
        async move {
            let bytes = blobs.small(&root, cofferdam_image::MAX_DOCUMENT).await?;
            Ok((blobs, bytes))
        }
        .boxed()
    };
    let (blobs, bytes) = context.any_session(sessions, open).await?;
    let (digest, manifest) = match ImageDocument::parse(&bytes, None).map_err(Failure::of)? {
        ImageDocument::Manifest(manifest) => (root, manifest),
        ImageDocument::Index(index) => {
            let selected = index.select(platform).ok_or_else(|| {
                Failure::not_found(format!("no image for the platform in {reference}"))
            })?;
            let bytes = blobs.small(&selected.digest, cofferdam_image::MAX_DOCUMENT).await?;
            match ImageDocument::parse(&bytes, None).map_err(Failure::of)? {
                ImageDocument::Manifest(manifest) => (selected.digest, manifest),
                ImageDocument::Index(_) => {
                    return Err(Failure::invalid(format!("{reference} nests indexes")));
                }
            }
        }
    };
    let config = blobs.small(&manifest.config.digest, cofferdam_image::MAX_DOCUMENT).await?;
    Ok((blobs, ResolvedImage { root, digest, manifest, config }))
}
