//! Imported and exported build caches.
//!
//! A cache is an OCI manifest whose config (`application/vnd.buildkit.cacheconfig.v0`) lists
//! layers and records. Our keys already cover everything a result depends on, so each record is a
//! root of its own: its digest is the key, its result a chain of layers. An imported record is
//! only ever found under a key computed here, and its layers are verified when they are fetched.
//! Before a step is left out for one, its cache is asked whether it has the layers still, in the size it says:
//! otherwise the step runs. Bytes that are wrong show when they are fetched; see [`Spoilt`].

mod client;
mod config;
mod document;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod of_build;
mod registry;
mod s3;
mod spoilt;

use std::sync::{Arc, PoisonError, RwLock};

use cofferdam_digest::Digest;
use cofferdam_solver::VertexLog;

pub(crate) use self::client::write_blob;
use self::import::ImportedCache;
pub(crate) use self::spoilt::Spoilt;
use crate::context::Context;
use crate::source::layers::RemoteLayers;

/// The caches one build may look into.
#[derive(Default)]
pub(crate) struct Imports {
    caches: RwLock<Vec<Arc<ImportedCache>>>,
}

impl Imports {
    /// Adds a cache.
    pub(crate) fn add(&self, cache: ImportedCache) {
        self.caches.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(cache));
    }

    /// The output stored under `key` in any of the caches, and the key it had first. Its layers may be gone.
    pub(crate) fn find(
        &self,
        context: &Context,
        key: &Digest,
        output: usize,
        log: &VertexLog,
    ) -> Option<(Digest, RemoteLayers)> {
        self.all().iter().find_map(|cache| cache.find(context, key, output, log))
    }

    /// As [`Imports::find`], but of a cache that has all the layers still.
    pub(crate) async fn find_whole(
        &self,
        context: &Context,
        key: &Digest,
        output: usize,
        log: &VertexLog,
    ) -> Option<(Digest, RemoteLayers)> {
        for cache in self.all() {
            let Some((identity, layers)) = cache.find(context, key, output, log) else { continue };
            if cache.has(&layers, log).await {
                return Some((identity, layers));
            }
        }
        None
    }

    fn all(&self) -> Vec<Arc<ImportedCache>> {
        self.caches.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
