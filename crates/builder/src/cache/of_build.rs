//! The caches of one build: what its request names, and what its vertices leave to them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_graph::{Edge, output_count, without_credentials};
use cofferdam_image::{ImageConfig, Platform};
use cofferdam_solver::VertexLog;
use cofferdam_wire::moby::buildkit::v1::SolveRequest;

use super::export::{self as cache_export, ExportRequest, Named};
use super::import::{ImportRequest, ListedImport};
use crate::builder::Builder;
use crate::export::{CONFIG_KEY, Output, Refs};
use crate::failure::Failure;
use crate::gateway::bridge::Bridge;
use crate::pieces::Pieces;
use crate::snapshot::Snapshot;

/// Where an image's config keeps an inline cache.
const INLINE_KEY: &str = "moby.buildkit.cache.v0";

/// The caches that a request names, in every way in which clients name them.
pub(crate) fn imports(request: &SolveRequest) -> Vec<ImportRequest> {
    let cache = request.Cache.as_option().cloned().unwrap_or_default();
    let old = cache.ImportRefsDeprecated.iter().map(|reference| ImportRequest {
        kind: "registry".to_owned(),
        attrs: BTreeMap::from([("ref".to_owned(), reference.clone())]),
    });
    let new = cache.Imports.iter().map(|entry| ImportRequest {
        kind: entry.Type.clone(),
        attrs: pairs(&entry.Attrs).collect(),
    });
    // Frontend builds carry their imports as a frontend attribute.
    let listed: Vec<ListedImport> = request
        .FrontendAttrs
        .get("cache-imports")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let listed =
        listed.into_iter().map(|entry| ImportRequest { kind: entry.kind, attrs: entry.attrs });
    let plain = request.FrontendAttrs.get("cache-from").map_or("", String::as_str);
    let plain = plain.split(',').filter(|text| !text.is_empty()).map(|text| ImportRequest {
        kind: "registry".to_owned(),
        attrs: BTreeMap::from([("ref".to_owned(), text.to_owned())]),
    });
    old.chain(new).chain(listed).chain(plain).collect()
}

/// The caches that a request wants exported.
pub(crate) fn exports(request: &SolveRequest) -> Result<Vec<ExportRequest>, Failure> {
    let Some(cache) = request.Cache.as_option() else { return Ok(Vec::new()) };
    let mut wanted: Vec<ExportRequest> = cache
        .Exports
        .iter()
        .map(|entry| ExportRequest {
            kind: entry.Type.clone(),
            attrs: pairs(&entry.Attrs).collect(),
        })
        .collect();
    if !cache.ExportRefDeprecated.is_empty() {
        let mut attrs: BTreeMap<String, String> = pairs(&cache.ExportAttrsDeprecated).collect();
        attrs.insert("ref".to_owned(), cache.ExportRefDeprecated.clone());
        wanted.push(ExportRequest { kind: "registry".to_owned(), attrs });
    }
    let mut inline = false;
    // A second one would say the same.
    wanted.retain(|wanted| wanted.kind != "inline" || !std::mem::replace(&mut inline, true));
    for (index, request) in wanted.iter().enumerate() {
        request.title()?;
        if wanted[..index].contains(request) {
            let kind = &request.kind;
            return Err(Failure::invalid(format!("duplicate cache exports [{kind}]")));
        }
    }
    Ok(wanted)
}

fn pairs<'a>(
    attrs: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> impl Iterator<Item = (String, String)> {
    attrs.into_iter().map(|(key, value)| (key.clone(), value.clone()))
}

/// Every vertex the build looked at.
fn vertices(bridge: &Bridge) -> Vec<Named> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut stack: Vec<Edge> = bridge.solved();
    while let Some(edge) = stack.pop() {
        if !seen.insert(edge.vertex.digest) {
            continue;
        }
        if edge.vertex.export_cache() {
            let names = bridge.job.names(&edge.vertex.digest);
            found.push(Named { names, outputs: output_count(&edge.vertex.op) });
        }
        stack.extend(edge.vertex.inputs.iter().cloned());
    }
    found
}

/// The layers of the build's results, none of them fetched for this.
async fn finals(output: &Output) -> Result<Vec<Pieces>, Failure> {
    let mut found = Vec::new();
    match &output.refs {
        Refs::Single(Some(snapshot)) => found.push(snapshot.pieces().await?),
        Refs::Single(None) => {}
        Refs::Map(map) => {
            for snapshot in map.iter().filter_map(|(_, snapshot)| snapshot.as_ref()) {
                found.push(snapshot.pieces().await?);
            }
        }
    }
    Ok(found)
}

async fn collect(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    log: &VertexLog,
) -> Result<cache_export::Results, Failure> {
    let imports = builder.context.imports_of(bridge.job.id());
    cache_export::collect(&builder.context, &imports, vertices(bridge), log).await
}

/// Exports one cache; returns its response keys.
pub(crate) async fn export(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    request: &ExportRequest,
    output: &Output,
    index: usize,
) -> Result<BTreeMap<String, String>, Failure> {
    let session = &bridge.session;
    let log = bridge.job.vertex(Digest::of(format!("{session}-cache-{index}")), request.title()?);
    let export = async {
        let mut results = collect(builder, bridge, &log).await?;
        if !request.is_max() {
            results = cache_export::only_final(results, &finals(output).await?);
        }
        cache_export::export(&builder.context, request, results, &bridge.sessions, &log).await
    };
    let names = request.attrs.get("ref").map(String::as_str).unwrap_or_default();
    match log.track(builder.context.online.during(&log, names, export)).await {
        Err(failure) if request.ignores_errors() => {
            let reason = without_credentials(failure.message());
            tracing::warn!(%reason, "cache export failed");
            Ok(BTreeMap::new())
        }
        result => result,
    }
}

/// Puts an inline cache into each image config of the output.
pub(crate) async fn add_inline(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    output: &mut Output,
) -> Result<(), Failure> {
    let digest = Digest::of(format!("{}-inline-cache", bridge.job.id()));
    let log = bridge.job.vertex(digest, "preparing layers for inline cache");
    let images = finals(output).await?;
    let results = log.track(collect(builder, bridge, &log)).await?;
    let results = cache_export::only_final(results, &images);
    let images: Vec<(String, Snapshot)> = match &output.refs {
        Refs::Single(one) => one.iter().map(|one| (CONFIG_KEY.to_owned(), one.clone())).collect(),
        Refs::Map(map) => map
            .iter()
            .filter_map(|(id, one)| Some((format!("{CONFIG_KEY}/{id}"), one.clone()?)))
            .collect(),
    };
    for (key, snapshot) in images {
        // A graph by itself has no config; exporters would make the same one.
        if !output.metadata.contains_key(&key) {
            let platform = key.strip_prefix(CONFIG_KEY).unwrap_or_default().trim_start_matches('/');
            let platform = Platform::parse(platform).unwrap_or_else(|_| Platform::host());
            let config = ImageConfig::new(&platform).to_vec().map_err(Failure::of)?;
            output.metadata.insert(key.clone(), config);
        }
        let Some(config) = output.metadata.get_mut(&key) else { continue };
        let inline = cache_export::inline(&results, &snapshot.pieces().await?)?;
        let mut value: serde_json::Value =
            serde_json::from_slice(config).map_err(Failure::internal)?;
        value[INLINE_KEY] = serde_json::Value::String(inline);
        *config = serde_json::to_vec(&value).map_err(Failure::internal)?;
    }
    Ok(())
}
