//! Imported and exported build caches.
//!
//! A cache is an OCI manifest whose config (`application/vnd.buildkit.cacheconfig.v0`) lists
//! layers and records. Our keys already cover everything a result depends on, so each record is a
//! root of its own: its digest is the key, its result a chain of layers. An imported record is
//! only ever found under a key computed here, and its layers are verified when they are fetched.

mod client;
mod config;
mod document;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod of_build;
mod registry;
mod s3;

use cofferdam_digest::Digest;
use cofferdam_solver::VertexLog;

pub(crate) use self::client::write_blob;
use self::import::ImportedCache;
use crate::context::Context;
use crate::source::layers::RemoteLayers;

/// The caches one build may look into.
#[derive(Default)]
pub(crate) struct Imports {
    caches: std::sync::RwLock<Vec<ImportedCache>>,
}

impl Imports {
    /// Adds a cache.
    pub(crate) fn add(&self, cache: ImportedCache) {
        self.caches.write().unwrap_or_else(std::sync::PoisonError::into_inner).push(cache);
    }

    /// The output stored under `key` in any of the caches, and the key it had first.
    pub(crate) fn find(
        &self,
        context: &Context,
        key: &Digest,
        output: usize,
        log: &VertexLog,
    ) -> Option<(Digest, RemoteLayers)> {
        let caches = self.caches.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        caches.iter().find_map(|cache| cache.find(context, key, output, log))
    }
}
