//! Blobs under way: writing, verifying, resuming.
//!
//! A blob gets its name only after its digest and size were checked. Anonymous writes vanish
//! with their writer; a download of a known blob leaves what it got for [`Store::resume_blob`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use cofferdam_digest::{Digest, Digester};
use rustix::fs::OFlags;

use crate::content::{Blob, size_of};
use crate::error::ContentError;
use crate::ids::name_of;
use crate::root::{self, unlink};
use crate::state::{State, lock};
use crate::store::Store;

/// The largest blob taken when nobody said how large it will be. Layers of tens of gigabytes
/// exist; a stream beyond this is a mistake or an attack on the disk.
const MAX_UNDECLARED_BYTES: u64 = 128 << 30;

/// How much is read at once when a partial download is digested again.
const COPY_BYTES: usize = 256 << 10;

/// Writes one blob. Dropping it without [`BlobWriter::commit`] throws the bytes away, except for
/// a writer of [`Store::resume_blob`], which leaves them for the next attempt.
pub struct BlobWriter {
    store: Arc<Store>,
    file: File,
    name: String,
    digester: Digester,
    expected: Option<(Digest, u64)>,
    resumable: bool,
    finished: bool,
    /// How often the disk had lost something when this was begun.
    losses: u64,
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "BlobWriter({} at {})", self.name, self.offset())
    }
}

impl BlobWriter {
    /// How many bytes are there already: where the rest of a download begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.digester.len()
    }

    /// Starts over from the first byte, for a server that cannot serve a range.
    ///
    /// # Errors
    /// The file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), ContentError> {
        self.file.set_len(0).map_err(io_error("empty a partial blob"))?;
        io::Seek::rewind(&mut self.file).map_err(io_error("rewind a partial blob"))?;
        self.digester = Digester::new();
        Ok(())
    }

    /// Checks what was written and stores it under its digest. It is durable with the next
    /// batch, see [`Store::flush`].
    ///
    /// # Errors
    /// The bytes are not the expected ones; they are thrown away even when resumable, unless
    /// there are just too few. Or the rename failed.
    pub fn commit(mut self) -> Result<Blob, ContentError> {
        let size = self.offset();
        if let Some((digest, wanted)) = self.expected
            && size != wanted
        {
            return Err(ContentError::Size { expected: digest, size: wanted, found: size });
        }
        let found = std::mem::take(&mut self.digester).finish();
        if let Some((expected, _)) = self.expected
            && found != expected
        {
            // What is there is wrong: it must not be resumed.
            self.resumable = false;
            return Err(ContentError::Digest { expected, found });
        }
        let store = self.store.clone();
        let mut state = lock(&store.state);
        if state.losses != self.losses {
            self.resumable = false;
            let lost = crate::loss::lost(&store.root);
            return Err(io_error("store a blob")(lost));
        }
        let known = size_of(&store.root, &found);
        // What an earlier process stored may have rotted: these bytes are right, so they take
        // its place.
        if known != Some(size) || !state.proven.contains(&found) {
            let (ingest, fresh) = (store.root.ingest.as_fd(), store.root.fresh.as_fd());
            rustix::fs::renameat(ingest, &self.name, fresh, found.hex())
                .map_err(|errno| io_error("name a complete blob")(errno.into()))?;
            self.finished = true;
            state.pending.fresh.insert(found);
            state.proven.insert(found);
            if known != Some(size) {
                // A handle to it would tell the wrong size.
                state.blobs.remove(&found);
            }
        }
        let blob = store.pin_blob(&mut state, &found);
        drop(state);
        store.schedule_flush();
        self.resumable = false;
        blob.ok_or_else(|| io_error("find a stored blob")(io::ErrorKind::NotFound.into()))
    }

    /// Lets another writer of the same blob begin.
    fn forget(&self, state: &mut State) {
        if let Some((digest, _)) = self.expected
            && self.name == digest.hex()
        {
            state.ingesting.remove(&digest);
        }
    }

    fn limit(&self) -> u64 {
        self.expected.map_or(MAX_UNDECLARED_BYTES, |(_, size)| size)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.offset().saturating_add(bytes.len() as u64) > self.limit() {
            let message = format!("blob is larger than {} bytes", self.limit());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let count = self.file.write(bytes)?;
        self.store.came_in(count as u64);
        self.digester.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // In one moment, so that a loss finds the blob under way or its file.
        let mut state = lock(&self.store.state);
        let resumable = self.resumable && state.losses == self.losses;
        if !self.finished
            && !resumable
            && let Err(error) = unlink(self.store.root.ingest.as_fd(), &self.name)
        {
            tracing::warn!(name = self.name, %error, "cannot delete a partial blob");
        }
        self.forget(&mut state);
    }
}

fn io_error(attempt: &'static str) -> impl FnOnce(io::Error) -> ContentError {
    move |source| ContentError::Io { attempt, source }
}

impl Store {
    /// Begins a blob. With `expected` digest and size in bytes, nothing else can be committed.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn blob_writer(
        self: &Arc<Self>,
        expected: Option<(Digest, u64)>,
    ) -> Result<BlobWriter, ContentError> {
        let name = format!("tmp-{}", name_of(self.next_id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = root::open(self.root.ingest.as_fd(), &name, flags)
            .map_err(|errno| io_error("create a blob")(errno.into()))?;
        Ok(BlobWriter {
            store: self.clone(),
            file: file.into(),
            name,
            digester: Digester::new(),
            expected,
            resumable: false,
            finished: false,
            losses: lock(&self.state).losses,
        })
    }

    /// Begins or takes up the download of a known blob of `size` bytes: the writer stands after
    /// what an earlier attempt left, see [`BlobWriter::offset`]. *Blocking*: what is there is
    /// read to be digested.
    ///
    /// # Errors
    /// [`ContentError::Busy`] while another writer of the same blob exists, or the file cannot be
    /// used.
    pub fn resume_blob(
        self: &Arc<Self>,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobWriter, ContentError> {
        let losses = {
            let mut state = lock(&self.state);
            if !state.ingesting.insert(*digest) {
                return Err(ContentError::Busy { digest: *digest });
            }
            state.losses
        };
        let name = digest.hex();
        let opened = open_partial(self, &name, size);
        let (file, digester) = opened.map_err(|source| {
            lock(&self.state).ingesting.remove(digest);
            io_error("take up a partial blob")(source)
        })?;
        Ok(BlobWriter {
            store: self.clone(),
            file,
            name,
            digester,
            expected: Some((*digest, size)),
            resumable: true,
            finished: false,
            losses,
        })
    }
}

/// Opens what an earlier attempt left and digests it. More bytes than the blob has are not a
/// part of it.
fn open_partial(store: &Store, name: &str, size: u64) -> io::Result<(File, Digester)> {
    let flags = OFlags::RDWR | OFlags::CREATE;
    let mut file = File::from(root::open(store.root.ingest.as_fd(), name, flags)?);
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    let mut digester = Digester::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((file, digester)),
            Ok(count) => digester.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Deletes partial downloads that nobody continues. `keep` decides by name and age.
pub(crate) fn delete_partials(
    store: &Store,
    keep: impl Fn(std::time::Duration) -> bool,
) -> io::Result<()> {
    let ingest = store.root.ingest.as_fd();
    for name in crate::walk::names(ingest)? {
        let Ok(digest) = Digest::parse(&format!("sha256:{name}")) else { continue };
        let state = lock(&store.state);
        let age = root::age(ingest, &name);
        if !state.ingesting.contains(&digest) && !age.is_some_and(&keep) {
            unlink(ingest, &name)?;
        }
    }
    Ok(())
}

/// Deletes all partial downloads after a loss. Those under way end with their writers, which
/// began before it.
pub(crate) fn delete_unsynced(store: &Store, state: &State) -> io::Result<()> {
    let ingest = store.root.ingest.as_fd();
    for name in crate::walk::names(ingest)? {
        let Ok(digest) = Digest::parse(&format!("sha256:{name}")) else { continue };
        if !state.ingesting.contains(&digest) {
            unlink(ingest, &name)?;
        }
    }
    Ok(())
}
