//! Exporting a cache: records of the build's vertices with their layers, as one manifest.
//!
//! Layers that are elsewhere and that nobody read are described, and go from there to where the cache
//! goes: mounted within a registry, or passed through.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_image::Reference;
use cofferdam_solver::{Status, VertexLog};

use super::config::{CacheConfig, CacheLayer};
use super::document::{Builder, Form, Written, records};
use super::s3::{self, Bucket};
use super::{Imports, client};
use crate::blocking::blocking;
use crate::context::Context;
use crate::export::layers::{Packing, pack};
use crate::export::{compression, flag, push_blobs_of};
use crate::failure::Failure;
use crate::pieces::{Piece, PieceName, Pieces};

/// What a client wants exported.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ExportRequest {
    /// `registry`, `local`, `s3` or `inline`.
    pub(crate) kind: String,
    /// Its attributes. Those of `s3` may hold keys: they are never shown.
    pub(crate) attrs: BTreeMap<String, String>,
}

/// A vertex as caches know it.
pub(crate) struct Named {
    /// Everything it is called.
    pub(crate) names: Vec<Digest>,
    /// How many outputs it has.
    pub(crate) outputs: usize,
}

/// A result of a build that a cache may hold.
#[derive(Clone)]
pub(crate) struct CachedResult {
    /// What it is found under; its identity first.
    pub(crate) keys: Vec<Digest>,
    /// Its outputs, as far as they are to be kept.
    pub(crate) outputs: Vec<Option<Pieces>>,
}

/// What a build leaves to a cache.
pub(crate) type Results = Vec<CachedResult>;

impl std::fmt::Debug for ExportRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {:?}", self.kind, s3::shown(&self.attrs))
    }
}

impl ExportRequest {
    /// Whether intermediate results are wanted too.
    pub(crate) fn is_max(&self) -> bool {
        self.attrs.get("mode").is_some_and(|mode| mode == "max")
    }

    /// Whether a failure only concerns the cache.
    pub(crate) fn ignores_errors(&self) -> bool {
        flag(&self.attrs, "ignore-error").is_ok_and(|value| value == Some(true))
    }

    /// How progress names the export.
    pub(crate) fn title(&self) -> Result<&'static str, Failure> {
        match self.kind.as_str() {
            "registry" => Ok("exporting cache to registry"),
            "local" => Ok("exporting cache to client directory"),
            "s3" => Ok("exporting cache to Amazon S3"),
            "inline" => Ok("preparing layers for inline cache"),
            other => Err(Failure::invalid(format!("unknown cache exporter: {other:?}"))),
        }
    }

    fn form(&self) -> Result<Form, Failure> {
        let oci_types = flag(&self.attrs, "oci-mediatypes")?.unwrap_or(true);
        let image_manifest = flag(&self.attrs, "image-manifest")?.unwrap_or(oci_types);
        if image_manifest && !oci_types {
            return Err(Failure::invalid(
                "invalid configuration for remote cache, OCI mediatypes are required for \
                 image-manifest cache format",
            ));
        }
        Ok(Form { oci_types, image_manifest })
    }

    fn packing(&self, oci_types: bool) -> Result<Packing, Failure> {
        let force = flag(&self.attrs, "force-compression")?.unwrap_or(false);
        Ok(Packing { compression: compression(&self.attrs)?, force, epoch: None, oci_types })
    }
}

/// Results reduced to those outputs that only hold layers of `finals`.
pub(crate) fn only_final(results: Results, finals: &[Pieces]) -> Results {
    let known: HashSet<PieceName> = finals.iter().flat_map(Pieces::names).collect();
    let fits = |pieces: &Pieces| {
        !pieces.is_empty() && pieces.names().iter().all(|name| known.contains(name))
    };
    let reduced = results.into_iter().map(|mut result| {
        for output in &mut result.outputs {
            *output = output.take().filter(fits);
        }
        result
    });
    reduced.filter(|result| result.outputs.iter().any(Option::is_some)).collect()
}

/// Packs and sends a cache; returns the response keys of the export.
pub(crate) async fn export(
    context: &Arc<Context>,
    request: &ExportRequest,
    results: Results,
    sessions: &[String],
    log: &VertexLog,
) -> Result<BTreeMap<String, String>, Failure> {
    let form = request.form()?;
    let packing = request.packing(form.oci_types)?;
    let mut builder = Builder::default();
    let mut seen = HashMap::new();
    for result in &results {
        for (output, pieces) in result.outputs.iter().enumerate() {
            let Some(pieces) = pieces else { continue };
            if can_be_had(pieces, &mut seen).await {
                let layers = pack(&context.blocks, pieces, packing).await?;
                builder.add(result, output, &layers);
            }
        }
    }
    if builder.layers().is_empty() {
        note(log, "skipping cache export for empty result".to_owned());
        return Ok(BTreeMap::new());
    }
    let config = builder.config()?;
    if request.kind == "s3" {
        Bucket::new(&request.attrs)?.save(builder.layers(), &config, log).await?;
        return Ok(BTreeMap::new());
    }
    note(log, format!("writing config {}", config.descriptor.digest));
    let manifest = builder.manifest(&config, form)?;
    let what = if form.image_manifest { "cache image manifest" } else { "cache manifest" };
    note(log, format!("writing {what} {}", manifest.descriptor.digest));
    match request.kind.as_str() {
        "registry" => {
            to_registry(context, request, &builder, [&config, &manifest], sessions).await?;
        }
        _ => {
            let layers = builder.layers();
            client::send(context, request, layers, [&config, &manifest], sessions).await?;
        }
    }
    let json = serde_json::to_string(&manifest.descriptor).map_err(Failure::internal)?;
    Ok(BTreeMap::from([("cache.manifest".to_owned(), json)]))
}

/// Whether every layer is here or still where it was: a cache that was imported may have lost some, and
/// what nobody needed of it is no reason to fail. `seen` holds what was asked before.
async fn can_be_had(pieces: &Pieces, seen: &mut HashMap<Digest, bool>) -> bool {
    for piece in pieces.iter() {
        let Piece::There(absent) = piece else { continue };
        let digest = absent.remote.descriptor.digest;
        let there = match seen.get(&digest) {
            Some(there) => *there,
            None => absent.exists().await,
        };
        seen.insert(digest, there);
        if !there {
            return false;
        }
    }
    true
}

/// Mentions a finished piece of work.
fn note(log: &VertexLog, text: String) {
    log.status(Status::begin(text, "").done());
}

/// The inline form: base64 of a config about the image's own layers.
pub(crate) fn inline(results: &Results, image: &Pieces) -> Result<String, Failure> {
    let position: HashMap<PieceName, usize> =
        image.names().into_iter().enumerate().map(|(index, name)| (name, index)).collect();
    let layers = (0..image.len())
        .map(|index| CacheLayer { blob: None, parent: index as i64 - 1, annotations: None })
        .collect();
    let mut found = Vec::new();
    for result in results {
        for (output, pieces) in result.outputs.iter().enumerate() {
            let Some(pieces) = pieces else { continue };
            let indexes: Option<Vec<usize>> =
                pieces.names().iter().map(|name| position.get(name).copied()).collect();
            if let Some(layers) = indexes {
                found.extend(records(result, output, &layers));
            }
        }
    }
    let config = CacheConfig { layers, records: found };
    let json = serde_json::to_vec(&config).map_err(Failure::internal)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(json))
}

async fn to_registry(
    context: &Arc<Context>,
    request: &ExportRequest,
    builder: &Builder,
    [config, manifest]: [&Written; 2],
    sessions: &[String],
) -> Result<(), Failure> {
    let reference = request.attrs.get("ref").filter(|reference| !reference.is_empty());
    let reference = reference.ok_or_else(|| Failure::invalid("missing ref"))?;
    let reference = Reference::parse(reference).map_err(Failure::of)?;
    let insecure = flag(&request.attrs, "registry.insecure")?.unwrap_or(false);
    let repository = context.repository_for_push(&reference, sessions.to_vec(), insecure)?;
    push_blobs_of(&context.store, &repository, builder.layers()).await?;
    let body = Bytes::copy_from_slice(&config.bytes);
    repository.push_blob(&config.descriptor, &body, None).await.map_err(Failure::of)?;
    let body = Bytes::copy_from_slice(&manifest.bytes);
    repository
        .push_manifest(&manifest.descriptor.media_type, body, reference.tag())
        .await
        .map(|_| ())
        .map_err(Failure::of)
}

/// Collects what is known of each vertex.
pub(crate) async fn collect(
    context: &Arc<Context>,
    imports: &Imports,
    vertices: Vec<Named>,
    log: &VertexLog,
) -> Result<Results, Failure> {
    let mut results = Results::new();
    for Named { names, outputs } in vertices {
        let store = Arc::clone(&context.store);
        let wanted = names.clone();
        let stored = blocking(move || wanted.iter().find_map(|name| store.record(name))).await?;
        let (keys, outputs) = match stored {
            Some((record, trees)) => {
                let mut keys = vec![record.identity];
                keys.extend(record.aliases);
                (keys, trees.iter().map(|tree| Some(Pieces::from(tree))).collect())
            }
            None => match imported(context, imports, &names, outputs, log) {
                Some((identity, found)) => (vec![identity], found),
                None => continue,
            },
        };
        results.push(CachedResult { keys: in_order(keys, names), outputs });
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
fn imported(
    context: &Context,
    imports: &Imports,
    names: &[Digest],
    outputs: usize,
    log: &VertexLog,
) -> Option<(Digest, Vec<Option<Pieces>>)> {
    names.iter().find_map(|name| {
        let mut known: Option<Digest> = None;
        let output = |output| {
            let (identity, layers) = imports.find(context, name, output, log)?;
            known.get_or_insert(identity);
            Some(Arc::new(layers).pieces())
        };
        let found: Vec<Option<Pieces>> = (0..outputs).map(output).collect();
        Some((known?, found))
    })
}
