//! Merge and diff: trees made of other trees' layers, without touching a file.
//!
//! A layer is meaningful by itself, so a merge is a concatenation of layer lists and a diff is
//! what remains after a common beginning. Only a diff of unrelated trees, or one that replaced a
//! directory by another, has to look at files.

use std::sync::Arc;

use cofferdam_store::Store;
use cofferdam_wire::pb;

use crate::blocking::blocking;
use crate::failure::Failure;
use crate::pieces::{Piece, Pieces};
use crate::snapshot::Snapshot;

/// The layers of all inputs, in order.
pub(crate) async fn merge(
    store: &Arc<Store>,
    op: &pb::MergeOp,
    inputs: &[Snapshot],
) -> Result<Vec<Snapshot>, Failure> {
    let mut layers: Vec<Piece> = Vec::new();
    for input in &op.inputs {
        if let Some(snapshot) = usize::try_from(input.input).ok().and_then(|at| inputs.get(at)) {
            let pieces = snapshot.pieces().await?;
            if layers.is_empty() {
                layers.extend(pieces.iter().cloned());
            } else {
                layers.extend(portable(store, &pieces, 0).await?);
            }
        }
    }
    Ok(vec![Snapshot::joined(Pieces::new(layers))])
}

/// What `upper` has that `lower` has not.
pub(crate) async fn diff(
    store: &Arc<Store>,
    op: &pb::DiffOp,
    inputs: &[Snapshot],
) -> Result<Vec<Snapshot>, Failure> {
    let pieces = |input: Option<i64>| async move {
        match input.and_then(|at| usize::try_from(at).ok()).and_then(|at| inputs.get(at)) {
            Some(snapshot) => snapshot.pieces().await,
            None => Ok(Pieces::default()),
        }
    };
    let lower = pieces(op.lower.as_option().map(|lower| lower.input)).await?;
    let upper = pieces(op.upper.as_option().map(|upper| upper.input)).await?;
    if upper.names().starts_with(&lower.names()) {
        let rest = portable(store, &upper, lower.len()).await?;
        return Ok(vec![Snapshot::joined(Pieces::new(rest))]);
    }
    let (lower, upper) = tokio::try_join!(lower.fetch(), upper.fetch())?;
    let store = Arc::clone(store);
    let tree = blocking(move || super::file::difference(&store, &lower, &upper)).await??;
    Ok(vec![Snapshot::committed(tree)])
}

/// The layers of `pieces` from `first` on, in a form that can be put on other layers. A directory
/// that a step replaced hides whatever lies below it, while only what the step saw there is to go: the
/// layer is made again with those names taken away one by one. Layers of images stay as they came.
async fn portable(
    store: &Arc<Store>,
    pieces: &Pieces,
    first: usize,
) -> Result<Vec<Piece>, Failure> {
    let mut found = Vec::with_capacity(pieces.len().saturating_sub(first));
    for (index, piece) in pieces.iter().enumerate().skip(first) {
        let asked = piece.clone();
        if !blocking(move || hides(&asked)).await?.map_err(Failure::store)? {
            found.push(piece.clone());
            continue;
        }
        let upto = |end: usize| Pieces::new(pieces.iter().take(end).cloned().collect());
        let (lower, upper) = (upto(index).fetch().await?, upto(index + 1).fetch().await?);
        let store = Arc::clone(store);
        let tree = blocking(move || super::file::difference(&store, &lower, &upper)).await??;
        found.extend(Pieces::from(&tree).iter().cloned());
    }
    Ok(found)
}

fn hides(piece: &Piece) -> std::io::Result<bool> {
    match piece {
        Piece::Here(layer) if layer.info().chain_id.is_none() => layer.has_opaque(),
        Piece::Here(_) | Piece::There(_) => Ok(false),
    }
}
