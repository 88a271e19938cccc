//! The build operation: a graph that is the content of a file in an input, solved in its place.
//!
//! The graph is held to what the build may do, like one that a client sends. Only this kind of builder exists: BuildKit's `BuildOp`
//! with its own marker as builder.

use cofferdam_solver::Step;
use cofferdam_wire::pb;

use crate::context::Context;
use crate::failure::Failure;
use crate::gateway::files;
use crate::snapshot::Snapshot;

/// The builder that an op names which is itself a graph.
const GRAPH_BUILDER: i64 = -1;
/// The input that holds the graph.
const DEFINITION: &str = "buildkit.llb.definition";
/// Attribute that names the graph's file.
const FILE_NAME: &str = "llbbuild.filename";
/// The file when none is named.
const DEFAULT_FILE: &str = "/buildkit.llb.definition";
/// Largest file: as much as one message holds.
const MAX_DEFINITION: usize = 15 << 20;

/// Solves the graph that an input holds.
pub(crate) async fn execute(
    context: &Context,
    build: &pb::BuildOp,
    inputs: &[Snapshot],
    step: &Step,
) -> Result<Vec<Snapshot>, Failure> {
    if build.builder != GRAPH_BUILDER {
        return Err(Failure::invalid("only LLB builder is currently allowed"));
    }
    let input = build.inputs.get(DEFINITION);
    let input = input.ok_or_else(|| Failure::invalid("no definition input for build op"))?;
    let files = usize::try_from(input.input).ok().and_then(|index| inputs.get(index));
    let files = files.ok_or_else(|| Failure::invalid("invalid definition input for build op"))?;
    let name = build.attrs.get(FILE_NAME).map_or(DEFAULT_FILE, String::as_str);
    let bytes = files::read_optional(files, name, MAX_DEFINITION + 1).await?;
    let bytes = bytes.ok_or_else(|| Failure::not_found(format!("build op: {name}: not found")))?;
    if bytes.len() > MAX_DEFINITION {
        return Err(Failure::invalid(format!(
            "build op: {name} is larger than a definition may be"
        )));
    }
    let definition: pb::Definition = cofferdam_graph::decode_definition(&bytes)
        .map_err(|error| Failure::invalid(crate::failure::chain(&error)))?;
    let bridge = context
        .builds_of(step)
        .into_iter()
        .find_map(|build| build.bridge.and_then(|bridge| bridge.upgrade()))
        .ok_or_else(Failure::canceled)?;
    // What is solved now needs the place.
    step.release_slot();
    bridge.nested(definition).await.map(|snapshot| vec![snapshot])
}
