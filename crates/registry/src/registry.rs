//! The registry itself: its files, its uploads, and the turns pushes and removals take.
//!
//! Within a project every repository sees every blob: the project is the boundary between
//! tenants, not the repository. Removing blobs excludes, project by project, whatever could
//! begin to rely on one. This module must never decide who may do what.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cofferdam_records::{ProjectState, Records};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, Semaphore};

use crate::digest::{Algorithm, ContentDigest};
use crate::error::Failure;
use crate::limits::{Limits, MANIFESTS_AT_ONCE, UPLOAD_ROUND};
use crate::measure::Measured;
use crate::name::Repository;
use crate::tree::{self, OpenBlob, ProjectDir, Tree};
use crate::upload::{Claim, Upload, Uploads};

/// How a registry is set up.
pub struct RegistryOptions {
    /// Where manifests, tags and references are recorded.
    pub records: Records,
    /// The directory of all projects' blobs.
    pub dir: PathBuf,
    /// Where removed projects' directories are moved; on the same file system. Whoever owns the
    /// trash empties it.
    pub trash: PathBuf,
    /// Bounds.
    pub limits: Limits,
}

/// A registry could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the registry's files in {}", dir.display())]
pub struct OpenRegistryError {
    dir: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The registry of all projects. Clones are the same registry.
#[derive(Clone)]
pub struct Registry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) records: Records,
    pub(crate) limits: Limits,
    pub(crate) uploads: Uploads,
    /// Turns of those who receive a manifest into memory.
    pub(crate) manifests: Semaphore,
    pub(crate) measured: Measured,
    tree: Tree,
    turns: Turns,
}

impl Registry {
    /// Opens the registry's files and removes what uploads of an earlier process left. Must be
    /// called within a Tokio runtime.
    ///
    /// # Errors
    /// The directories cannot be made, opened or read.
    pub fn open(options: RegistryOptions) -> Result<Self, OpenRegistryError> {
        let dir = options.dir.clone();
        let registry = Self::open_beside(options)?;
        sweep(&registry.0.tree).map_err(|source| OpenRegistryError { dir, source })?;
        tokio::spawn(drop_abandoned(Arc::downgrade(&registry.0)));
        Ok(registry)
    }

    /// Opens the registry's files to look at them, beside a process that serves them or without one:
    /// uploads are left alone.
    ///
    /// # Errors
    /// The directories cannot be made or opened.
    pub fn open_beside(options: RegistryOptions) -> Result<Self, OpenRegistryError> {
        let RegistryOptions { records, dir, trash, limits } = options;
        let tree = Tree::open(&dir, &trash).map_err(|source| OpenRegistryError { dir, source })?;
        let inner = Arc::new(Inner {
            records,
            limits,
            uploads: Uploads::default(),
            manifests: Semaphore::new(MANIFESTS_AT_ONCE),
            measured: Measured::default(),
            tree,
            turns: Turns::default(),
        });
        Ok(Self(inner))
    }

    /// Takes a project's images away: stops its uploads and moves its files into the trash at
    /// once, whatever their size. The records of a project that is being deleted are not touched;
    /// they must say so before this is called, so that no push can begin again.
    ///
    /// # Errors
    /// The directory cannot be moved; the project's files are where they were.
    pub async fn remove_project(&self, project: &str) -> Result<(), RemoveProjectError> {
        if !crate::name::is_component(project) {
            return Ok(());
        }
        let _turn = self.0.turns.alone(project).await;
        for upload in self.0.uploads.select(|upload| upload.repository.project() == project) {
            self.0.uploads.remove(&upload.id);
        }
        let (inner, project) = (Arc::clone(&self.0), project.to_owned());
        let id = upload_id().map_err(RemoveProjectError)?;
        let moved = move || inner.tree.discard(&project, &format!("registry-{project}-{id}"));
        let moved = tokio::task::spawn_blocking(moved).await.map_err(std::io::Error::other);
        moved.and_then(|moved| moved).map(|_| ()).map_err(RemoveProjectError)
    }
}

/// A project's images could not be taken away.
#[derive(Debug, thiserror::Error)]
#[error("move the project's images into the trash")]
pub struct RemoveProjectError(#[source] std::io::Error);

fn sweep(tree: &Tree) -> std::io::Result<()> {
    for project in tree.projects()? {
        let Some(dir) = tree.project(&project)? else { continue };
        let removed = dir.sweep_uploads(|_| false)?;
        if removed > 0 {
            tracing::info!(project, removed, "removed unfinished uploads of an earlier run");
        }
    }
    Ok(())
}

/// Removes uploads that wait or take too long, for as long as the registry lives.
async fn drop_abandoned(registry: Weak<Inner>) {
    loop {
        let Some(inner) = registry.upgrade() else { return };
        let pause = UPLOAD_ROUND.min(inner.limits.upload_idle);
        for upload in inner.uploads.select(|upload| upload.is_expired(&inner.limits)) {
            tracing::info!(upload = upload.id, "dropped an abandoned upload");
            inner.drop_upload(&upload).await;
        }
        drop(inner);
        tokio::time::sleep(pause).await;
    }
}

impl Inner {
    /// The directory of `project`, if there is one.
    pub(crate) async fn project(
        self: &Arc<Self>,
        project: &str,
    ) -> Result<Option<ProjectDir>, Failure> {
        let (inner, project) = (Arc::clone(self), project.to_owned());
        blocking("open a project", move || inner.open_project(&project)).await
    }

    /// [`Self::project`], blocking.
    pub(crate) fn open_project(&self, project: &str) -> std::io::Result<Option<ProjectDir>> {
        self.tree.project(project)
    }

    /// The directory of `project`, made if it is missing; blocking.
    pub(crate) fn make_project(&self, project: &str) -> std::io::Result<ProjectDir> {
        self.tree.make_project(project)
    }

    /// A turn for what begins to rely on blobs of `project`, which must not be under deletion.
    pub(crate) async fn share(&self, project: &str) -> Result<OwnedRwLockReadGuard<()>, Failure> {
        let turn = self.turns.shared(project).await;
        let found = self.records.project(project).await;
        let found = found.map_err(|error| Failure::records("find a project", &error))?;
        let active = found.is_some_and(|project| matches!(project.state, ProjectState::Active));
        if active { Ok(turn) } else { Err(Failure::NameUnknown) }
    }

    /// A turn for what removes blobs of `project`.
    pub(crate) async fn exclude(&self, project: &str) -> OwnedRwLockWriteGuard<()> {
        self.turns.alone(project).await
    }

    /// Opens a blob for somebody who may begin to rely on it: it counts as used from now on.
    pub(crate) async fn use_blob(
        self: &Arc<Self>,
        project: &str,
        digest: &ContentDigest,
    ) -> Result<Option<OpenBlob>, Failure> {
        let _turn = self.turns.shared(project).await;
        self.use_blob_in_turn(project, digest).await
    }

    /// [`Self::use_blob`] for somebody who has a turn.
    pub(crate) async fn use_blob_in_turn(
        self: &Arc<Self>,
        project: &str,
        digest: &ContentDigest,
    ) -> Result<Option<OpenBlob>, Failure> {
        let Some(dir) = self.project(project).await? else { return Ok(None) };
        let (digest, half) = (digest.clone(), self.limits.grace / 2);
        blocking("open a blob", move || {
            let Some(blob) = dir.blob(&digest)? else { return Ok(None) };
            if tree::is_older(blob.used, half) {
                tree::touch(&blob.file)?;
            }
            Ok(Some(blob))
        })
        .await
    }

    /// Begins an upload of at least `announced` bytes into `repository`.
    pub(crate) async fn start_upload(
        self: &Arc<Self>,
        repository: &Repository,
        algorithm: Algorithm,
        announced: u64,
    ) -> Result<Arc<Upload>, Failure> {
        let _turn = self.share(repository.project()).await?;
        // A project that has all it may have begins nothing, whatever its length.
        self.has_room(repository.project(), announced.max(1)).await?;
        let id = upload_id().map_err(|error| Failure::disk("choose an upload's id", &error))?;
        let upload = Upload::new(id, repository.clone(), algorithm);
        self.uploads.add(Arc::clone(&upload), &self.limits)?;
        let (inner, new) = (Arc::clone(self), Arc::clone(&upload));
        let made = blocking("start an upload", move || {
            inner.make_project(new.repository.project())?.create_upload(&new.id).map(drop)
        });
        if let Err(failure) = made.await {
            self.uploads.remove(&upload.id);
            return Err(failure);
        }
        Ok(upload)
    }

    /// Becomes the one who continues `upload`.
    pub(crate) async fn claim(self: &Arc<Self>, upload: Arc<Upload>) -> Result<Claim, Failure> {
        let dir = self.project(upload.repository.project()).await?.ok_or(Failure::UploadUnknown)?;
        upload.claim(Arc::new(dir)).await
    }

    /// Verifies what arrived and makes it a blob. An upload whose content is wrong is over too.
    pub(crate) async fn finish_upload(
        self: &Arc<Self>,
        mut claim: Claim,
        digest: &ContentDigest,
    ) -> Result<(), Failure> {
        let upload = Arc::clone(&claim.upload);
        let expected = digest.clone();
        let verified = tokio::task::spawn_blocking(move || claim.verify(&expected).map(|()| claim));
        let claim = match verified.await.map_err(|_| Failure::Internal)? {
            Ok(claim) => claim,
            Err(failure) => {
                self.drop_upload(&upload).await;
                return Err(failure);
            }
        };
        let _turn = self.share(upload.repository.project()).await?;
        let digest = digest.clone();
        let committed = tokio::task::spawn_blocking(move || claim.commit(&digest));
        committed.await.map_err(|_| Failure::Internal)??;
        self.uploads.remove(&upload.id);
        Ok(())
    }

    /// Forgets an upload and removes its file.
    pub(crate) async fn drop_upload(self: &Arc<Self>, upload: &Upload) {
        self.uploads.remove(&upload.id);
        let (inner, id) = (Arc::clone(self), upload.id.clone());
        let project = upload.repository.project().to_owned();
        let removed = blocking("remove an upload", move || match inner.tree.project(&project)? {
            Some(dir) => dir.remove_upload(&id),
            None => Ok(()),
        });
        // What stays behind is logged and swept at the next start.
        let _ = removed.await;
    }
}

/// Runs file system work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    attempt: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Failure::Internal)?;
    done.map_err(|error| Failure::disk(attempt, &error))
}

/// A random version 4 UUID, the form the specification asks of upload sessions.
pub(crate) fn upload_id() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    let groups = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    Ok(groups.join("-"))
}

/// One lock per project that somebody uses now.
#[derive(Default)]
struct Turns(Mutex<HashMap<String, Weak<RwLock<()>>>>);

impl Turns {
    fn of(&self, project: &str) -> Arc<RwLock<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = all.get(project).and_then(Weak::upgrade) {
            return lock;
        }
        all.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(RwLock::new(()));
        all.insert(project.to_owned(), Arc::downgrade(&lock));
        lock
    }

    async fn shared(&self, project: &str) -> OwnedRwLockReadGuard<()> {
        self.of(project).read_owned().await
    }

    async fn alone(&self, project: &str) -> OwnedRwLockWriteGuard<()> {
        self.of(project).write_owned().await
    }
}
