//! Merge and diff: trees made of other trees' layers, without touching a file.
//!
//! A layer is meaningful by itself, so a merge is a concatenation of layer lists and a diff is
//! what remains after a common beginning. Only a diff of unrelated trees has to look at files.

use std::sync::Arc;

use cofferdam_store::{LayerId, Store, Tree};
use cofferdam_wire::pb;

use crate::blocking::blocking;
use crate::failure::Failure;
use crate::snapshot::Snapshot;

/// The layers of all inputs, in order.
pub(crate) async fn merge(op: &pb::MergeOp, inputs: &[Snapshot]) -> Result<Vec<Snapshot>, Failure> {
    let mut layers = Vec::new();
    for input in &op.inputs {
        if let Some(snapshot) = usize::try_from(input.input).ok().and_then(|at| inputs.get(at)) {
            layers.extend_from_slice(snapshot.tree().await?.layers());
        }
    }
    Ok(vec![Snapshot::committed(Tree::new(layers))])
}

/// What `upper` has that `lower` has not.
pub(crate) async fn diff(
    store: &Arc<Store>,
    op: &pb::DiffOp,
    inputs: &[Snapshot],
) -> Result<Vec<Snapshot>, Failure> {
    let tree = |input: Option<i64>| async move {
        match input.and_then(|at| usize::try_from(at).ok()).and_then(|at| inputs.get(at)) {
            Some(snapshot) => snapshot.tree().await,
            None => Ok(Tree::scratch()),
        }
    };
    let lower = tree(op.lower.as_option().map(|lower| lower.input)).await?;
    let upper = tree(op.upper.as_option().map(|upper| upper.input)).await?;
    let common: Vec<LayerId> = lower.ids();
    if upper.ids().starts_with(&common) {
        let rest = upper.layers()[common.len()..].to_vec();
        return Ok(vec![Snapshot::committed(Tree::new(rest))]);
    }
    let store = Arc::clone(store);
    let tree = blocking(move || super::file::difference(&store, &lower, &upper)).await??;
    Ok(vec![Snapshot::committed(tree)])
}
