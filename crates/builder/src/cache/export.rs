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

use super::Imports;
use super::config::{
    CacheConfig, CacheLayer, CacheRecord, ChainedResult, LayerAnnotations, MEDIA_TYPE,
};
use super::import::output_key;
use crate::blocking::blocking;
use crate::context::Context;
use crate::export::layers::{PackedLayer, Packing, pack};
use crate::failure::Failure;
use crate::snapshot::RemoteTree;

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

/// A result of a build that a cache may hold.
#[derive(Debug, Clone)]
pub(crate) struct CachedResult {
    /// What it is found under; its identity first.
    pub(crate) keys: Vec<Digest>,
    /// Its outputs.
    pub(crate) trees: Vec<Tree>,
}

/// What a build leaves to a cache.
pub(crate) type Results = Vec<CachedResult>;

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
    results.into_iter().filter(|result| fits(&result.trees)).collect()
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
    for result in &results {
        for (output, tree) in result.trees.iter().enumerate() {
            let layers = pack(&context.store, tree, packing).await?;
            builder.add(result, output, &layers);
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
    for result in results {
        for (output, tree) in result.trees.iter().enumerate() {
            let indexes: Option<Vec<usize>> =
                tree.ids().iter().map(|id| position.get(id).copied()).collect();
            if let Some(layers) = indexes {
                records.extend(result.records(output, &layers));
            }
        }
    }
    let json = serde_json::to_vec(&CacheConfig { layers, records }).map_err(Failure::internal)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(json))
}

impl CachedResult {
    /// One record for each key of an output.
    fn records(&self, output: usize, layers: &[usize]) -> impl Iterator<Item = CacheRecord> {
        let identity = self.keys.first().copied();
        self.keys.iter().map(move |key| CacheRecord {
            digest: output_key(key, output),
            identity: identity.filter(|identity| identity != key),
            results: Vec::new(),
            chains: vec![ChainedResult { layers: layers.to_vec(), created_at: None }],
        })
    }
}

#[derive(Default)]
struct Builder {
    config: CacheConfig,
    layers: Vec<PackedLayer>,
    index: HashMap<(i64, Digest), usize>,
    seen: HashSet<Digest>,
}

impl Builder {
    fn add(&mut self, result: &CachedResult, output: usize, layers: &[PackedLayer]) {
        let mut parent = -1;
        let mut chain = Vec::with_capacity(layers.len());
        for layer in layers {
            let at = self.layer(parent, layer);
            chain.push(at);
            parent = at as i64;
        }
        self.config.records.extend(result.records(output, &chain));
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
                created_at: Some(layer.created),
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

/// Collects what is known of each vertex: `names` holds all names of one. Layers that an imported
/// cache still has elsewhere are fetched with `fetch`, and left out without.
pub(crate) async fn collect(
    context: &Arc<Context>,
    imports: &Imports,
    names: Vec<Vec<Digest>>,
    fetch: bool,
    log: &VertexLog,
) -> Result<Results, Failure> {
    let mut results = Results::new();
    for names in names {
        let store = Arc::clone(&context.store);
        let wanted = names.clone();
        let stored = blocking(move || wanted.iter().find_map(|name| store.record(name))).await?;
        let (keys, trees) = match stored {
            Some((record, trees)) => {
                let mut keys = vec![record.identity];
                keys.extend(record.aliases);
                (keys, trees)
            }
            None => match imported(context, imports, &names, fetch, log).await? {
                Some((identity, trees)) => (vec![identity], trees),
                None => continue,
            },
        };
        results.push(CachedResult { keys: in_order(keys, names), trees });
    }
    Ok(results)
}

/// The identity, then the others sorted: equal builds make equal caches.
fn in_order(mut keys: Vec<Digest>, names: Vec<Digest>) -> Vec<Digest> {
    keys.extend(names);
    let identity = keys[0];
    keys.retain(|key| *key != identity);
    keys.sort_unstable();
    keys.dedup();
    keys.insert(0, identity);
    keys
}

/// What an imported cache holds under any of the names.
async fn imported(
    context: &Arc<Context>,
    imports: &Imports,
    names: &[Digest],
    fetch: bool,
    log: &VertexLog,
) -> Result<Option<(Digest, Vec<Tree>)>, Failure> {
    for name in names {
        let mut found: Option<Digest> = None;
        let mut trees = Vec::new();
        while let Some((identity, layers)) = imports.find(context, name, trees.len(), log) {
            let tree = match layers.present() {
                Some(tree) => tree,
                None if fetch => layers.fetch().await?,
                None => return Ok(None),
            };
            found.get_or_insert(identity);
            trees.push(tree);
        }
        if let Some(identity) = found {
            return Ok(Some((identity, trees)));
        }
    }
    Ok(None)
}
