//! Taking a manifest in: what it refers to is there, its bytes are on the disk, its record is
//! made, in this order and while no blob of the project can be removed.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use cofferdam_records::{ManifestRow, RecordsError, Reference as RowReference};

use crate::digest::ContentDigest;
use crate::error::Failure;
use crate::manifest::{Manifest, Part};
use crate::name::{Reference, Repository};
use crate::registry::{Inner, blocking, upload_id};
use crate::tree;

/// A manifest on its way in.
pub(crate) struct Push<'a> {
    pub(crate) registry: &'a Arc<Inner>,
    pub(crate) repository: &'a Repository,
    pub(crate) digest: &'a ContentDigest,
    pub(crate) manifest: Manifest,
}

impl Push<'_> {
    /// Stores the manifest under its digest and `tags`.
    pub(crate) async fn store(&self, bytes: Bytes, tags: &[String]) -> Result<(), Failure> {
        let project = self.repository.project();
        let _turn = self.registry.share(project).await?;
        let mut missing = self.missing_blobs().await?;
        let own = bytes.len() as u64;
        let mut total =
            self.manifest.blobs.iter().fold(own, |sum, part| sum.saturating_add(part.size));
        for child in &self.manifest.manifests {
            let reference = Reference::Digest(child.digest.clone());
            match self.registry.find_manifest(self.repository, &reference).await? {
                Some(row) => total = total.saturating_add(row.total_size),
                None => missing.push(child.digest.clone()),
            }
        }
        if !missing.is_empty() {
            return Err(Failure::ManifestBlobUnknown(missing));
        }
        self.write(bytes).await?;
        let row = self.row(own, total)?;
        let mut tags = tags.iter().map(String::as_str).map(Some).collect::<Vec<_>>();
        if tags.is_empty() {
            tags.push(None);
        }
        for tag in tags {
            let put = self.registry.records.put_manifest(row.clone(), tag).await;
            put.map_err(|error| Failure::records("record a manifest", &error))?;
        }
        Ok(())
    }

    /// The blobs that were not pushed. Those that were count as used from now on.
    async fn missing_blobs(&self) -> Result<Vec<ContentDigest>, Failure> {
        let (registry, parts) = (Arc::clone(self.registry), self.manifest.blobs.clone());
        let project = self.repository.project().to_owned();
        let look = move || {
            let Some(dir) = registry.open_project(&project)? else {
                return Ok((parts.into_iter().filter(|part| part.required).collect(), None));
            };
            let mut missing = Vec::new();
            for part in parts {
                match dir.blob(&part.digest)? {
                    Some(blob) if blob.length == part.size => tree::touch(&blob.file)?,
                    Some(_) => return Ok((Vec::new(), Some(part))),
                    None if part.required => missing.push(part),
                    None => {}
                }
            }
            Ok((missing, None))
        };
        let (missing, wrong): (Vec<Part>, Option<Part>) =
            blocking("find a manifest's blobs", look).await?;
        if let Some(Part { digest, size, .. }) = wrong {
            let message = format!("{digest} does not have the {size} bytes it says");
            return Err(Failure::ManifestInvalid(message));
        }
        Ok(missing.into_iter().map(|part| part.digest).collect())
    }

    async fn write(&self, bytes: Bytes) -> Result<(), Failure> {
        let (registry, digest) = (Arc::clone(self.registry), self.digest.clone());
        let project = self.repository.project().to_owned();
        blocking("write a manifest", move || {
            let dir = registry.make_project(&project)?;
            let id = upload_id()?;
            let mut file = dir.create_upload(&id)?;
            let written = file.write_all(&bytes).and_then(|()| dir.commit(&id, &file, &digest));
            if written.is_err() {
                dir.remove_upload(&id)?;
            }
            written
        })
        .await
    }

    /// The record. The manifest's own bytes are among the blobs it refers to: they stay as long
    /// as it does.
    fn row(&self, size: u64, total_size: u64) -> Result<ManifestRow, Failure> {
        // Annotations are only ever listed with a subject's referrers.
        let none = BTreeMap::new();
        let annotations: &BTreeMap<String, String> =
            if self.manifest.subject.is_some() { &self.manifest.annotations } else { &none };
        let texts =
            |parts: &[Part]| parts.iter().map(|part| part.digest.to_string()).collect::<Vec<_>>();
        let mut blobs = texts(&self.manifest.blobs);
        blobs.push(self.digest.to_string());
        Ok(ManifestRow {
            project: self.repository.project().to_owned(),
            repository: self.repository.to_string(),
            digest: self.digest.to_string(),
            media_type: self.manifest.media_type.to_owned(),
            size,
            subject: self.manifest.subject.as_ref().map(ToString::to_string),
            artifact_type: self.manifest.artifact_type.clone(),
            annotations: serde_json::to_string(annotations).map_err(|_| Failure::Internal)?,
            pushed_at: Utc::now(),
            total_size,
            blobs,
            manifests: texts(&self.manifest.manifests),
        })
    }
}

impl Inner {
    /// The record of a manifest.
    pub(crate) async fn find_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<ManifestRow>, Failure> {
        let reference = match reference {
            Reference::Tag(tag) => RowReference::Tag(tag.clone()),
            Reference::Digest(digest) => RowReference::Digest(digest.to_string()),
        };
        let found =
            self.records.manifest(repository.project(), repository.as_str(), reference).await;
        found.map_err(|error| Failure::records("find a manifest", &error))
    }

    /// Removes a tag, or a manifest with all its tags; false if there is none.
    pub(crate) async fn delete_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<bool, Failure> {
        let (project, name) = (repository.project(), repository.as_str());
        let deleted = match reference {
            Reference::Tag(tag) => self.records.delete_tag(project, name, tag).await,
            Reference::Digest(digest) => {
                self.records.delete_manifest(project, name, &digest.to_string()).await
            }
        };
        deleted.map_err(|error| Failure::records("delete a manifest", &error))
    }

    /// Whether a repository has any manifest.
    pub(crate) async fn repository_exists(&self, repository: &Repository) -> Result<bool, Failure> {
        let found = self.records.repository_exists(repository.project(), repository.as_str()).await;
        found.map_err(|error| Failure::records("look for a repository", &error))
    }

    /// Removes a manifest that no tag and no index names any more, then what only it named: those
    /// attached to it and, with `cascade`, the manifests it lists.
    pub(crate) async fn delete_unnamed(
        &self,
        repository: &Repository,
        digest: String,
        cascade: bool,
    ) -> Result<(), Failure> {
        let failed = |error: RecordsError| Failure::records("delete an image", &error);
        let (project, name) = (repository.project(), repository.as_str());
        let mut candidates = vec![digest];
        while let Some(digest) = candidates.pop() {
            if self.records.manifest_is_named(project, name, &digest).await.map_err(failed)? {
                continue;
            }
            let reference = RowReference::Digest(digest.clone());
            let Some(row) =
                self.records.manifest(project, name, reference).await.map_err(failed)?
            else {
                continue;
            };
            let attached =
                self.records.referrers(project, name, &digest, None).await.map_err(failed)?;
            self.records.delete_manifest(project, name, &digest).await.map_err(failed)?;
            if cascade {
                candidates.extend(row.manifests);
            }
            candidates.extend(attached.into_iter().map(|row| row.digest));
        }
        Ok(())
    }
}
