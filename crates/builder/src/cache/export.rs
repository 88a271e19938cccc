//! Exporting a cache: records of the build's vertices with their layers, as one manifest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_image::layer::Compression;
use cofferdam_image::{Descriptor, Manifest, Reference, media};
use cofferdam_session::{ContentError, Session};
use cofferdam_solver::VertexLog;
use cofferdam_store::{LayerId, Tree};
use futures::FutureExt;

use super::config::{
    CacheConfig, CacheLayer, CacheRecord, ChainedResult, LayerAnnotations, MEDIA_TYPE,
};
use super::import::output_key;
use crate::blocking::blocking;
use crate::context::Context;
use crate::export::layers::{PackedLayer, Packing, pack};
use crate::failure::Failure;

/// What one message to the client's content store carries.
const CHUNK_BYTES: usize = 1 << 20;

/// What a client wants exported.
#[derive(Debug, Clone)]
pub(crate) struct ExportRequest {
    /// `registry`, `local` or `inline`.
    pub(crate) kind: String,
    /// Its attributes.
    pub(crate) attrs: BTreeMap<String, String>,
}

/// Results of a build that a cache may hold: key and trees.
pub(crate) type Results = Vec<(Digest, Vec<Tree>)>;

impl ExportRequest {
    /// Whether intermediate results are wanted too.
    pub(crate) fn is_max(&self) -> bool {
        self.attrs.get("mode").is_some_and(|mode| mode == "max")
    }

    /// Whether a failure only concerns the cache.
    pub(crate) fn ignores_errors(&self) -> bool {
        self.attrs.get("ignore-error").is_some_and(|value| value == "true")
    }

    /// How progress names the export.
    pub(crate) fn title(&self) -> Result<&'static str, Failure> {
        match self.kind.as_str() {
            "registry" => Ok("exporting cache to registry"),
            "local" => Ok("exporting cache to client directory"),
            "inline" => Ok("preparing layers for inline cache"),
            other => Err(Failure::invalid(format!("unknown cache exporter: {other:?}"))),
        }
    }
}

/// Results reduced to those that only hold layers of `finals`.
pub(crate) fn only_final(results: Results, finals: &[Tree]) -> Results {
    let known: HashSet<LayerId> = finals.iter().flat_map(Tree::ids).collect();
    let fits = |trees: &[Tree]| {
        trees.iter().all(|tree| !tree.is_empty() && tree.ids().iter().all(|id| known.contains(id)))
    };
    results.into_iter().filter(|(_, trees)| fits(trees)).collect()
}

/// Packs and sends a cache; returns the response keys of the export.
pub(crate) async fn export(
    context: &Arc<Context>,
    request: &ExportRequest,
    results: Results,
    sessions: &[String],
    log: &VertexLog,
) -> Result<BTreeMap<String, String>, Failure> {
    let compression = match request.attrs.get("compression").map(String::as_str) {
        Some("zstd") => Compression::ZSTD,
        _ => Compression::GZIP,
    };
    let packing = Packing { compression, force: false, epoch: None, oci_types: true };
    let mut builder = Builder::default();
    for (key, trees) in &results {
        for (output, tree) in trees.iter().enumerate() {
            let layers = pack(&context.store, tree, packing).await?;
            builder.add(output_key(key, output), &layers);
        }
    }
    let (manifest, config) = builder.finish()?;
    log.status(
        cofferdam_solver::Status::begin(format!("writing config {}", manifest.config.digest), "")
            .done(),
    );
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(Failure::internal)?;
    let descriptor = Descriptor::of(media::OCI_MANIFEST, &bytes);
    log.status(
        cofferdam_solver::Status::begin(
            format!("writing cache manifest {}", descriptor.digest),
            "",
        )
        .done(),
    );
    match request.kind.as_str() {
        "registry" => {
            to_registry(context, request, &builder.layers, &manifest, config, bytes, sessions)
                .await?;
        }
        _ => {
            let documents = [(manifest.config.clone(), config), (descriptor.clone(), bytes)];
            to_client(context, request, &builder.layers, &documents, sessions).await?;
        }
    }
    let json = serde_json::to_string(&descriptor).map_err(Failure::internal)?;
    Ok(BTreeMap::from([("cache.manifest".to_owned(), json)]))
}

/// The inline form: base64 of a config about the image's own layers.
pub(crate) fn inline(results: &Results, image: &Tree) -> Result<String, Failure> {
    let position: HashMap<LayerId, usize> =
        image.ids().into_iter().enumerate().map(|(index, id)| (id, index)).collect();
    let layers = (0..image.len())
        .map(|index| CacheLayer { blob: None, parent: index as i64 - 1, annotations: None })
        .collect();
    let mut records = Vec::new();
    for (key, trees) in results {
        for (output, tree) in trees.iter().enumerate() {
            let indexes: Option<Vec<usize>> =
                tree.ids().iter().map(|id| position.get(id).copied()).collect();
            if let Some(layers) = indexes {
                records.push(CacheRecord {
                    digest: output_key(key, output),
                    results: Vec::new(),
                    chains: vec![ChainedResult { layers, created_at: None }],
                });
            }
        }
    }
    let json = serde_json::to_vec(&CacheConfig { layers, records }).map_err(Failure::internal)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(json))
}

#[derive(Default)]
struct Builder {
    config: CacheConfig,
    layers: Vec<PackedLayer>,
    index: HashMap<(i64, Digest), usize>,
    seen: HashSet<Digest>,
}

impl Builder {
    fn add(&mut self, key: Digest, layers: &[PackedLayer]) {
        let mut parent = -1;
        let mut chain = Vec::with_capacity(layers.len());
        for layer in layers {
            let at = self.layer(parent, layer);
            chain.push(at);
            parent = at as i64;
        }
        self.config.records.push(CacheRecord {
            digest: key,
            results: Vec::new(),
            chains: vec![ChainedResult { layers: chain, created_at: None }],
        });
    }

    fn layer(&mut self, parent: i64, layer: &PackedLayer) -> usize {
        let digest = layer.descriptor.digest;
        if let Some(index) = self.index.get(&(parent, digest)) {
            return *index;
        }
        let index = self.config.layers.len();
        self.config.layers.push(CacheLayer {
            blob: Some(digest),
            parent,
            annotations: Some(LayerAnnotations {
                media_type: layer.descriptor.media_type.clone(),
                diff_id: Some(layer.diff_id),
                size: layer.descriptor.size,
            }),
        });
        self.index.insert((parent, digest), index);
        if self.seen.insert(digest) {
            self.layers.push(layer.clone());
        }
        index
    }

    fn finish(&mut self) -> Result<(Manifest, Vec<u8>), Failure> {
        let config = serde_json::to_vec(&self.config).map_err(Failure::internal)?;
        let descriptors = self.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let manifest =
            Manifest::new(media::OCI_MANIFEST, Descriptor::of(MEDIA_TYPE, &config), descriptors);
        Ok((manifest, config))
    }
}

async fn to_registry(
    context: &Arc<Context>,
    request: &ExportRequest,
    layers: &[PackedLayer],
    manifest: &Manifest,
    config: Vec<u8>,
    bytes: Vec<u8>,
    sessions: &[String],
) -> Result<(), Failure> {
    let reference = request
        .attrs
        .get("ref")
        .ok_or_else(|| Failure::invalid("registry cache exporter needs a ref"))?;
    let reference = Reference::parse(reference).map_err(Failure::of)?;
    let insecure = request.attrs.get("registry.insecure").is_some_and(|value| value == "true");
    let repository = context.repository_for_push(&reference, sessions.to_vec(), insecure)?;
    crate::export::push_blobs_of(&repository, layers).await?;
    let body = Bytes::from(config);
    repository.push_blob(&manifest.config, &body, None).await.map_err(Failure::of)?;
    repository
        .push_manifest(media::OCI_MANIFEST, Bytes::from(bytes), reference.tag())
        .await
        .map(|_| ())
        .map_err(Failure::of)
}

async fn to_client(
    context: &Arc<Context>,
    request: &ExportRequest,
    layers: &[PackedLayer],
    documents: &[(Descriptor, Vec<u8>)],
    sessions: &[String],
) -> Result<(), Failure> {
    let destination = request
        .attrs
        .get("dest")
        .ok_or_else(|| Failure::invalid("local cache exporter requires dest"))?;
    let store = format!("local:{destination}");
    let session = context.any_session(sessions, |session| async { Ok(session) }.boxed()).await?;
    for layer in layers {
        let mut file = layer.blob.open().map_err(Failure::store)?;
        write_blob(&session, &store, &layer.descriptor, &mut file).await?;
    }
    for (descriptor, bytes) in documents {
        write_blob(&session, &store, descriptor, &mut bytes.as_slice()).await?;
    }
    Ok(())
}

/// Writes a blob into a content store of the client, unless it is there.
pub(crate) async fn write_blob(
    session: &Arc<Session>,
    store: &str,
    descriptor: &Descriptor,
    content: &mut (impl Read + Send),
) -> Result<(), Failure> {
    let opened = session.content_writer(store, &descriptor.digest, descriptor.size).await;
    let mut writer = match opened {
        Ok(writer) => writer,
        Err(ContentError::AlreadyExists) => return Ok(()),
        Err(error) => return Err(Failure::of(error)),
    };
    let mut skip = writer.offset();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = content.read(&mut buffer).map_err(Failure::store)?;
        if count == 0 {
            break;
        }
        // What an earlier attempt left at the client is not sent again.
        let skipped = usize::try_from(skip.min(count as u64)).unwrap_or(count);
        skip -= skipped as u64;
        if skipped < count {
            writer.write(&buffer[skipped..count]).await.map_err(Failure::of)?;
        }
    }
    writer.commit().await.map_err(Failure::of)
}

/// Collects what the store holds under the given identities.
pub(crate) async fn collect(
    context: &Arc<Context>,
    identities: Vec<Digest>,
) -> Result<Results, Failure> {
    let store = Arc::clone(&context.store);
    blocking(move || {
        identities
            .into_iter()
            .filter_map(|identity| store.record(&identity).map(|(_, trees)| (identity, trees)))
            .collect()
    })
    .await
}
