//! The built-in buildpacks frontend's view of its builder.
//!
//! Analyze, restore and export happen here, in the builder's own code: what needs a registry's
//! credentials asks the client's session for them, and no sandbox ever holds one.

pub(crate) mod composed;
mod listing;
mod pack;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_buildpacks::{
    Client, ClientError, DockerfileRequest, DockerfileResult, Entry, Image, ImageLayer, Pack,
    Progress,
};
use cofferdam_digest::Digest;
use cofferdam_image::layer::Compression;
use cofferdam_image::{Descriptor, ImageConfig, Manifest, Reference, media};
use cofferdam_solver::VertexLog;
use cofferdam_store::{Blob, Document, Store};
use cofferdam_wire::pb;
use connectrpc::ErrorCode;

use crate::blocking::blocking;
use crate::export::layers::{self, Content, PackedLayer, Packing};
use crate::failure::Failure;
use crate::gateway::bridge::{AnswerRefs, Bridge};
use crate::gateway::files;
use crate::op::exec_limits::REACHED;
use crate::pieces::Pieces;
use crate::rooted::clean;
use crate::snapshot::Snapshot;
use crate::source::image::platform_of;

/// Kind of store documents that hold what builds save for the next one.
const SAVED: &str = "buildpacks-cache";
/// Bytes at the start of such a document that say when it was saved.
const STAMP: usize = 8;
/// Documents that are kept: the last used names of images. Each holds blobs.
const MAX_SAVED: usize = 100;
/// Time of files in layers of buildpacks: 1980-01-01T00:00:01Z.
const LAYER_TIME: i64 = 315_532_801;

/// What the frontend may ask of the bridge.
pub(crate) struct FrontendClient {
    bridge: Arc<Bridge>,
    /// What this build packed, held until it is composed or saved: house keeping must not take it.
    packed: Mutex<Vec<Blob>>,
}

impl FrontendClient {
    /// The bridge of a build.
    pub(crate) const fn new(bridge: Arc<Bridge>) -> Self {
        Self { bridge, packed: Mutex::new(Vec::new()) }
    }

    fn hold(&self, blob: Blob) {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner).push(blob);
    }

    async fn snapshot(&self, definition: &pb::Definition) -> Result<Snapshot, Failure> {
        if definition.def.is_empty() {
            return Ok(Snapshot::scratch());
        }
        let reference = self.bridge.reference(definition.clone()).await?;
        self.bridge.evaluate(&reference).await
    }

    /// Runs work until the build is cancelled.
    async fn cancellable<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, ClientError> {
        let cancelled = self.bridge.job.cancellation();
        let result = tokio::select! {
            result = work => result,
            () = cancelled.cancelled() => Err(Failure::canceled()),
        };
        result.map_err(client_error)
    }
}

fn client_error(failure: Failure) -> ClientError {
    let ended: Option<serde_json::Value> = failure.details().iter().find_map(|(kind, value)| {
        kind.contains("ExitMessage").then(|| serde_json::from_slice(value).ok()).flatten()
    });
    let exit = ended.as_ref().and_then(|ended| i32::try_from(ended.get("Code")?.as_i64()?).ok());
    let reached = ended.and_then(|ended| Some(ended.get(REACHED)?.as_str()?.to_owned()));
    ClientError::with_source(failure.message().to_owned(), exit, failure).having_reached(reached)
}

/// A failed frontend on its way to the client.
pub(crate) fn failure_of(error: &cofferdam_buildpacks::BuildError) -> Failure {
    let inner = error.client_error().and_then(ClientError::inner);
    let inner = inner.and_then(|inner| inner.downcast_ref::<Failure>());
    let code = inner.map_or(ErrorCode::InvalidArgument, Failure::code);
    let mut failure = Failure::new(code, error.to_string());
    for (type_url, value) in inner.map(Failure::details).unwrap_or_default().iter().rev() {
        failure = failure.with_detail(type_url, value.clone());
    }
    failure
}

/// A vertex of the frontend's own.
struct Shown(Option<VertexLog>);

impl Progress for Shown {
    fn log(&self, line: &str) {
        if let Some(log) = &self.0 {
            log.log(cofferdam_solver::LogStream::Stdout, Bytes::from(format!("{line}\n")));
        }
    }

    fn done(mut self: Box<Self>) {
        if let Some(log) = self.0.take() {
            log.complete();
        }
    }

    fn failed(mut self: Box<Self>, message: &str) {
        if let Some(log) = self.0.take() {
            log.fail(message);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(log) = self.0.take() {
            log.complete();
        }
    }
}

#[async_trait]
impl Client for FrontendClient {
    async fn image(
        &self,
        reference: &str,
        platform: &pb::Platform,
        log_name: &str,
    ) -> Result<Option<Image>, ClientError> {
        let find = async {
            let reference = &self.bridge.govern_image(reference, Some(platform)).await?;
            let parsed = Reference::parse(reference)
                .map_err(|error| Failure::invalid(crate::failure::chain(&error)))?;
            let resolved = if log_name.is_empty() {
                let sessions = self.bridge.sessions.clone();
                let platform = platform_of(platform);
                let context = &self.bridge.context;
                let resolve = context.resolve_image(&parsed, &platform, sessions);
                context.online.during_job(self.bridge.job.id(), reference, resolve).await
            } else {
                self.bridge.look_up_image(reference, Some(platform), log_name).await
            };
            let resolved = match resolved {
                Ok(resolved) => resolved,
                Err(failure)
                    if matches!(
                        failure.code(),
                        ErrorCode::NotFound | ErrorCode::PermissionDenied
                    ) =>
                {
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            };
            let pinned = parsed.with_digest(resolved.root).to_string();
            let config = ImageConfig::parse(&resolved.config)
                .map_err(|error| Failure::of(error).during(reference))?;
            let (named, diff_ids) = (&resolved.manifest.layers, &config.rootfs.diff_ids);
            if named.len() != diff_ids.len() {
                return Err(Failure::unknown(format!(
                    "{reference} has {} layers but its config names {}",
                    named.len(),
                    diff_ids.len()
                )));
            }
            let layers = named.iter().zip(diff_ids);
            let layers = layers
                .map(|(descriptor, diff_id)| ImageLayer {
                    diff_id: *diff_id,
                    digest: descriptor.digest,
                    size: descriptor.size,
                    media_type: descriptor.media_type.clone(),
                    origin: Some(pinned.clone()),
                })
                .collect();
            Ok(Some(Image { pinned, digest: resolved.root, config: resolved.config, layers }))
        };
        self.cancellable(find).await
    }

    async fn solve(&self, definition: &pb::Definition) -> Result<(), ClientError> {
        self.cancellable(async { self.snapshot(definition).await.map(|_| ()) }).await
    }

    async fn read_file(
        &self,
        definition: &pb::Definition,
        path: &str,
        max: usize,
    ) -> Result<Option<Bytes>, ClientError> {
        let read = async {
            let snapshot = self.snapshot(definition).await?;
            files::read_optional(&snapshot, path, max).await
        };
        self.cancellable(read).await
    }

    async fn list(
        &self,
        definition: &pb::Definition,
        path: &str,
    ) -> Result<Option<Vec<Entry>>, ClientError> {
        let list = async {
            let view = self.snapshot(definition).await?.view().await?;
            let path = clean(path);
            blocking(move || listing::entries(&view, &path)).await?
        };
        self.cancellable(list).await
    }

    async fn walk(
        &self,
        definition: &pb::Definition,
        path: &str,
    ) -> Result<Vec<String>, ClientError> {
        let walk = async {
            let view = self.snapshot(definition).await?.view().await?;
            let path = clean(path);
            blocking(move || {
                let mut found = Vec::new();
                let directory = view.directory(&path).map_err(Failure::store)?;
                listing::walk(&directory, "", 0, &mut found)?;
                found.sort();
                Ok(found)
            })
            .await?
        };
        self.cancellable(walk).await
    }

    async fn layers(&self, definition: &pb::Definition) -> Result<Vec<ImageLayer>, ClientError> {
        let work = async {
            let tree = self.snapshot(definition).await?.tree().await?;
            let tree = Pieces::from(&tree);
            let packing = Packing {
                compression: Compression::GZIP,
                force: false,
                epoch: Some(LAYER_TIME),
                oci_types: true,
            };
            let packed = layers::pack(&self.bridge.context.blocks, &tree, packing).await?;
            let mut layers = Vec::with_capacity(packed.len());
            for layer in packed {
                self.hold(layer.blob().await?);
                layers.push(ImageLayer {
                    diff_id: layer.diff_id,
                    digest: layer.descriptor.digest,
                    size: layer.descriptor.size,
                    media_type: layer.descriptor.media_type,
                    origin: None,
                });
            }
            Ok(layers)
        };
        self.cancellable(work).await
    }

    async fn pack(&self, pack: Pack) -> Result<ImageLayer, ClientError> {
        let work = async {
            let view = self.snapshot(&pack.definition).await?.view().await?;
            let blocks = Arc::clone(&self.bridge.context.blocks);
            let packed = blocking(move || {
                let path = clean(&pack.path);
                let root = view.directory(&path).map_err(|error| {
                    Failure::store(error).during(&format!("open {}", pack.name))
                })?;
                let packing = pack::Packing {
                    name: &pack.name,
                    parents: &pack.parents,
                    owner: pack.owner,
                    selection: &pack.selection,
                };
                pack::pack(&blocks, &root, &packing)
            })
            .await?;
            let (layer, blob) = packed?;
            self.hold(blob);
            Ok(layer)
        };
        self.cancellable(work).await
    }

    async fn keep(&self, tar: Vec<u8>) -> Result<ImageLayer, ClientError> {
        let store = Arc::clone(&self.bridge.context.store);
        let work = async {
            let (layer, blob) = blocking(move || pack::keep(&store, &tar)).await??;
            self.hold(blob);
            Ok(layer)
        };
        self.cancellable(work).await
    }

    async fn compose(&self, layers: Vec<ImageLayer>) -> Result<pb::SourceOp, ClientError> {
        let context = &self.bridge.context;
        let composed = context.composed_of(self.bridge.job.id());
        composed.add(context, layers).map_err(client_error)
    }

    async fn push(
        &self,
        reference: &str,
        layers: Vec<ImageLayer>,
        config: Vec<u8>,
    ) -> Result<Digest, ClientError> {
        let push = self.push_image(reference, layers, config);
        let online = &self.bridge.context.online;
        self.cancellable(online.during_job(self.bridge.job.id(), reference, push)).await
    }

    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, ClientError> {
        let store = Arc::clone(&self.bridge.context.store);
        let key = key.to_owned();
        let load = async {
            let found = blocking(move || store.document(SAVED, &key)).await?;
            let found = found.map_err(Failure::store)?;
            Ok(found.and_then(|document| document.bytes.get(STAMP..).map(<[u8]>::to_vec)))
        };
        self.cancellable(load).await
    }

    async fn save(
        &self,
        key: &str,
        value: Vec<u8>,
        layers: &[ImageLayer],
    ) -> Result<(), ClientError> {
        let store = Arc::clone(&self.bridge.context.store);
        let blobs = layers.iter().map(|layer| layer.digest).collect();
        let mut bytes = chrono::Utc::now().timestamp().to_be_bytes().to_vec();
        bytes.extend(value);
        let document = Document { key: key.to_owned(), bytes, blobs };
        let save = async { blocking(move || save(&store, &document)).await? };
        self.cancellable(save).await
    }

    async fn has(&self, layer: &ImageLayer) -> bool {
        self.bridge.context.store.blob(&layer.digest).is_some()
    }

    async fn dockerfile(
        &self,
        request: DockerfileRequest,
    ) -> Result<DockerfileResult, ClientError> {
        let run = async {
            let inputs = request.inputs;
            let answer = self.bridge.frontend("dockerfile.v0", request.attrs, inputs).await?;
            let AnswerRefs::Single(reference) = answer.refs else {
                return Err(Failure::invalid("a Dockerfile of an extension has one platform"));
            };
            let config = answer.metadata.get(crate::export::CONFIG_KEY).cloned();
            let definition = reference.map(|reference| reference.definition.clone());
            Ok(DockerfileResult { definition, config: config.unwrap_or_default() })
        };
        self.cancellable(run).await
    }

    fn step(&self, name: &str) -> Box<dyn Progress> {
        let digest = Digest::of(format!("{}:{name}", self.bridge.job.id()));
        let log = self.bridge.job.vertex(digest, name);
        log.start();
        Box::new(Shown(Some(log)))
    }

    fn session_id(&self) -> &str {
        &self.bridge.session
    }

    fn worker_platforms(&self) -> &[pb::Platform] {
        &self.bridge.platforms
    }

    fn operator_registry(&self) -> Option<String> {
        self.bridge.context.config.buildpacks.registry.clone()
    }

    fn operator_trust(&self) -> (Vec<String>, Vec<String>) {
        let config = &self.bridge.context.config.buildpacks;
        (config.trusted.clone(), config.denied.clone())
    }
}

impl FrontendClient {
    async fn push_image(
        &self,
        reference: &str,
        layers: Vec<ImageLayer>,
        config: Vec<u8>,
    ) -> Result<Digest, Failure> {
        let context = &self.bridge.context;
        let reference = Reference::parse(reference).map_err(Failure::of)?;
        let mut packed = Vec::with_capacity(layers.len());
        for layer in layers {
            let blob = context.store.blob(&layer.digest).ok_or_else(|| {
                Failure::not_found(format!("layer {} is no longer in the store", layer.digest))
            })?;
            packed.push(PackedLayer {
                descriptor: Descriptor::new(&layer.media_type, layer.digest, layer.size),
                diff_id: layer.diff_id,
                created: chrono::Utc::now(),
                pulled: false,
                content: Content::Here(blob),
            });
        }
        let repository = context.repository(&reference, self.bridge.sessions.clone());
        crate::export::push_blobs_of(&context.store, &repository, &packed).await?;
        let config_descriptor = Descriptor::of(media::OCI_CONFIG, &config);
        let config = Bytes::from(config);
        repository.push_blob(&config_descriptor, &config, None).await.map_err(Failure::of)?;
        let descriptors = packed.into_iter().map(|layer| layer.descriptor).collect();
        let manifest = Manifest::new(media::OCI_MANIFEST, config_descriptor, descriptors);
        let bytes = serde_json::to_vec(&manifest).map_err(Failure::internal)?;
        let digest = Digest::of(&bytes);
        repository
            .push_manifest(media::OCI_MANIFEST, Bytes::from(bytes), reference.tag())
            .await
            .map_err(Failure::of)?;
        Ok(digest)
    }
}

/// Saves a document and forgets the oldest, when there are many.
fn save(store: &Store, document: &Document) -> Result<(), Failure> {
    store.put_document(SAVED, document).map_err(Failure::store)?;
    let mut all = store.documents(SAVED).map_err(Failure::store)?;
    all.sort_by(|one, other| one.bytes.get(..STAMP).cmp(&other.bytes.get(..STAMP)));
    let many = all.len().saturating_sub(MAX_SAVED);
    for old in all.iter().take(many) {
        store.remove_document(SAVED, &old.key).map_err(Failure::store)?;
    }
    Ok(())
}

/// The attributes and the answer of one build by buildpacks.
pub(crate) async fn build(
    bridge: &Arc<Bridge>,
    attrs: &BTreeMap<String, String>,
) -> Result<cofferdam_buildpacks::Built, Failure> {
    let client = FrontendClient::new(Arc::clone(bridge));
    cofferdam_buildpacks::build(&client, attrs).await.map_err(|error| failure_of(&error))
}
