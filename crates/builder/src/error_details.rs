//! Typed details of failures, in the JSON that BuildKit's clients decode.
//!
//! Details go on the wire from the outermost inwards; a client shows the source lines of the
//! first source it finds.

use std::collections::HashSet;

use base64::Engine as _;
use cofferdam_digest::Digest;
use cofferdam_dockerfile::BuildError;
use cofferdam_graph::{Graph, SourceRange};
use cofferdam_solver::SolveError;
use cofferdam_wire::pb;
use connectrpc::ErrorCode;
use serde_json::json;

use crate::failure::Failure;

const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";
const FRONTEND_CAPABILITY: &str = "github.com/moby/buildkit/errdefs.FrontendCap+json";
const INCOMPLETE: &str = "github.com/moby/buildkit/errdefs.ProvenanceMaterialsIncomplete+json";
const SUBREQUEST: &str = "github.com/moby/buildkit/errdefs.Subrequest+json";

/// A failed solve of `graph`: the step's own details, its vertex, and where it was written.
pub(crate) fn of_solve(error: &SolveError, graph: &Graph) -> Failure {
    let mut failure = Failure::from(error);
    if let Some(vertex) = error.vertex() {
        let detail = json!({ "digest": vertex.to_string() }).to_string();
        failure = failure.with_detail(VERTEX, detail);
    }
    let consumers = || error.vertex().map(|vertex| lines_of_consumers(graph, vertex));
    let sources = match error.sources() {
        [] => consumers().unwrap_or_default(),
        sources => sources.to_vec(),
    };
    for source in &sources {
        failure = failure.with_detail(SOURCE, self::source(&source.info, &source.ranges));
    }
    failure
}

/// Where the nearest consumers of a vertex were written. Frontends give no lines to sources (an
/// `ADD` of a URL is a source and a copy), and users think of the instruction.
fn lines_of_consumers(graph: &Graph, vertex: Digest) -> Vec<SourceRange> {
    let mut wanted = HashSet::from([vertex]);
    // Inputs come before consumers, so one pass climbs as far as it must.
    for candidate in graph.vertices() {
        if candidate.inputs.iter().any(|edge| wanted.contains(&edge.vertex.digest)) {
            if !candidate.sources.is_empty() {
                return candidate.sources.clone();
            }
            wanted.insert(candidate.digest);
        }
    }
    Vec::new()
}

/// A provenance that was to name every source, and cannot: these are directories of the client.
pub(crate) fn incomplete_materials(locals: &[String]) -> Failure {
    let mut text =
        "provenance materials are incomplete\n\nThe build requested complete provenance \
                    materials, but not all dependencies could be captured."
            .to_owned();
    if !locals.is_empty() {
        text.push_str("\n\nUncaptured local sources:");
    }
    for name in locals {
        let name = if name.is_empty() { "<unnamed>" } else { name };
        text.push_str(&format!("\n  - {name}\n    reason: local_source"));
    }
    let incomplete = locals.iter().map(|name| json!({ "name": name, "reason": "local_source" }));
    let detail = json!({ "incomplete": incomplete.collect::<Vec<_>>() }).to_string();
    Failure::unknown(text).with_detail(INCOMPLETE, detail)
}

/// A failed frontend: the builder's own failure when that was the cause, and the lines at fault.
pub(crate) fn of_frontend(error: &BuildError) -> Failure {
    let inner = error
        .client_error()
        .and_then(|client| client.inner())
        .and_then(|inner| inner.downcast_ref::<Failure>());
    let code = inner.map_or(ErrorCode::Unknown, Failure::code);
    let mut failure = Failure::new(code, error.to_string());
    for (type_url, value) in inner.map(Failure::details).unwrap_or_default().iter().rev() {
        failure = failure.with_detail(type_url, value.clone());
    }
    match error.kind() {
        cofferdam_dockerfile::BuildErrorKind::UnsupportedCapability(name) => {
            failure = failure
                .with_code(ErrorCode::Unimplemented)
                .with_detail(FRONTEND_CAPABILITY, json!({ "name": name }).to_string());
        }
        cofferdam_dockerfile::BuildErrorKind::UnsupportedRequest(name) => {
            failure = failure
                .with_code(ErrorCode::Unimplemented)
                .with_detail(SUBREQUEST, json!({ "name": name }).to_string());
        }
        _ => {}
    }
    for (info, ranges) in error.sources() {
        failure = failure.with_detail(SOURCE, source(&info, &ranges));
    }
    failure
}

/// A frontend that cannot do what the request needs.
pub(crate) fn lacking_capability(name: &str) -> Failure {
    let detail = json!({ "name": name }).to_string();
    Failure::new(ErrorCode::Unimplemented, format!("unsupported frontend capability {name}"))
        .with_detail(FRONTEND_CAPABILITY, detail)
}

fn source(info: &pb::SourceInfo, ranges: &[pb::Range]) -> String {
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let position = |position: Option<&pb::Position>| {
        let position = position.cloned().unwrap_or_default();
        json!({ "line": position.line, "character": position.character })
    };
    let definition = info.definition.as_option().map(|definition| {
        json!({ "def": definition.def.iter().map(|op| base64(op)).collect::<Vec<_>>() })
    });
    json!({
        "info": {
            "filename": info.filename,
            "data": base64(&info.data),
            "definition": definition,
            "language": info.language,
        },
        "ranges": ranges
            .iter()
            .map(|range| json!({
                "start": position(range.start.as_option()),
                "end": position(range.end.as_option()),
            }))
            .collect::<Vec<_>>(),
    })
    .to_string()
}
