//! The registry behind an imported cache.
//!
//! Builds share the results of steps, so a layer may be wanted long after the build that imported the
//! cache is over: it is read with the credentials of those who want the step by then. Nothing here
//! keeps a credential or asks a client whose build does not want the step.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use cofferdam_image::registry::{Client, RegistryError, Repository, is_loopback};
use cofferdam_image::{Descriptor, Reference};
use cofferdam_session::SessionManager;
use cofferdam_solver::VertexLog;

use crate::context::Context;
use crate::credentials::SessionCredentials;
use crate::failure::Failure;
use crate::registries::insecure_client;
use crate::source::image::RegistryBlobs;
use crate::source::layers::{BlobSource, BlobStream};

/// Where a cache was found, and who found it.
pub(super) struct CachePlace {
    client: Arc<Client>,
    sessions: Arc<SessionManager>,
    reference: Reference,
    importers: Vec<String>,
    /// Whether the importer wants a registry asked in the clear that others would ask over TLS: nobody else's password goes there.
    exposed: bool,
    /// The context knows the build that knows this.
    context: Weak<Context>,
}

impl CachePlace {
    /// The place that `reference` names, for the sessions `importers`.
    pub(super) fn new(
        context: &Arc<Context>,
        reference: &Reference,
        insecure: bool,
        importers: &[String],
    ) -> Result<Arc<Self>, Failure> {
        let client = if insecure {
            insecure_client(&context.config, reference.domain())?
        } else {
            Arc::clone(&context.registries)
        };
        Ok(Arc::new(Self {
            client,
            sessions: Arc::clone(&context.sessions),
            reference: reference.clone(),
            importers: importers.to_vec(),
            exposed: insecure && !is_loopback(reference.domain()),
            context: Arc::downgrade(context),
        }))
    }

    /// The repository as those see it who imported the cache.
    pub(super) fn repository(&self) -> Repository {
        self.repository_for(self.importers.clone())
    }

    fn repository_for(&self, ids: Vec<String>) -> Repository {
        self.client.repository(&self.reference, SessionCredentials::new(&self.sessions, ids))
    }

    /// The layers of a result that `log` tells of.
    pub(super) fn layers(self: &Arc<Self>, log: &VertexLog) -> Arc<dyn BlobSource> {
        Arc::new(CacheLayers { place: Arc::clone(self), log: log.clone() })
    }
}

/// Layers as those see them who want a step at the time.
struct CacheLayers {
    place: Arc<CachePlace>,
    log: VertexLog,
}

impl CacheLayers {
    fn repository(&self) -> Repository {
        let holders =
            self.place.context.upgrade().map(|context| context.sessions_holding(&self.log));
        match holders.filter(|ids| !ids.is_empty() && !self.place.exposed) {
            Some(ids) => self.place.repository_for(ids),
            None => self.place.repository(),
        }
    }
}

#[async_trait]
impl BlobSource for CacheLayers {
    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, Failure> {
        RegistryBlobs::new(self.repository()).open(descriptor, offset).await
    }

    async fn has(&self, descriptor: &Descriptor) -> bool {
        match self.repository().blob_size(&descriptor.digest).await {
            Ok(size) => size == descriptor.size,
            Err(RegistryError::NotFound { .. }) => false,
            // Whoever needs it is told what is the matter.
            Err(_) => true,
        }
    }

    fn place(&self, _: &Descriptor) -> Option<Reference> {
        Some(self.place.repository().name().clone())
    }
}
