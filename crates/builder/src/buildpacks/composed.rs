//! Trees that are made of layers from several places: `composed-image://sha256:…`.
//!
//! A frontend inside this process puts layers together (of a run image, of what it packed, of a
//! cache) and refers to the whole in a graph by the digest of its parts. What is behind such a name
//! is known to the build that made it and to no other; blobs are pinned until the build ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_buildpacks::ImageLayer;
use cofferdam_digest::{Digest, Digester};
use cofferdam_image::{Descriptor, Reference};
use cofferdam_solver::Step;
use cofferdam_store::Blob;
use cofferdam_wire::pb;
use futures::stream::BoxStream;

use crate::context::Context;
use crate::failure::Failure;
use crate::snapshot::Snapshot;
use crate::source::SourceKey;
use crate::source::image::RegistryBlobs;
use crate::source::layers::{BlobSource, RemoteLayer, RemoteLayers};

/// The scheme.
const SCHEME: &str = "composed-image://";
/// Compositions of one build: one per buildpack and a few more.
const MAX_COMPOSED: usize = 10_000;

/// What one build composed.
#[derive(Default)]
pub(crate) struct Composed(Mutex<HashMap<Digest, Composition>>);

#[derive(Clone)]
struct Composition {
    layers: Vec<ImageLayer>,
    /// Held, so that house keeping does not take them.
    _blobs: Vec<Blob>,
}

impl Composed {
    /// Takes layers, bottom first, and names them.
    pub(crate) fn add(
        &self,
        context: &Context,
        layers: Vec<ImageLayer>,
    ) -> Result<pb::SourceOp, Failure> {
        let mut digester = Digester::new();
        for layer in &layers {
            digester.field(layer.diff_id.to_string());
        }
        let name = digester.finish();
        let blobs = layers.iter().filter_map(|layer| context.store.blob(&layer.digest)).collect();
        let mut composed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if composed.len() >= MAX_COMPOSED {
            return Err(Failure::invalid("the build composes too many images"));
        }
        composed.insert(name, Composition { layers, _blobs: blobs });
        let identifier = format!("{SCHEME}{name}");
        Ok(pb::SourceOp { identifier, ..pb::SourceOp::default() })
    }

    fn find(&self, name: &Digest) -> Option<Composition> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

fn parse(name: &str) -> Result<Digest, Failure> {
    Digest::parse(name)
        .map_err(|_| Failure::invalid(format!("{SCHEME}{name:?} does not name a composition")))
}

/// What names the content: the layers.
pub(crate) fn key(name: &str) -> Result<SourceKey, Failure> {
    Ok(SourceKey::stable(&["composed", &parse(name)?.to_string()]))
}

/// The layers, not yet unpacked.
pub(crate) fn snapshot(
    context: &Arc<Context>,
    name: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let digest = parse(name)?;
    let builds = context.builds_of(step);
    let found = builds.iter().find_map(|build| build.composed.find(&digest));
    let found = found
        .ok_or_else(|| Failure::not_found(format!("no build here composed {SCHEME}{digest}")))?;
    let mut origins = HashMap::new();
    for layer in &found.layers {
        if let Some(origin) = &layer.origin {
            let origin = Reference::parse(origin).map_err(Failure::of)?;
            origins.insert(layer.digest, origin);
        }
    }
    let blobs =
        Origins { context: Arc::clone(context), sessions: context.sessions_of(step), origins };
    let layers = found
        .layers
        .iter()
        .map(|layer| RemoteLayer {
            descriptor: Descriptor::new(&layer.media_type, layer.digest, layer.size),
            diff_id: layer.diff_id,
            created: None,
        })
        .collect();
    let name = "composed by a frontend".to_owned();
    Ok(RemoteLayers::new(context, Arc::new(blobs), layers, name, step.progress.clone()).into())
}

/// Registries that blobs can be fetched from.
struct Origins {
    context: Arc<Context>,
    sessions: Vec<String>,
    origins: HashMap<Digest, Reference>,
}

#[async_trait]
impl BlobSource for Origins {
    async fn open(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let origin = self.origins.get(&descriptor.digest).ok_or_else(|| {
            Failure::not_found(format!("layer {} is no longer in the store", descriptor.digest))
        })?;
        let repository = self.context.repository(origin, self.sessions.clone());
        RegistryBlobs::new(repository).open(descriptor, offset).await
    }

    fn place(&self, descriptor: &Descriptor) -> Option<Reference> {
        self.origins.get(&descriptor.digest).cloned()
    }
}
