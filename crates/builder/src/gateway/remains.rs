//! What a failed step left, offered to the client that drives the build: names that `NewContainer` takes as results.
//!
//! The detail is BuildKit's `errdefs.Solve`. A name means something to its own build only, and for no longer than that lasts.

use std::collections::HashMap;

use cofferdam_graph::{Graph, Vertex};
use cofferdam_solver::SolveError;
use cofferdam_wire::errdefs;

use super::bridge::Bridge;
use crate::error_details;
use crate::failure::Failure;
use crate::remains::{Remains, Subject};
use crate::snapshot::Snapshot;

const SOLVE: &str = "github.com/moby/buildkit/errdefs.Solve+json";
/// Names one build may be told; each keeps files on disk.
const MAX_LEFT: usize = 1_000;
/// Largest description of a step in an error: it travels in a header.
const MAX_DETAIL: usize = 1 << 20;

impl Bridge {
    /// A failed solve of `graph`, with everything a client may know about it.
    pub(super) fn explain(&self, error: &SolveError, graph: &Graph) -> Failure {
        let failure = error_details::of_solve(error, graph);
        let vertex = error
            .vertex()
            .and_then(|digest| graph.vertices().find(|vertex| vertex.digest == digest));
        match vertex {
            Some(vertex) => self.offer_remains(failure, vertex),
            None => failure,
        }
    }

    /// The failure of `vertex` with names for what is left of it.
    fn offer_remains(&self, failure: Failure, vertex: &Vertex) -> Failure {
        let Some(left) = failure.left().cloned() else { return failure };
        let mut named = HashMap::new();
        let Some(detail) = self.describe(&left.0, vertex, &mut named) else { return failure };
        if detail.len() > MAX_DETAIL || !self.keep(named) {
            return failure;
        }
        failure.with_detail(SOLVE, detail)
    }

    fn keep(&self, named: HashMap<String, Snapshot>) -> bool {
        let mut left = self.left();
        if left.len() + named.len() > MAX_LEFT {
            return false;
        }
        left.extend(named);
        true
    }

    fn describe(
        &self,
        remains: &Remains,
        vertex: &Vertex,
        named: &mut HashMap<String, Snapshot>,
    ) -> Option<String> {
        let mut name = |snapshots: &[Option<Snapshot>]| -> Option<Vec<String>> {
            let mut names = Vec::with_capacity(snapshots.len());
            for snapshot in snapshots {
                names.push(match snapshot {
                    Some(snapshot) => {
                        let id = crate::worker::random_id().ok()?;
                        named.insert(id.clone(), snapshot.clone());
                        id
                    }
                    None => String::new(),
                });
            }
            Some(names)
        };
        let number = |index: usize| i64::try_from(index).unwrap_or_default();
        let subject = match remains.subject {
            Subject::Whole => None,
            Subject::Action(index) => {
                let action = errdefs::FileAction { index: number(index), ..Default::default() };
                Some(action.into())
            }
            Subject::Input(index) => {
                let cache = errdefs::ContentCache { index: number(index), ..Default::default() };
                Some(cache.into())
            }
        };
        let solve = errdefs::Solve {
            inputIDs: name(&remains.inputs)?,
            mountIDs: name(&remains.mounts)?,
            op: buffa::MessageField::some(vertex.op.clone()),
            description: vertex.metadata.description.clone().into_iter().collect(),
            subject,
            ..Default::default()
        };
        serde_json::to_string(&solve).ok()
    }
}
