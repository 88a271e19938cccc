//! The exporters of one build: those of its request, and those that its client names once the
//! result is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cofferdam_wire::moby::buildkit::v1::SolveRequest;
use futures::future::try_join_all;

use crate::builder::Builder;
use crate::export::{Attributes, Export, Kind, Output, Response, vertex_digest};
use crate::failure::Failure;
use crate::gateway::bridge::{Answer, Bridge};

/// Exporters of one build. Each of them reads the whole result.
const MAX_EXPORTERS: usize = 100;
/// Frontend attribute that is an exporter attribute too.
const EPOCH_ARG: &str = "build-arg:SOURCE_DATE_EPOCH";
/// Metadata of a result that is its `SOURCE_DATE_EPOCH`; per platform with a slash and its id.
const EPOCH_KEY: &str = "source.date.epoch";

/// The exporters of a request: the list, or the single one of older clients.
pub(super) fn exporters(request: &SolveRequest) -> Result<Vec<Attributes>, Failure> {
    if request.Exporters.len() > MAX_EXPORTERS {
        return Err(Failure::invalid(format!("more than {MAX_EXPORTERS} exporters")));
    }
    if !request.Exporters.is_empty() {
        let exporters = request.Exporters.iter();
        return exporters.map(|one| parse(request, &one.Type, one.Attrs.iter())).collect();
    }
    if request.ExporterDeprecated.is_empty() {
        return Ok(Vec::new());
    }
    let attrs = request.ExporterAttrsDeprecated.iter();
    Ok(vec![parse(request, &request.ExporterDeprecated, attrs)?])
}

fn parse<'a>(
    request: &SolveRequest,
    kind: &str,
    attrs: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<Attributes, Failure> {
    let mut attrs: BTreeMap<String, String> =
        attrs.map(|(key, value)| (key.clone(), value.clone())).collect();
    let epoch = request.FrontendAttrs.get(EPOCH_ARG);
    if let Some(epoch) = epoch.filter(|epoch| epoch.is_empty() || epoch.parse::<i64>().is_ok()) {
        attrs.entry("source-date-epoch".to_owned()).or_insert_with(|| epoch.clone());
    }
    Attributes::parse(kind, &attrs)
}

/// Runs all exporters, side by side.
pub(super) async fn export(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    request: &SolveRequest,
    mut wanted: Vec<Attributes>,
    (answer, output): (&Answer, &Output),
) -> Result<Response, Failure> {
    if request.EnableSessionExporter {
        wanted.extend(of_session(builder, bridge, request, answer).await?);
    }
    let compatibility = super::solve::compatibility(request);
    let epoch = epoch_of(output);
    let exports = wanted.into_iter().enumerate().map(|(index, mut attributes)| async move {
        if !attributes.epoch_given {
            attributes.epoch = epoch;
        }
        attributes.settle(compatibility, !output.attestations.is_empty())?;
        let digest = vertex_digest(&request.Session, index);
        let export = Export {
            context: Arc::clone(&builder.context),
            sessions: bridge.sessions.clone(),
            index,
            log: bridge.job.vertex(digest, title(attributes.kind)),
            recording: builder.context.recording_of(bridge.job.id()),
            attributes,
        };
        export.run(output).await
    });
    let mut response = Response::new();
    // Of keys that several give, the last one's is told.
    for one in try_join_all(exports).await? {
        response.extend(one);
    }
    Ok(response)
}

/// Exporters that the client wants when it is told what there is.
async fn of_session(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    request: &SolveRequest,
    answer: &Answer,
) -> Result<Vec<Attributes>, Failure> {
    let Some(id) = bridge.sessions.first() else { return Ok(Vec::new()) };
    let session = builder.context.sessions.get(id).await.map_err(Failure::of)?;
    let metadata: HashMap<String, Vec<u8>> = answer.metadata.clone().into_iter().collect();
    // The client may look into the results by these names while it makes up its mind.
    let refs = answer.results().map(|reference| reference.id.clone()).collect();
    let found = session.find_exporters(metadata, refs).await.map_err(Failure::of)?;
    if found.len() > MAX_EXPORTERS {
        return Err(Failure::invalid(format!("more than {MAX_EXPORTERS} exporters")));
    }
    found.iter().map(|one| parse(request, &one.kind, one.attrs.iter())).collect()
}

/// Tells the client's exporters what came of the build.
pub(super) async fn finalize(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    response: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let Some(id) = bridge.sessions.first() else { return Ok(()) };
    let session = builder.context.sessions.get(id).await.map_err(Failure::of)?;
    session.finalize_export(response).await.map_err(Failure::of)
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
