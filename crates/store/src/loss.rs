//! What the disk lost: setting aside what cannot be trusted any more.
//!
//! The kernel tells once that a write was lost, and then takes the page for clean. Whatever was
//! written since the last sync that succeeded is therefore checked or dropped, never written
//! again. Must never drop what an earlier sync made durable.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use cofferdam_digest::{Digest, Digester};
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use crate::ids::{LayerId, name_of};
use crate::prune::{Above, forget_layer};
use crate::root::{self, Root};
use crate::state::{State, lock};
use crate::store::Store;
use crate::{ingest, journal};

/// How much of a blob is read at once.
const READ_BYTES: usize = 256 << 10;

/// A disk with less room than this is taken for full.
const FULL_BYTES: u64 = 1 << 20;
/// How often looks at new blobs are tried again, all of them together, while this process lacks
/// something they need.
const LOOK_RETRIES: u32 = 50;
/// How long to wait before such a look.
const LOOK_DELAY: Duration = Duration::from_millis(100);

/// After a sync that failed: drops the layers that no earlier batch made durable with all that
/// names them, retires the mutable directories, and keeps of the new blobs those whose bytes are
/// on disk. Called while no batch is under way.
pub(crate) fn distrust_unsynced(store: &Store) {
    // What is noted from here on could tell of what is about to be dropped.
    let noted = journal::suspend(store);
    let (layers, fresh) = {
        let mut state = lock(&store.state);
        // Layers and blobs under way may miss bytes too: they fail when they are committed.
        state.losses += 1;
        state.proven.clear();
        let unsynced = state.layers.iter().filter(|(_, entry)| !entry.durable);
        let layers: Vec<LayerId> = unsynced.map(|(id, _)| *id).collect();
        for id in &layers {
            drop_layer(store, &mut state, *id);
        }
        store.retire_directories(&mut state);
        // Nobody knows which of their bytes are on disk, and they can be had again.
        if let Err(error) = ingest::delete_unsynced(store, &state) {
            tracing::warn!(%error, "cannot delete partial blobs");
        }
        let fresh: Vec<Digest> = state.pending.fresh.iter().copied().collect();
        (layers.len(), fresh)
    };
    tracing::error!(layers, blobs = fresh.len(), "the disk lost writes: what is new is dropped");
    let mut retries = LOOK_RETRIES;
    for digest in fresh {
        keep_what_is_on_disk(store, &digest, &mut retries);
    }
    journal::resume(store, noted);
}

/// Keeps of a new blob what has its bytes on disk. A new copy that could not be looked at at all
/// is not trusted; an older one was made durable before the loss and goes only when it is wrong.
fn keep_what_is_on_disk(store: &Store, digest: &Digest, retries: &mut u32) {
    let (fresh, content) = (store.root.fresh.as_fd(), store.root.content.as_fd());
    let newer = matches!(look(fresh, digest, retries), Ok(true));
    let older = look(content, digest, retries)
        .unwrap_or_else(|error| error.kind() != io::ErrorKind::NotFound && !is_damage(&error));
    if !newer && !older {
        store.distrust(digest);
    } else if !newer && let Err(error) = store.reaper.discard(fresh, &digest.hex()) {
        tracing::warn!(%digest, %error, "cannot move a blob aside");
    }
}

/// Whether the blob in `dir` has its bytes on disk. A lack of descriptors or memory tells nothing
/// of them, so the look is tried again.
fn look(dir: BorrowedFd<'_>, digest: &Digest, retries: &mut u32) -> io::Result<bool> {
    loop {
        let opened = root::open(dir, &digest.hex(), OFlags::RDONLY);
        match opened.map_err(io::Error::from).and_then(|file| has_digest(file, digest, true)) {
            Err(error) if is_lack(&error) && *retries > 0 => {
                *retries -= 1;
                std::thread::sleep(LOOK_DELAY);
            }
            looked => return looked,
        }
    }
}

fn drop_layer(store: &Store, state: &mut State, id: LayerId) {
    let Some(entry) = state.layers.remove(&id) else { return };
    forget_layer(state, id, entry.info.chain_id, Above::Others);
    if entry.in_use() {
        // Mounts of it may exist: its files stay until they are gone.
        state.lost_layers.push((id, entry.pinned));
    } else {
        discard_layer(store, id);
    }
}

fn discard_layer(store: &Store, id: LayerId) {
    if let Err(error) = store.reaper.discard(store.root.layers.as_fd(), &name_of(id.0)) {
        tracing::warn!(%id, %error, "cannot move a layer aside");
    }
}

/// Deletes lost layers that nobody holds any more.
pub(crate) fn delete_released(store: &Store, state: &mut State) {
    let lost = std::mem::take(&mut state.lost_layers);
    for (id, pinned) in lost {
        if pinned.strong_count() == 0 {
            discard_layer(store, id);
        } else {
            state.lost_layers.push((id, pinned));
        }
    }
}

/// Whether a stored blob has the bytes of its name. With `uncached`, what the kernel remembers
/// of it is not taken for an answer.
pub(crate) fn is_intact(root: &Root, digest: &Digest, uncached: bool) -> io::Result<bool> {
    has_digest(open_stored(root, &digest.hex())?, digest, uncached)
}

/// Whether a file has the bytes of a name.
pub(crate) fn has_digest(file: OwnedFd, digest: &Digest, uncached: bool) -> io::Result<bool> {
    let mut file = std::fs::File::from(file);
    if uncached {
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    let mut digester = Digester::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digester.finish() == *digest),
            Ok(count) => digester.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn open_stored(root: &Root, name: &str) -> io::Result<OwnedFd> {
    for dir in [&root.fresh, &root.content] {
        match root::open(dir.as_fd(), name, OFlags::RDONLY) {
            Err(Errno::NOENT) => {}
            opened => return Ok(opened?),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

impl Store {
    /// Sets a blob aside whose bytes were found wrong, with the cache records that keep it. Who
    /// reads a stored blob and finds another digest calls this; the blob is then missing, to be
    /// fetched or made again. What of it is open stays readable.
    pub fn distrust(&self, digest: &Digest) {
        let name = digest.hex();
        let mut state = lock(&self.state);
        state.blobs.remove(digest);
        state.proven.remove(digest);
        state.pending.fresh.remove(digest);
        for dir in [&self.root.fresh, &self.root.content] {
            if let Err(error) = self.reaper.discard(dir.as_fd(), &name) {
                tracing::warn!(%digest, %error, "cannot move a blob aside");
            }
        }
        let keeping = state.record_blobs.iter().filter(|(_, blobs)| blobs.contains(digest));
        let records: HashSet<Digest> = keeping.map(|(identity, _)| *identity).collect();
        for identity in records {
            state.pending.records.remove(&identity);
            state.pending.removed_records.insert(identity);
            state.record_blobs.remove(&identity);
        }
        drop(state);
        journal::renew(self);
        tracing::error!(%digest, "a stored blob is not what its name says and was set aside");
        self.schedule_flush();
    }

    /// Reads a stored blob and tells whether its bytes are right; sets it aside when they are
    /// not or the disk fails to give them. *Blocking.*
    ///
    /// # Errors
    /// There is no such blob, or it could not be looked at.
    pub fn check_blob(&self, digest: &Digest) -> io::Result<bool> {
        let intact = match is_intact(&self.root, digest, true) {
            Ok(intact) => intact,
            Err(error) if is_damage(&error) => false,
            Err(error) => return Err(error),
        };
        if intact {
            lock(&self.state).proven.insert(*digest);
        } else {
            self.distrust(digest);
        }
        Ok(intact)
    }
}

/// What is said of something that was begun before a loss. On a full disk that is the reason: the
/// kernel finds some of it out only when it writes.
pub(crate) fn lost(root: &Root) -> io::Error {
    let left = rustix::fs::fstatvfs(&root.top);
    if left.is_ok_and(|left| left.f_bavail.saturating_mul(left.f_frsize) < FULL_BYTES) {
        return Errno::NOSPC.into();
    }
    io::Error::other("the disk lost what was written to it")
}

/// Whether an error tells of the disk and not of this process, such as a lack of descriptors.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EUCLEAN | libc::EBADMSG))
}

/// Whether an error tells of what this process or machine is short of, and passes.
fn is_lack(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::{Layer, Options, Record, RecordType, Tree};

    fn layer(store: &Arc<Store>, name: &str) -> Layer {
        store.new_layer(name, RecordType::Regular).unwrap().commit().unwrap()
    }

    fn put(store: &Arc<Store>, key: &str, layer: &Layer) -> Digest {
        let identity = Digest::of(key);
        store.put_record(Record::new(identity, &[Tree::from(layer.clone())])).unwrap();
        identity
    }

    fn blob(store: &Arc<Store>, bytes: &[u8]) -> Digest {
        let mut writer = store.blob_writer(None).unwrap();
        writer.write_all(bytes).unwrap();
        writer.commit().unwrap().digest()
    }

    #[test]
    fn what_the_disk_lost_is_dropped_and_what_it_has_stays() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        let old = layer(&store, "old");
        let old_key = put(&store, "old", &old);
        let mirror = store.mirror("context").unwrap().id();
        store.flush().unwrap();
        // Nothing is written in the background until the sync fails.
        let turn = lock(&store.writer);
        let (free, held) = (layer(&store, "free"), layer(&store, "held"));
        let keys = [put(&store, "free", &free), put(&store, "held", &held)];
        drop(free);
        let active = store.new_layer("active", RecordType::Regular).unwrap();
        let mut writer = store.blob_writer(None).unwrap();
        writer.write_all(b"half").unwrap();
        let (good, bad) = (blob(&store, b"good"), blob(&store, b"bad"));
        std::fs::write(temp.path().join("fresh").join(bad.hex()), b"BAD").unwrap();

        store.failing_syncs.store(true, Ordering::SeqCst);
        drop(turn);
        // This batch or one in the background: both are over when this returns.
        let _ = store.flush();
        assert!(keys.iter().all(|key| store.record(key).is_none()));
        assert!(held.open().is_err(), "nobody may read what is not there");
        assert!(active.commit().is_err(), "it may miss bytes as well");
        assert!(writer.commit().is_err());
        assert!(store.blob(&bad).is_none());
        assert_ne!(store.mirror("context").unwrap().id(), mirror);
        for _ in 0..2 {
            assert!(store.record(&old_key).is_some());
            assert!(store.blob(&good).is_some());
            store.flush().unwrap();
        }
        let held_name = held.id().to_string();
        assert!(temp.path().join("layers").join(&held_name).exists(), "mounts of it may exist");
        drop(held);
        let newer = layer(&store, "newer");
        put(&store, "newer", &newer);
        store.flush().unwrap();
        assert!(!temp.path().join("layers").join(held_name).exists());
        assert_eq!(store.verify(false).unwrap(), [] as [crate::Trouble; 0]);
    }

    #[test]
    fn losing_a_newer_copy_of_a_blob_leaves_the_durable_one() {
        let temp = tempfile::tempdir().unwrap();
        let digest = {
            let store = Store::open(temp.path(), Options::default()).unwrap();
            let mut record = Record::new(Digest::of("key"), &[Tree::scratch()]);
            record.blobs = vec![blob(&store, b"bytes")];
            let digest = record.blobs[0];
            store.put_record(record).unwrap();
            digest
        };
        // A process that has not looked at it yet takes a second copy of it.
        let store = Store::open(temp.path(), Options::default()).unwrap();
        let turn = lock(&store.writer);
        assert_eq!(blob(&store, b"bytes"), digest);
        let newer = temp.path().join("fresh").join(digest.hex());
        std::fs::write(&newer, b"BYTES").unwrap();
        store.failing_syncs.store(true, Ordering::SeqCst);
        drop(turn);
        let _ = store.flush();
        assert!(!newer.exists());
        assert!(store.check_blob(&digest).unwrap());
        assert!(store.record(&Digest::of("key")).is_some());
        store.flush().unwrap();
        assert_eq!(store.verify(false).unwrap(), [] as [crate::Trouble; 0]);
    }

    #[test]
    fn a_move_that_cannot_be_made_durable_fails_the_batch_and_keeps_what_has_its_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        let turn = lock(&store.writer);
        let new = layer(&store, "new");
        let key = put(&store, "new", &new);
        let (good, bad) = (blob(&store, b"good"), blob(&store, b"bad"));
        std::fs::write(temp.path().join("fresh").join(bad.hex()), b"BAD").unwrap();
        store.failing_fsyncs.store(true, Ordering::SeqCst);
        drop(turn);
        let _ = store.flush();
        assert!(store.record(&key).is_none(), "no row of this batch was written");
        assert!(store.check_blob(&good).unwrap());
        assert!(store.blob(&bad).is_none());
        drop(new);
        store.flush().unwrap();
        assert_eq!(store.verify(false).unwrap(), [] as [crate::Trouble; 0]);
        drop(store);
        let store = Store::open(temp.path(), Options::default()).unwrap();
        assert!(store.blob(&good).is_some());
    }

    #[test]
    fn what_the_disk_lost_does_not_come_back_from_the_journal() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        let turn = lock(&store.writer);
        let held = layer(&store, "held");
        put(&store, "held", &held);
        store.secure().unwrap();
        let journal = temp.path().join("journal");
        assert!(journal.exists());
        store.failing_syncs.store(true, Ordering::SeqCst);
        drop(turn);
        let _ = store.flush();
        assert!(!journal.exists());
        assert!(temp.path().join("layers").join(held.id().to_string()).exists());
    }

    #[test]
    fn a_partial_download_does_not_survive_a_loss() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        let (left, taken) = (Digest::of("left"), Digest::of("taken"));
        let half = |digest: &Digest| {
            let mut writer = store.resume_blob(digest, 10).unwrap();
            writer.write_all(b"half").unwrap();
            writer
        };
        drop(half(&left));
        let writer = half(&taken);
        distrust_unsynced(&store);
        drop(writer);
        for digest in [left, taken] {
            assert_eq!(store.resume_blob(&digest, 10).unwrap().offset(), 0);
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_blob_that_leaves_is_not_left_waiting() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        // Nothing is written before the blob is gone.
        let turn = lock(&store.writer);
        let gone = blob(&store, b"gone");
        let leaving = async {
            store.release_blobs(&[gone]);
            drop(turn);
        };
        let (settled, ()) = tokio::join!(store.settled(), leaving);
        settled.unwrap();
    }

    #[tokio::test]
    async fn who_waits_for_a_batch_hears_how_it_ended() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        store.settled().await.unwrap();
        let first = layer(&store, "first");
        let key = put(&store, "first", &first);
        let both = tokio::join!(store.settled(), store.settled());
        both.0.unwrap();
        both.1.unwrap();
        assert!(lock(&store.state).layers[&first.id()].durable);
        drop(store.record(&key));
        let batches = lock(&store.state).batches;
        store.settled().await.unwrap();
        assert_eq!(lock(&store.state).batches, batches, "a note of use is not waited for");

        layer(&store, "second");
        store.failing_syncs.store(true, Ordering::SeqCst);
        let error = store.settled().await.unwrap_err();
        assert!(error.to_string().contains("cannot flush the store's data"), "{error}");
        store.settled().await.unwrap();
    }
}
