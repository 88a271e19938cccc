//! `Control.Solve`: one build from request to response.
//!
//! The call lasts as long as the build. When it is dropped, because the client went away, or
//! when the client's session ends, the build is cancelled and everything it held is released.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_graph::Edge;
use cofferdam_solver::{Job, VertexLog};
use cofferdam_wire::moby::buildkit::v1::{SolveRequest, SolveResponse};
use cofferdam_wire::pb;
use tokio_util::sync::CancellationToken;

use crate::admission::Share;
use crate::builder::Builder;
use crate::cache::export as cache_export;
use crate::cache::export::ExportRequest;
use crate::cache::import::ImportRequest;
use crate::context::BuildInfo;
use crate::export::{Attributes, CONFIG_KEY, Export, Kind, Output, Refs, vertex_digest};
use crate::failure::Failure;
use crate::gateway::bridge::{Answer, AnswerRefs, Bridge};
use crate::gateway::entitlements::Granted;
use crate::runtime::OpRuntime;
use crate::serving::{Scope, Solving};
use crate::snapshot::Snapshot;

/// Newest wire behaviour this builder has, in BuildKit's numbering.
const COMPATIBILITY: i64 = 30;
/// Frontend attribute that is an exporter attribute too.
const EPOCH_ARG: &str = "build-arg:SOURCE_DATE_EPOCH";
/// Metadata of a result that is its `SOURCE_DATE_EPOCH`; per platform with a slash and its id.
const EPOCH_KEY: &str = "source.date.epoch";
/// Where an image's config keeps an inline cache.
const INLINE_KEY: &str = "moby.buildkit.cache.v0";

/// Ends a build whichever way its call ends.
struct Ending {
    builder: Arc<Builder>,
    id: String,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.builder.finish(&self.id);
    }
}

/// Runs a build of `scope`.
pub(super) async fn solve(
    builder: &Arc<Builder>,
    scope: &Scope,
    request: SolveRequest,
) -> Result<SolveResponse, Failure> {
    check(&request)?;
    let id = scope.name(&request.Ref);
    let share = scope.share();
    let places = share.places(&builder.context.config.limits);
    let opened = builder.solver.job_within(&id, places).map_err(Failure::of);
    let job = opened.map_err(|failure| scope.explain(failure))?;
    let solving = scope.begin(&request.Ref, &job)?;
    let result = solve_job(builder, scope, request, job, &solving, &share).await;
    let result = result.map_err(|failure| scope.explain_end(failure));
    solving.end(&result);
    result
}

async fn solve_job(
    builder: &Arc<Builder>,
    scope: &Scope,
    request: SolveRequest,
    job: Arc<Job<OpRuntime>>,
    solving: &Solving,
    share: &Share,
) -> Result<SolveResponse, Failure> {
    let id = job.id().to_owned();
    let wanted = exporters(&request)?;
    let granted = Granted::new(&builder.context.config, &request.Entitlements)?;
    let session = scope.name(&request.Session);
    let sessions = if session.is_empty() { vec![] } else { vec![session.clone()] };
    let bridge = Bridge::new(
        Arc::clone(&builder.context),
        Arc::clone(&job),
        request.Session.clone(),
        sessions.clone(),
        builder.worker.platforms.clone(),
        request.FrontendInputs.clone().into_iter().collect(),
        granted,
    );
    let info = BuildInfo {
        sessions: sessions.clone(),
        scope: scope.clone(),
        solve: solving.solve().cloned(),
        ..BuildInfo::default()
    };
    builder.context.add_build(&id, info);
    if let Err(failure) = builder.add(job, Arc::clone(&bridge)) {
        builder.context.remove_build(&id);
        return Err(failure);
    }
    let _ending = Ending { builder: Arc::clone(builder), id };

    let client_gone = client_gone(builder, &session);
    let run = async {
        let _place = builder.admission.enter(share, &bridge.job).await?;
        let work = run(builder, &bridge, &request, wanted, sessions);
        share.in_time(builder.context.config.limits.build_time(), work).await
    };
    tokio::select! {
        result = run => result,
        () = client_gone => {
            bridge.job.cancel();
            Err(Failure::canceled())
        }
        () = cancelled(bridge.job.cancellation()) => Err(Failure::canceled()),
    }
}

async fn cancelled(token: CancellationToken) {
    token.cancelled().await;
}

/// Resolves when a session that was there has ended; never for a build without one.
async fn client_gone(builder: &Arc<Builder>, session: &str) {
    if !session.is_empty()
        && let Ok(session) = builder.context.sessions.get(session).await
    {
        session.closed().cancelled().await;
        return;
    }
    std::future::pending().await
}

fn check(request: &SolveRequest) -> Result<(), Failure> {
    if request.Ref.is_empty() {
        return Err(Failure::invalid("solve request without ref"));
    }
    if request.CompatibilityVersion > COMPATIBILITY {
        return Err(Failure::invalid(format!(
            "unsupported compatibility-version {}: upgrade buildkit (max supported: {COMPATIBILITY})",
            request.CompatibilityVersion
        )));
    }
    if request.Definition.is_set() && !request.Frontend.is_empty() {
        return Err(Failure::invalid("cannot solve with both Definition and Frontend specified"));
    }
    if request.SourcePolicy.is_set() || !request.SourcePolicySession.is_empty() {
        return Err(Failure::new(
            connectrpc::ErrorCode::Unimplemented,
            "source policies are not supported",
        ));
    }
    Ok(())
}

/// The exporters of a request: the list, or the single one of older clients.
fn exporters(request: &SolveRequest) -> Result<Vec<Attributes>, Failure> {
    let epoch = request.FrontendAttrs.get(EPOCH_ARG);
    let parse = |kind: &str, attrs: &HashMap<String, String>| {
        let mut attrs: BTreeMap<String, String> =
            attrs.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(epoch) = epoch.filter(|epoch| epoch.parse::<i64>().is_ok()) {
            attrs.entry("source-date-epoch".to_owned()).or_insert_with(|| epoch.clone());
        }
        Attributes::parse(kind, &attrs)
    };
    let copied =
        |attrs: &_| -> HashMap<String, String> { std::iter::Iterator::collect(pairs(attrs)) };
    if !request.Exporters.is_empty() {
        return request
            .Exporters
            .iter()
            .map(|exporter| parse(&exporter.Type, &copied(&exporter.Attrs)))
            .collect();
    }
    if request.ExporterDeprecated.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![parse(&request.ExporterDeprecated, &copied(&request.ExporterAttrsDeprecated))?])
}

fn pairs<'a>(
    attrs: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> impl Iterator<Item = (String, String)> {
    attrs.into_iter().map(|(key, value)| (key.clone(), value.clone()))
}

async fn run(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    request: &SolveRequest,
    wanted: Vec<Attributes>,
    sessions: Vec<String>,
) -> Result<SolveResponse, Failure> {
    bridge.import(imports(request)).await;
    let answer = answer(bridge, request).await?;
    let mut output = bridge.output(&answer).await?;
    let cache_exports = cache_requests(request)?;
    if cache_exports.iter().any(|request| request.kind == "inline") {
        add_inline_cache(builder, bridge, &mut output).await?;
    }
    let mut response: BTreeMap<String, String> = answer
        .metadata
        .iter()
        .filter(|(key, _)| key.starts_with("frontend."))
        .map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    let epoch = epoch_of(&output);
    for (index, mut attributes) in wanted.into_iter().enumerate() {
        if !attributes.epoch_given {
            attributes.epoch = epoch;
        }
        let digest = vertex_digest(&request.Session, index);
        let log = bridge.job.vertex(digest, title(attributes.kind));
        let export = Export {
            context: Arc::clone(&builder.context),
            sessions: sessions.clone(),
            index,
            attributes,
            log,
        };
        response.extend(export.run(&output).await?);
    }
    for (index, wanted) in cache_exports.iter().enumerate() {
        if wanted.kind != "inline" {
            response.extend(export_cache(builder, bridge, wanted, &output, index).await?);
        }
    }
    Ok(SolveResponse {
        ExporterResponse: response.into_iter().collect(),
        ..SolveResponse::default()
    })
}

/// The time that the frontend says the result carries. Platforms share it.
fn epoch_of(output: &Output) -> Option<i64> {
    let mut known = output.metadata.iter().filter(|(key, _)| {
        key.strip_prefix(EPOCH_KEY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    known.find_map(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok())
}

const fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Image => "exporting to image",
        Kind::Oci => "exporting to oci image format",
        Kind::Docker => "exporting to docker image format",
        Kind::Tar => "exporting to client tarball",
        Kind::Local => "exporting to client directory",
    }
}

fn imports(request: &SolveRequest) -> Vec<ImportRequest> {
    let Some(cache) = request.Cache.as_option() else { return Vec::new() };
    let old = cache.ImportRefsDeprecated.iter().map(|reference| ImportRequest {
        kind: "registry".to_owned(),
        attrs: BTreeMap::from([("ref".to_owned(), reference.clone())]),
    });
    let new = cache.Imports.iter().map(|entry| ImportRequest {
        kind: entry.Type.clone(),
        attrs: pairs(&entry.Attrs).collect(),
    });
    // Frontend builds carry their imports as a frontend attribute.
    let listed: Vec<FrontendImport> = request
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

#[derive(serde::Deserialize)]
struct FrontendImport {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Attrs", default)]
    attrs: BTreeMap<String, String>,
}

async fn answer(bridge: &Arc<Bridge>, request: &SolveRequest) -> Result<Answer, Failure> {
    if let Some(definition) = request.Definition.as_option().filter(|def| !def.def.is_empty()) {
        let reference = bridge.reference(definition.clone())?;
        return Ok(Answer { refs: AnswerRefs::Single(Some(reference)), ..Answer::default() });
    }
    if request.Definition.is_set() && request.Frontend.is_empty() {
        // A definition without ops is scratch.
        return Ok(Answer::default());
    }
    if request.Frontend.is_empty() {
        return bridge.verdict().await;
    }
    let attrs = pairs(&request.FrontendAttrs).collect();
    let inputs: HashMap<String, pb::Definition> = bridge.inputs.clone();
    bridge.frontend(&request.Frontend, attrs, inputs).await
}

fn cache_requests(request: &SolveRequest) -> Result<Vec<ExportRequest>, Failure> {
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
    for request in &wanted {
        request.title()?;
    }
    Ok(wanted)
}

/// The names of every vertex the build looked at.
fn names(bridge: &Bridge) -> Vec<Vec<Digest>> {
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut stack: Vec<Edge> = bridge.solved();
    while let Some(edge) = stack.pop() {
        if !seen.insert(edge.vertex.digest) {
            continue;
        }
        if edge.vertex.export_cache() {
            found.push(bridge.job.names(&edge.vertex.digest));
        }
        stack.extend(edge.vertex.inputs.iter().cloned());
    }
    found
}

async fn final_trees(output: &Output) -> Result<Vec<crate::snapshot::Tree>, Failure> {
    let mut trees = Vec::new();
    match &output.refs {
        Refs::Single(Some(snapshot)) => trees.push(snapshot.tree().await?),
        Refs::Single(None) => {}
        Refs::Map(map) => {
            for snapshot in map.iter().filter_map(|(_, snapshot)| snapshot.as_ref()) {
                trees.push(snapshot.tree().await?);
            }
        }
    }
    Ok(trees)
}

async fn collect(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    fetch: bool,
    log: &VertexLog,
) -> Result<cache_export::Results, Failure> {
    let imports = builder.context.imports_of(bridge.job.id());
    cache_export::collect(&builder.context, &imports, names(bridge), fetch, log).await
}

async fn export_cache(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    request: &ExportRequest,
    output: &Output,
    index: usize,
) -> Result<BTreeMap<String, String>, Failure> {
    let session = &bridge.session;
    let log = bridge.job.vertex(Digest::of(format!("{session}-cache-{index}")), request.title()?);
    let export = async {
        let max = request.is_max();
        let mut results = collect(builder, bridge, max, &log).await?;
        if !max {
            results = cache_export::only_final(results, &final_trees(output).await?);
        }
        cache_export::export(&builder.context, request, results, &bridge.sessions, &log).await
    };
    let names = request.attrs.get("ref").map(String::as_str).unwrap_or_default();
    match log.track(builder.context.online.during(&log, names, export)).await {
        Err(failure) if request.ignores_errors() => {
            tracing::warn!(%failure, "cache export failed");
            Ok(BTreeMap::new())
        }
        result => result,
    }
}

/// Puts an inline cache into each image config of the output.
async fn add_inline_cache(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    output: &mut Output,
) -> Result<(), Failure> {
    let digest = Digest::of(format!("{}-inline-cache", bridge.job.id()));
    let log = bridge.job.vertex(digest, "preparing layers for inline cache");
    let trees = final_trees(output).await?;
    let results = log.track(collect(builder, bridge, false, &log)).await?;
    let results = cache_export::only_final(results, &trees);
    let images: Vec<(String, Snapshot)> = match &output.refs {
        Refs::Single(one) => one.iter().map(|one| (CONFIG_KEY.to_owned(), one.clone())).collect(),
        Refs::Map(map) => map
            .iter()
            .filter_map(|(id, one)| Some((format!("{CONFIG_KEY}/{id}"), one.clone()?)))
            .collect(),
    };
    for (key, snapshot) in images {
        let Some(config) = output.metadata.get_mut(&key) else { continue };
        let inline = cache_export::inline(&results, &snapshot.tree().await?)?;
        let mut value: serde_json::Value =
            serde_json::from_slice(config).map_err(Failure::internal)?;
        value[INLINE_KEY] = serde_json::Value::String(inline);
        *config = serde_json::to_vec(&value).map_err(Failure::internal)?;
    }
    Ok(())
}
