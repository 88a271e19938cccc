//! Removing blobs that nothing refers to any more.
//!
//! A blob goes when no manifest of its project refers to it and nobody pushed it or asked for it
//! within the grace time, which covers a push from its first question to its manifest. The
//! decision and the removal happen while no push of the project can begin to rely on a blob.
//! This module must never remove a manifest or an upload.

use std::sync::Arc;

use cofferdam_records::RecordsError;

use crate::digest::{Algorithm, ContentDigest};
use crate::registry::{Inner, Registry};
use crate::tree::{ProjectDir, is_older};

/// What a collection freed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A collection stopped; what it removed before stays removed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The blobs cannot be listed or removed.
    #[error("look through the project's blobs")]
    Blobs(#[source] std::io::Error),
    /// It is not known what is referred to.
    #[error("find what refers to a blob")]
    References(#[source] RecordsError),
}

impl Registry {
    /// Removes the blobs of `project` that nothing refers to. Worth a call after images were
    /// deleted, and once a day for every project, for what interrupted pushes left.
    ///
    /// # Errors
    /// The disk or the records fail.
    pub async fn collect(&self, project: &str) -> Result<Collected, CollectError> {
        let mut collected = Collected::default();
        for algorithm in Algorithm::ALL {
            let Some(dir) = open(&self.0, project).await? else { return Ok(collected) };
            let shards = blocking(move || dir.shards(algorithm)).await?;
            for shard in shards {
                self.collect_shard(project, algorithm, shard, &mut collected).await?;
            }
        }
        Ok(collected)
    }

    async fn collect_shard(
        &self,
        project: &str,
        algorithm: Algorithm,
        shard: String,
        collected: &mut Collected,
    ) -> Result<(), CollectError> {
        let Some(dir) = open(&self.0, project).await? else { return Ok(()) };
        let grace = self.0.limits.grace;
        let unused = blocking(move || dir.unused_blobs(algorithm, &shard, grace)).await?;
        for digest in unused {
            if self.is_referenced(project, &digest).await? {
                continue;
            }
            if let Some(bytes) = self.collect_blob(project, digest).await? {
                collected.blobs += 1;
                collected.bytes += bytes;
            }
        }
        Ok(())
    }

    /// Looks once more, now that nobody can begin to rely on the blob, and removes it.
    async fn collect_blob(
        &self,
        project: &str,
        digest: ContentDigest,
    ) -> Result<Option<u64>, CollectError> {
        let _turn = self.0.exclude(project).await;
        if self.is_referenced(project, &digest).await? {
            return Ok(None);
        }
        let Some(dir) = open(&self.0, project).await? else { return Ok(None) };
        let grace = self.0.limits.grace;
        blocking(move || {
            let Some(blob) = dir.blob(&digest)?.filter(|blob| is_older(blob.used, grace)) else {
                return Ok(None);
            };
            Ok(dir.remove_blob(&digest)?.then_some(blob.length))
        })
        .await
    }

    async fn is_referenced(
        &self,
        project: &str,
        digest: &ContentDigest,
    ) -> Result<bool, CollectError> {
        let referenced = self.0.records.blob_is_referenced(project, &digest.to_string()).await;
        referenced.map_err(CollectError::References)
    }
}

async fn open(registry: &Arc<Inner>, project: &str) -> Result<Option<ProjectDir>, CollectError> {
    if !crate::name::is_component(project) {
        return Ok(None);
    }
    let (registry, project) = (Arc::clone(registry), project.to_owned());
    blocking(move || registry.open_project(&project)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, CollectError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
    done.and_then(|done| done).map_err(CollectError::Blobs)
}
