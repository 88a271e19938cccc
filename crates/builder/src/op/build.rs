//! The build operation: a graph that is the content of a file in an input, solved in its place.
//!
//! The graph is held to what each build may do that wants the step, like one that a client sends; builds under source policies have
//! no such steps. Only this kind of builder exists: BuildKit's `BuildOp` with its own marker as builder. Must never wait for itself.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_solver::Step;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::op::Op;

use crate::context::Context;
use crate::failure::Failure;
use crate::gateway::bridge::{Bridge, Reference};
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
    let mut asked = Asked::new();
    ask(context, step, &definition, &mut asked).await?;
    let (_, first) = asked.first().ok_or_else(Failure::canceled)?;
    let others = first.graph().vertices();
    let others = others.filter(|vertex| matches!(vertex.op.op, Some(Op::Build(_))));
    let _waiting = context.nesting.enter(step.digest, others.map(|op| op.digest).collect())?;
    // What is solved now needs the place.
    step.release_slot();
    let snapshot = loop {
        if let Some(snapshot) = solve(&asked).await? {
            break snapshot;
        }
        // All of those are over. Who came to want the step meanwhile was not asked, and is still there.
        let known = asked.len();
        ask(context, step, &definition, &mut asked).await?;
        if asked.len() == known {
            return Err(Failure::canceled());
        }
    };
    // Whoever came to want it meanwhile has a say as well.
    ask(context, step, &definition, &mut asked).await?;
    Ok(vec![snapshot])
}

/// Builds that may have the graph, and the graph as each of them has it.
type Asked = Vec<(Arc<Bridge>, Arc<Reference>)>;

/// Asks every build that wants the step and was not asked yet whether it may have this graph. One that may not fails the step.
async fn ask(
    context: &Context,
    step: &Step,
    definition: &pb::Definition,
    asked: &mut Asked,
) -> Result<(), Failure> {
    let builds = context.builds_of(step).into_iter();
    let bridges: Vec<Arc<Bridge>> =
        builds.filter_map(|build| build.bridge.and_then(|bridge| bridge.upgrade())).collect();
    for bridge in bridges {
        if asked.iter().any(|(known, _)| Arc::ptr_eq(known, &bridge)) || is_over(&bridge) {
            continue;
        }
        match bridge.nested(definition.clone()).await {
            Ok(reference) => asked.push((bridge, reference)),
            Err(_) if is_over(&bridge) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// Whether nobody waits for a build any more.
fn is_over(bridge: &Bridge) -> bool {
    bridge.job.cancellation().is_cancelled()
}

/// Solves the graph for all builds at once, so that the end of one takes nothing from the others. `None` when all of them ended.
async fn solve(asked: &[(Arc<Bridge>, Arc<Reference>)]) -> Result<Option<Snapshot>, Failure> {
    let mut running = Vec::with_capacity(asked.len());
    for (bridge, reference) in asked {
        running.push(bridge.evaluate(reference));
    }
    let mut found = None;
    let results = futures::future::join_all(running).await;
    for ((bridge, _), result) in asked.iter().zip(results) {
        match result {
            Ok(snapshot) => found = Some(snapshot),
            Err(_) if is_over(bridge) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

/// Which build ops wait for the results of which others: a graph in a file can need the very op that reads the file.
#[derive(Default)]
pub(crate) struct Nesting(Mutex<Vec<Arc<Wait>>>);

/// One op that waits.
struct Wait {
    op: Digest,
    others: Vec<Digest>,
}

impl Nesting {
    /// Says that `op` waits for `others` until the answer is dropped. Refused when one of them waits for `op`.
    fn enter(&self, op: Digest, others: Vec<Digest>) -> Result<Waiting<'_>, Failure> {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashSet::new();
        let mut left = others.clone();
        while let Some(next) = left.pop() {
            if next == op {
                return Err(Failure::invalid("build op: its graph needs the op itself"));
            }
            if seen.insert(next) {
                let found = waits.iter().filter(|wait| wait.op == next);
                left.extend(found.flat_map(|wait| wait.others.iter().copied()));
            }
        }
        let wait = Arc::new(Wait { op, others });
        waits.push(Arc::clone(&wait));
        Ok(Waiting { nesting: self, wait })
    }
}

/// An op that waits, for as long as this lives.
struct Waiting<'a> {
    nesting: &'a Nesting,
    wait: Arc<Wait>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.nesting.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.retain(|wait| !Arc::ptr_eq(wait, &self.wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_that_need_each_other_are_refused() {
        let nesting = Nesting::default();
        let [a, b, c] = ["a", "b", "c"].map(Digest::of);
        assert!(nesting.enter(a, vec![a]).is_err());
        let first = nesting.enter(a, vec![b]);
        let second = nesting.enter(b, vec![c]);
        assert!(first.is_ok() && second.is_ok());
        assert!(nesting.enter(c, vec![a]).is_err(), "through another");
        assert!(nesting.enter(c, vec![]).is_ok());
        drop(first);
        assert!(nesting.enter(c, vec![a]).is_ok(), "it does not wait any more");
    }
}
