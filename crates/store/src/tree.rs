//! A tree: an ordered list of layers, bottom first.

use cofferdam_digest::{Digest, Digester};

use crate::ids::LayerId;
use crate::layer::Layer;

/// A file tree as layers, bottom first. Holding it pins all of them. Empty means scratch.
#[derive(Debug, Clone, Default)]
pub struct Tree(Vec<Layer>);

impl Tree {
    /// The tree without any layer.
    #[must_use]
    pub const fn scratch() -> Self {
        Self(Vec::new())
    }

    /// A tree of `layers`, bottom first.
    #[must_use]
    pub const fn new(layers: Vec<Layer>) -> Self {
        Self(layers)
    }

    /// The layers, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.0
    }

    /// The layers' ids, bottom first.
    #[must_use]
    pub fn ids(&self) -> Vec<LayerId> {
        self.0.iter().map(Layer::id).collect()
    }

    /// The uppermost layer.
    #[must_use]
    pub fn top(&self) -> Option<&Layer> {
        self.0.last()
    }

    /// How many layers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is scratch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// This tree with one more layer on top.
    #[must_use]
    pub fn with(&self, layer: Layer) -> Self {
        let mut layers = Vec::with_capacity(self.0.len() + 1);
        layers.extend_from_slice(&self.0);
        layers.push(layer);
        Self(layers)
    }

    /// What names this tree within its store, for as long as its layers exist.
    #[must_use]
    pub fn identity(&self) -> Digest {
        let mut digester = Digester::new();
        for layer in &self.0 {
            digester.update(layer.id().0.to_le_bytes());
        }
        digester.finish()
    }
}

impl From<Vec<Layer>> for Tree {
    fn from(layers: Vec<Layer>) -> Self {
        Self(layers)
    }
}

impl From<Layer> for Tree {
    fn from(layer: Layer) -> Self {
        Self(vec![layer])
    }
}
