//! A file tree as far as anybody needs it: a list of layers, of which some may still be elsewhere.
//!
//! Merging, exporting and naming layers take their descriptions and not their files. Whoever reads
//! files asks for the [`Tree`], and only then is anything pulled. What is elsewhere was described by
//! an image or a cache, so nothing here may be believed before it was fetched and verified.

use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_image::Reference;
use cofferdam_store::{Blob, Layer, LayerId, Tree};
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::failure::Failure;
use crate::source::layers::{BlobStream, RemoteLayer, RemoteLayers};

/// Layers that are fetched at once; registries limit connections per client.
const PARALLEL_FETCHES: usize = 4;

/// One layer.
#[derive(Clone)]
pub(crate) enum Piece {
    /// On this disk.
    Here(Layer),
    /// Elsewhere.
    There(Arc<Absent>),
}

/// A layer that was described and not fetched.
pub(crate) struct Absent {
    /// What is known of it.
    pub(crate) remote: RemoteLayer,
    chain_id: Digest,
    from: Arc<RemoteLayers>,
}

/// What tells two layers apart, fetched or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PieceName {
    /// Made here.
    Layer(LayerId),
    /// Got from elsewhere.
    Chain(Digest),
}

/// Layers, bottom first.
#[derive(Clone, Default)]
pub(crate) struct Pieces(Vec<Piece>);

impl Absent {
    /// Layer `chain_id` of `from`.
    pub(crate) const fn new(
        remote: RemoteLayer,
        chain_id: Digest,
        from: Arc<RemoteLayers>,
    ) -> Self {
        Self { remote, chain_id, from }
    }

    /// Fetches and unpacks the layer.
    pub(crate) async fn layer(&self) -> Result<Layer, Failure> {
        self.from.layer(&self.remote, self.chain_id).await
    }

    /// Fetches the packed layer.
    pub(crate) async fn blob(&self) -> Result<Blob, Failure> {
        self.from.blob(&self.remote).await
    }

    /// The packed layer as it comes, unverified and kept nowhere.
    pub(crate) async fn stream(&self, offset: u64) -> Result<BlobStream, Failure> {
        self.from.stream(&self.remote, offset).await
    }

    /// Whether it can still be had.
    pub(crate) async fn exists(&self) -> bool {
        self.from.has(&self.remote).await
    }

    /// The repository that has it.
    pub(crate) fn place(&self) -> Option<Reference> {
        self.from.place(&self.remote)
    }
}

impl Piece {
    fn name(&self) -> PieceName {
        match self {
            Self::Here(layer) => {
                let chain_id = layer.info().chain_id;
                chain_id.map_or(PieceName::Layer(layer.id()), PieceName::Chain)
            }
            Self::There(absent) => PieceName::Chain(absent.chain_id),
        }
    }
}

impl Pieces {
    /// Layers, bottom first.
    pub(crate) const fn new(pieces: Vec<Piece>) -> Self {
        Self(pieces)
    }

    /// The layers, bottom first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.0.iter()
    }

    /// How many layers there are.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is scratch.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What tells the layers from others.
    pub(crate) fn names(&self) -> Vec<PieceName> {
        self.0.iter().map(Piece::name).collect()
    }

    /// The tree, when all of it is on this disk.
    pub(crate) fn here(&self) -> Option<Tree> {
        let layer = |piece: &Piece| match piece {
            Piece::Here(layer) => Some(layer.clone()),
            Piece::There(_) => None,
        };
        self.0.iter().map(layer).collect::<Option<Vec<_>>>().map(Tree::new)
    }

    /// The tree, with everything fetched that was elsewhere.
    pub(crate) async fn fetch(&self) -> Result<Tree, Failure> {
        let mut sources: Vec<&Arc<RemoteLayers>> = Vec::new();
        for piece in &self.0 {
            if let Piece::There(absent) = piece
                && !sources.iter().any(|source| Arc::ptr_eq(source, &absent.from))
            {
                sources.push(&absent.from);
            }
        }
        sources.iter().for_each(|source| source.started());
        let mut work = Vec::with_capacity(self.0.len());
        for piece in self.0.iter().cloned() {
            work.push(
                async move {
                    match piece {
                        Piece::Here(layer) => Ok(layer),
                        Piece::There(absent) => absent.layer().await,
                    }
                }
                .boxed(),
            );
        }
        let fetched = futures::stream::iter(work)
            .buffered(PARALLEL_FETCHES)
            .try_collect::<Vec<Layer>>()
            .await;
        sources.iter().for_each(|source| source.ended(fetched.as_ref().err()));
        fetched.map(Tree::new)
    }
}

impl From<&Tree> for Pieces {
    fn from(tree: &Tree) -> Self {
        Self(tree.iter().cloned().map(Piece::Here).collect())
    }
}
