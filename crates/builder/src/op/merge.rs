//! Merge and diff: trees made of other trees' layers, without touching a file.
//!
//! A layer is meaningful by itself, so a merge is a concatenation of layer lists and a diff is
//! what remains after a common beginning. A diff of unrelated trees has to look at files, and so has
//! one of a step that replaced a directory or left copies of what was there before.

use std::sync::Arc;

use cofferdam_store::{Layer, Store};
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
                layers.extend(portable(store, &pieces, 0, false).await?);
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
        let rest = portable(store, &upper, lower.len(), true).await?;
        return Ok(vec![Snapshot::joined(Pieces::new(rest))]);
    }
    let (lower, upper) = tokio::try_join!(lower.fetch(), upper.fetch())?;
    let store = Arc::clone(store);
    let tree = blocking(move || super::file::difference(&store, &lower, &upper)).await??;
    Ok(vec![Snapshot::committed(tree)])
}

/// The layers of `pieces` from `first` on, in a form that can be put on other layers. A directory
/// that a step replaced hides whatever lies below it, while only what the step saw there is to go: the
/// layer is made again with those names taken away one by one. So it is when `changes` are asked for and
/// it holds what was there before: on other layers it would bring that along, as if the step had made
/// it. That alone is no reason to fetch what is below, nor to fail. Layers of images stay as they came.
async fn portable(
    store: &Arc<Store>,
    pieces: &Pieces,
    first: usize,
    changes: bool,
) -> Result<Vec<Piece>, Failure> {
    let mut found = Vec::with_capacity(pieces.len().saturating_sub(first));
    for (index, piece) in pieces.iter().enumerate().skip(first) {
        let Some(layer) = made_here(piece) else {
            found.push(piece.clone());
            continue;
        };
        let below = Pieces::new(pieces.iter().take(index).cloned().collect());
        let asked = layer.clone();
        let hides = blocking(move || asked.has_opaque()).await?.map_err(Failure::store)?;
        let remade = hides || (changes && repeats(&below, &layer).await?);
        if !remade {
            found.push(piece.clone());
            continue;
        }
        let lower = below.fetch().await?;
        let store = Arc::clone(store);
        let tree = blocking(move || super::file::remake(&store, &lower, &layer)).await??;
        found.extend(Pieces::from(&tree).iter().cloned());
    }
    Ok(found)
}

/// Whether a layer holds what is the same below, as far as that can be seen here: nothing is fetched to leave something out.
async fn repeats(below: &Pieces, layer: &Layer) -> Result<bool, Failure> {
    let Some(lower) = below.here() else { return Ok(false) };
    let layer = layer.clone();
    blocking(move || super::file::repeats(&lower, &layer)).await?
}

/// The layer that a step of this builder made.
fn made_here(piece: &Piece) -> Option<Layer> {
    match piece {
        Piece::Here(layer) if layer.info().chain_id.is_none() => Some(layer.clone()),
        Piece::Here(_) | Piece::There(_) => None,
    }
}
