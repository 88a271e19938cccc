//! Removing manifests that nothing names any more, where that is asked for, and blobs that nothing refers
//! to.
//!
//! A blob goes when no manifest of its project refers to it and nobody pushed it or asked for it
//! within the grace time, which covers a push from its first question to its manifest. The
//! decision and the removal happen while no push of the project can begin to rely on a blob.
//! This module must never remove an upload.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use cofferdam_records::RecordsError;

use crate::digest::{Algorithm, ContentDigest};
use crate::limits::MANIFESTS_PER_TURN;
use crate::name::Repository;
use crate::registry::{Inner, Registry};
use crate::tree::{ProjectDir, is_older};

/// What a collection freed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests that nothing named; what was attached to them is not counted.
    pub manifests: u64,
}

/// A collection stopped; what it removed before stays removed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The blobs cannot be listed or removed.
    #[error("look through the project's blobs")]
    Blobs(#[source] std::io::Error),
    /// Manifests cannot be removed; the reason is in the log.
    #[error("remove manifests that nothing names")]
    Manifests,
    /// It is not known what is referred to.
    #[error("find what refers to a blob")]
    References(#[source] RecordsError),
}

impl Registry {
    /// Removes the manifests of `project` that nothing names for longer than
    /// [`crate::Limits::untagged`], then the blobs that nothing refers to. Worth a call after images were
    /// deleted, and once a day for every project, for what interrupted pushes left.
    ///
    /// # Errors
    /// The disk or the records fail.
    pub async fn collect(&self, project: &str) -> Result<Collected, CollectError> {
        let manifests = self.collect_manifests(project).await?;
        let mut collected = Collected { manifests, ..Collected::default() };
        for algorithm in Algorithm::ALL {
            let Some(dir) = open(&self.0, project).await? else { return Ok(collected) };
            let shards = blocking(move || dir.shards(algorithm)).await?;
            for shard in shards {
                self.collect_shard(project, algorithm, shard, &mut collected).await?;
            }
        }
        Ok(collected)
    }

    async fn collect_manifests(&self, project: &str) -> Result<u64, CollectError> {
        let age = self.0.limits.untagged.and_then(|age| TimeDelta::from_std(age).ok());
        let Some(before) = age.and_then(|age| Utc::now().checked_sub_signed(age)) else {
            return Ok(0);
        };
        let (mut removed, mut first) = (0, None);
        loop {
            let _turn = self.0.exclude(project).await;
            let found = self.0.records.unnamed_manifests(project, before, MANIFESTS_PER_TURN).await;
            let found = found.map_err(CollectError::References)?;
            // One that stays where it is would be found for ever.
            if found.is_empty() || found.first() == first.as_ref() {
                return Ok(removed);
            }
            first = found.first().cloned();
            for (repository, digest) in found {
                let Some(repository) = Repository::parse(&repository) else { continue };
                // What it lists has an age of its own.
                let done = self.0.delete_unnamed(&repository, digest, false).await;
                done.map_err(|_| CollectError::Manifests)?;
                removed += 1;
            }
        }
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

pub(crate) async fn open(
    registry: &Arc<Inner>,
    project: &str,
) -> Result<Option<ProjectDir>, CollectError> {
    if !crate::name::is_component(project) {
        return Ok(None);
    }
    let (registry, project) = (Arc::clone(registry), project.to_owned());
    blocking(move || registry.open_project(&project)).await
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, CollectError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
    done.and_then(|done| done).map_err(CollectError::Blobs)
}
