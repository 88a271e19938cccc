//! Uploads under way: how much has arrived, its digest so far, and who continues them.
//!
//! The bytes are in a file, the running digest is in memory, so a restart forgets uploads and
//! their files are swept. An upload has one writer at a time: a request that continues it puts
//! an end to an earlier one, whose client may long be gone without the server knowing. Memory
//! per upload must stay constant whatever a client sends.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::digest::{Algorithm, ContentDigest, Hasher};
use crate::error::Failure;
use crate::limits::{Limits, READ_BYTES, TAKEOVER};
use crate::name::Repository;
use crate::tree::ProjectDir;

/// All uploads of this process.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<String, Arc<Upload>>>);

impl Uploads {
    /// Takes a new upload in, unless there are too many.
    pub(crate) fn add(&self, upload: Arc<Upload>, limits: &Limits) -> Result<(), Failure> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let project = upload.repository.project();
        let of_project = all.values().filter(|other| other.repository.project() == project).count();
        if all.len() >= limits.uploads || of_project >= limits.uploads_per_project {
            return Err(Failure::TooManyUploads);
        }
        all.insert(upload.id.clone(), upload);
        Ok(())
    }

    /// The upload `id` into `repository`.
    pub(crate) fn get(&self, id: &str, repository: &Repository) -> Result<Arc<Upload>, Failure> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = all.get(id).filter(|upload| upload.repository == *repository);
        upload.cloned().ok_or(Failure::UploadUnknown)
    }

    /// Forgets an upload and stops whoever continues it.
    pub(crate) fn remove(&self, id: &str) {
        let removed = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(upload) = removed {
            upload.holder.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        }
    }

    /// Whether the upload is known.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// The uploads `chosen` picks.
    pub(crate) fn select(&self, chosen: impl Fn(&Upload) -> bool) -> Vec<Arc<Upload>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().filter(|upload| chosen(upload)).cloned().collect()
    }
}

/// One upload.
pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) repository: Repository,
    started: Instant,
    /// When the last bytes came.
    active: Mutex<Instant>,
    /// Bytes on disk that the digest covers.
    received: AtomicU64,
    /// Cancelled when another request takes over.
    holder: Mutex<CancellationToken>,
    state: Arc<AsyncMutex<Option<State>>>,
}

/// What the one writer has; nothing once the upload is finished.
struct State {
    hasher: Hasher,
    length: u64,
}

impl Upload {
    pub(crate) fn new(id: String, repository: Repository, algorithm: Algorithm) -> Arc<Self> {
        let state = State { hasher: Hasher::new(algorithm), length: 0 };
        Arc::new(Self {
            id,
            repository,
            started: Instant::now(),
            active: Mutex::new(Instant::now()),
            received: AtomicU64::new(0),
            holder: Mutex::new(CancellationToken::new()),
            state: Arc::new(AsyncMutex::new(Some(state))),
        })
    }

    /// Bytes that arrived and will not be asked for again.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Where clients continue it.
    pub(crate) fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.repository, self.id)
    }

    /// Whether it waited or took too long.
    pub(crate) fn is_expired(&self, limits: &Limits) -> bool {
        let idle = self.active.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        idle > limits.upload_idle || self.started.elapsed() > limits.upload_age
    }

    /// Becomes the one who continues it.
    pub(crate) async fn claim(self: Arc<Self>, project: Arc<ProjectDir>) -> Result<Claim, Failure> {
        let mine = CancellationToken::new();
        let earlier = {
            let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *holder, mine.clone())
        };
        earlier.cancel();
        let waiting = tokio::time::timeout(TAKEOVER, Arc::clone(&self.state).lock_owned());
        let state = waiting.await.map_err(|_| Failure::UploadBusy)?;
        if state.is_none() {
            return Err(Failure::UploadUnknown);
        }
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(Claim { upload: self, project, superseded: mine, state, file: None })
    }
}

/// The right to continue an upload, held by one request.
pub(crate) struct Claim {
    pub(crate) upload: Arc<Upload>,
    pub(crate) project: Arc<ProjectDir>,
    /// Fires when another request takes over or the upload is dropped.
    pub(crate) superseded: CancellationToken,
    state: OwnedMutexGuard<Option<State>>,
    file: Option<File>,
}

impl Claim {
    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.length)
    }

    /// Expects a digest of this algorithm, if that is still for free.
    pub(crate) fn expect(&mut self, algorithm: Algorithm) {
        if let Some(state) = self.state.as_mut().filter(|state| state.length == 0) {
            state.hasher = Hasher::new(algorithm);
        }
    }

    fn open(&mut self) -> Result<(&File, &mut State), Failure> {
        if self.file.is_none() {
            let opened = self.project.open_upload(&self.upload.id);
            let opened = opened.map_err(|error| Failure::disk("open an upload", &error))?;
            self.file = Some(opened.ok_or(Failure::UploadUnknown)?);
        }
        match (self.file.as_ref(), self.state.as_mut()) {
            (Some(file), Some(state)) => Ok((file, state)),
            _ => Err(Failure::UploadUnknown),
        }
    }

    /// Adds bytes. Blocks. After a failure the upload is as before: what a failed write left
    /// behind the known length is written over by the next.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let (file, state) = self.open()?;
        let written = file.write_all_at(bytes, state.length);
        written.map_err(|error| Failure::disk("write an upload", &error))?;
        state.hasher.update(bytes);
        state.length += bytes.len() as u64;
        let length = state.length;
        self.upload.received.store(length, Ordering::Release);
        *self.upload.active.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    /// Checks the whole content against its digest and brings it to the disk. Blocks.
    pub(crate) fn verify(&mut self, expected: &ContentDigest) -> Result<(), Failure> {
        let (file, state) = self.open()?;
        let failed = |error: std::io::Error| Failure::disk("finish an upload", &error);
        // A write that failed may have left bytes behind the end that the digest does not cover.
        file.set_len(state.length).map_err(failed)?;
        let computed = if state.hasher.algorithm() == expected.algorithm() {
            state.hasher.clone().finish()
        } else {
            digest_again(file, expected.algorithm()).map_err(failed)?
        };
        if computed != *expected {
            return Err(Failure::DigestMismatch { given: expected.clone(), computed });
        }
        file.sync_all().map_err(failed)
    }

    /// Gives verified content its name. Blocks. The upload is over.
    pub(crate) fn commit(mut self, digest: &ContentDigest) -> Result<(), Failure> {
        let Some(file) = self.file.take() else { return Err(Failure::UploadUnknown) };
        let committed = self.project.commit(&self.upload.id, &file, digest);
        committed.map_err(|error| Failure::disk("name a blob", &error))?;
        *self.state = None;
        Ok(())
    }
}

/// Reads the whole file once more, for a digest of another algorithm than was expected.
pub(crate) fn digest_again(file: &File, algorithm: Algorithm) -> std::io::Result<ContentDigest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(hasher.finish()),
            count => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
}
