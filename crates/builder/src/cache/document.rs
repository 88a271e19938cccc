//! A cache as documents: the config that lists records and layers, and the manifest that names both.
//!
//! Two forms exist. An image manifest is what registries accept everywhere; an index of blobs is what
//! older builders wrote, and what `image-manifest=false` asks for.

use std::collections::{HashMap, HashSet};

use cofferdam_digest::Digest;
use cofferdam_image::{Descriptor, Index, Manifest, media};

use super::config::MEDIA_TYPE;
use super::config::{CacheConfig, CacheLayer, CacheRecord, ChainedResult, LayerAnnotations};
use super::export::CachedResult;
use super::import::output_key;
use crate::export::layers::PackedLayer;
use crate::failure::Failure;

/// What the manifest of a cache looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// OCI media types instead of Docker's.
    pub(super) oci_types: bool,
    /// An image manifest instead of an index.
    pub(super) image_manifest: bool,
}

/// A finished document.
pub(super) struct Written {
    /// Names it.
    pub(super) descriptor: Descriptor,
    /// It.
    pub(super) bytes: Vec<u8>,
}

/// Collects records and the layers they need, each once.
#[derive(Default)]
pub(super) struct Builder {
    config: CacheConfig,
    layers: Vec<PackedLayer>,
    index: HashMap<(i64, Digest), usize>,
    seen: HashSet<Digest>,
}

impl Builder {
    /// Adds one output of a result.
    pub(super) fn add(&mut self, result: &CachedResult, output: usize, layers: &[PackedLayer]) {
        let mut parent = -1;
        let mut chain = Vec::with_capacity(layers.len());
        for layer in layers {
            let at = self.layer(parent, layer);
            chain.push(at);
            parent = at as i64;
        }
        self.config.records.extend(records(result, output, &chain));
    }

    fn layer(&mut self, parent: i64, layer: &PackedLayer) -> usize {
        let digest = layer.descriptor.digest;
        if let Some(index) = self.index.get(&(parent, digest)) {
            return *index;
        }
        let index = self.config.layers.len();
        self.config.layers.push(CacheLayer {
            blob: Some(digest),
            parent,
            annotations: Some(LayerAnnotations {
                media_type: layer.descriptor.media_type.clone(),
                diff_id: Some(layer.diff_id),
                size: layer.descriptor.size,
                created_at: Some(layer.created),
            }),
        });
        self.index.insert((parent, digest), index);
        if self.seen.insert(digest) {
            self.layers.push(layer.clone());
        }
        index
    }

    /// The layers, each once.
    pub(super) fn layers(&self) -> &[PackedLayer] {
        &self.layers
    }

    /// The config alone, which is all that a store without manifests needs.
    pub(super) fn config(&self) -> Result<Written, Failure> {
        let bytes = serde_json::to_vec(&self.config).map_err(Failure::internal)?;
        Ok(Written { descriptor: Descriptor::of(MEDIA_TYPE, &bytes), bytes })
    }

    /// What names `config` and the layers.
    pub(super) fn manifest(&self, config: &Written, form: Form) -> Result<Written, Failure> {
        let mut blobs: Vec<Descriptor> =
            self.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        if form.image_manifest {
            let manifest = Manifest::new(media::OCI_MANIFEST, config.descriptor.clone(), blobs);
            let bytes = serde_json::to_vec_pretty(&manifest).map_err(Failure::internal)?;
            return Ok(Written { descriptor: Descriptor::of(media::OCI_MANIFEST, &bytes), bytes });
        }
        blobs.push(config.descriptor.clone());
        let media_type = if form.oci_types { media::OCI_INDEX } else { media::DOCKER_INDEX };
        let index = Index::new(media_type, blobs);
        let bytes = serde_json::to_vec_pretty(&index).map_err(Failure::internal)?;
        Ok(Written { descriptor: Descriptor::of(media_type, &bytes), bytes })
    }
}

/// One record for each key of an output.
pub(super) fn records(
    result: &CachedResult,
    output: usize,
    layers: &[usize],
) -> impl Iterator<Item = CacheRecord> {
    let identity = result.keys.first().copied();
    result.keys.iter().map(move |key| CacheRecord {
        digest: output_key(key, output),
        identity: identity.filter(|identity| identity != key),
        results: Vec::new(),
        chains: vec![ChainedResult { layers: layers.to_vec(), created_at: None }],
    })
}
