//! A tree: an ordered list of layers, bottom first.
//!
//! Each step of a build makes a tree with one more layer than the one before, and all of these are held at once: trees share what
//! is below, so that a step takes room for a few layers and not for all that lie below it.

use std::sync::Arc;

use cofferdam_digest::{Digest, Digester};

use crate::ids::LayerId;
use crate::layer::Layer;

/// Layers that a further one is put beside, rather than above: what adding one copies at the most, and how many are
/// reached by following one pointer.
const SECTION: usize = 64;

/// A file tree as layers, bottom first. Cheap to clone. Holding it pins all of them. Empty means scratch.
#[derive(Debug, Clone, Default)]
pub struct Tree(Option<Arc<Section>>);

/// Layers that lie together, and what is below them.
#[derive(Debug)]
struct Section {
    below: Option<Arc<Self>>,
    /// At least one.
    layers: Vec<Layer>,
    /// How many there are with all below.
    count: usize,
}

impl Tree {
    /// The tree without any layer.
    #[must_use]
    pub const fn scratch() -> Self {
        Self(None)
    }

    /// A tree of `layers`, bottom first.
    #[must_use]
    pub fn new(layers: Vec<Layer>) -> Self {
        layers.chunks(SECTION).fold(Self::scratch(), |below, layers| {
            let count = below.len() + layers.len();
            Self(Some(Arc::new(Section { below: below.0, layers: layers.to_vec(), count })))
        })
    }

    /// The layers, bottom first.
    pub fn iter(&self) -> impl Iterator<Item = &Layer> {
        let mut sections = Vec::with_capacity(self.len().div_ceil(SECTION));
        let mut next = &self.0;
        while let Some(section) = next {
            sections.push(section);
            next = &section.below;
        }
        sections.into_iter().rev().flat_map(|section| &section.layers)
    }

    /// The layers, bottom first, as a list of their own.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        self.iter().cloned().collect()
    }

    /// The layers' ids, bottom first.
    #[must_use]
    pub fn ids(&self) -> Vec<LayerId> {
        self.iter().map(Layer::id).collect()
    }

    /// The uppermost layer.
    #[must_use]
    pub fn top(&self) -> Option<&Layer> {
        self.0.as_ref()?.layers.last()
    }

    /// How many layers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |section| section.count)
    }

    /// Whether this is scratch.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// This tree with one more layer on top.
    #[must_use]
    pub fn with(&self, layer: Layer) -> Self {
        let count = self.len() + 1;
        let (below, beside) = match &self.0 {
            Some(top) if top.layers.len() < SECTION => (top.below.clone(), top.layers.as_slice()),
            whole => (whole.clone(), &[][..]),
        };
        let mut layers = Vec::with_capacity(beside.len() + 1);
        layers.extend_from_slice(beside);
        layers.push(layer);
        Self(Some(Arc::new(Section { below, layers, count })))
    }

    /// What names this tree within its store, for as long as its layers exist.
    #[must_use]
    pub fn identity(&self) -> Digest {
        let mut digester = Digester::new();
        for layer in self.iter() {
            digester.update(layer.id().0.to_le_bytes());
        }
        digester.finish()
    }
}

impl From<Vec<Layer>> for Tree {
    fn from(layers: Vec<Layer>) -> Self {
        Self::new(layers)
    }
}

impl From<Layer> for Tree {
    fn from(layer: Layer) -> Self {
        Self::new(vec![layer])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Options, RecordType, Store};

    #[test]
    fn a_tree_is_the_same_however_it_was_made() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        let layer = || store.new_layer("step", RecordType::Regular).unwrap().commit().unwrap();
        let layers: Vec<Layer> = std::iter::repeat_with(layer).take(3 * SECTION + 1).collect();
        let mut grown = Tree::scratch();
        assert!(grown.is_empty() && grown.top().is_none() && grown.layers().is_empty());
        for count in 1..=layers.len() {
            let below = grown.clone();
            grown = grown.with(layers[count - 1].clone());
            let made = Tree::new(layers[..count].to_vec());
            for tree in [&grown, &made] {
                assert_eq!(tree.len(), count);
                assert_eq!(tree.layers(), layers[..count]);
                assert_eq!(tree.top(), layers[..count].last());
            }
            assert_eq!(grown.identity(), made.identity());
            assert_ne!(grown.identity(), below.identity());
            assert_eq!(below.layers(), layers[..count - 1], "what is below stays as it was");
        }
        // Two that were put on the same tree know nothing of each other.
        let (one, other) = (grown.with(layers[0].clone()), grown.with(layers[1].clone()));
        assert_eq!(one.top(), Some(&layers[0]));
        assert_eq!(other.top(), Some(&layers[1]));
        assert_eq!(grown.len(), layers.len());
    }
}
