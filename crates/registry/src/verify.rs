//! Whether a project's images are whole: every blob is what its name says, and every manifest has what it
//! needs.
//!
//! Everything is read, nothing is changed. What is pushed or deleted meanwhile is not taken for damage.

use std::io::Read;
use std::sync::Arc;

use cofferdam_records::Reference;

use crate::collect::{self, CollectError, blocking};
use crate::digest::{Algorithm, ContentDigest};
use crate::limits::MANIFEST_BYTES;
use crate::manifest::Manifest;
use crate::registry::Registry;
use crate::tree::ProjectDir;
use crate::upload::digest_again;

/// Manifests that are listed at a time.
const BATCH: usize = 500;

/// Something is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A blob is not what its name says.
    #[error("blob {digest} has other content than its name says")]
    Wrong {
        /// The blob.
        digest: String,
    },
    /// A blob cannot be read.
    #[error("blob {digest} cannot be read: {why}")]
    Unreadable {
        /// The blob.
        digest: String,
        /// What the disk says.
        why: String,
    },
    /// A manifest refers to something that is not there.
    #[error("manifest {manifest} in {repository} needs {digest}, which is not there")]
    Missing {
        /// The repository.
        repository: String,
        /// The manifest.
        manifest: String,
        /// What is missing; the manifest's own digest when its bytes are.
        digest: String,
    },
}

impl Registry {
    /// Reads all blobs and manifests of `project` and tells what is wrong with them.
    ///
    /// # Errors
    /// The blobs or the records cannot be listed.
    pub async fn verify(&self, project: &str) -> Result<Vec<Trouble>, CollectError> {
        let mut troubles = self.verify_blobs(project).await?;
        let mut after = (String::new(), String::new());
        loop {
            let found = self.0.records.manifest_names(project, &after.0, &after.1, BATCH).await;
            let found = found.map_err(CollectError::References)?;
            let Some(last) = found.last().cloned() else { return Ok(troubles) };
            for (repository, digest) in &found {
                troubles.extend(self.verify_manifest(project, repository, digest).await?);
            }
            after = last;
        }
    }

    async fn verify_blobs(&self, project: &str) -> Result<Vec<Trouble>, CollectError> {
        let mut troubles = Vec::new();
        let Some(dir) = collect::open(&self.0, project).await?.map(Arc::new) else {
            return Ok(troubles);
        };
        for algorithm in Algorithm::ALL {
            let all = Arc::clone(&dir);
            for shard in blocking(move || all.shards(algorithm)).await? {
                let dir = Arc::clone(&dir);
                let found = blocking(move || {
                    let blobs = dir.blobs(algorithm, &shard)?;
                    Ok(blobs.iter().filter_map(|digest| blob(&dir, digest)).collect::<Vec<_>>())
                });
                troubles.extend(found.await?);
            }
        }
        Ok(troubles)
    }

    async fn verify_manifest(
        &self,
        project: &str,
        repository: &str,
        digest: &str,
    ) -> Result<Vec<Trouble>, CollectError> {
        let row =
            || self.0.records.manifest(project, repository, Reference::Digest(digest.to_owned()));
        let Some(found) = row().await.map_err(CollectError::References)? else {
            return Ok(Vec::new());
        };
        let missing = match (ContentDigest::parse(digest), collect::open(&self.0, project).await?) {
            (Some(parsed), Some(dir)) => {
                blocking(move || missing(&dir, &parsed, &found.media_type)).await?
            }
            _ => vec![digest.to_owned()],
        };
        // It may have been deleted meanwhile, and what it had collected.
        if missing.is_empty() || row().await.map_err(CollectError::References)?.is_none() {
            return Ok(Vec::new());
        }
        let trouble = |missing| Trouble::Missing {
            repository: repository.to_owned(),
            manifest: digest.to_owned(),
            digest: missing,
        };
        Ok(missing.into_iter().map(trouble).collect())
    }
}

/// What is wrong with a blob.
fn blob(dir: &ProjectDir, digest: &ContentDigest) -> Option<Trouble> {
    let computed = match dir.blob(digest) {
        Ok(None) => return None,
        Ok(Some(blob)) => digest_again(&blob.file, digest.algorithm()),
        Err(error) => Err(error),
    };
    match computed {
        Ok(computed) if computed == *digest => None,
        Ok(_) => Some(Trouble::Wrong { digest: digest.to_string() }),
        Err(error) => {
            Some(Trouble::Unreadable { digest: digest.to_string(), why: error.to_string() })
        }
    }
}

/// What a manifest needs and is not there. One that cannot be read is found among the blobs.
fn missing(
    dir: &ProjectDir,
    digest: &ContentDigest,
    media_type: &str,
) -> std::io::Result<Vec<String>> {
    let Some(blob) = dir.blob(digest)? else { return Ok(vec![digest.to_string()]) };
    let mut bytes = Vec::new();
    if blob.file.take(MANIFEST_BYTES as u64).read_to_end(&mut bytes).is_err() {
        return Ok(Vec::new());
    }
    let Ok(manifest) = Manifest::parse(Some(media_type), &bytes) else { return Ok(Vec::new()) };
    let mut missing = Vec::new();
    for part in manifest.blobs.iter().chain(&manifest.manifests).filter(|part| part.required) {
        if dir.blob(&part.digest)?.is_none() {
            missing.push(part.digest.to_string());
        }
    }
    Ok(missing)
}
