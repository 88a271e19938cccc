//! The history of builds: those that run, and records of those that have ended.
//!
//! A record is a document of the store (`history`), and what it names are blobs of the store: the status stream, the whole error,
//! a trace, manifests and attestations. It belongs to whoever built: a build of a server sees its own records, clients of a builder
//! that somebody started by hand see all of theirs.
//!
//! Records are visible as soon as a build has ended and durable a second later, as everything in the store: a crash of the machine
//! loses the newest ones and never leaves half of one. From the moment that `Solve` answers they outlive a builder that is killed.
//! Their number and size are bounded, whatever clients pin. Credentials never enter a record, see [`redact`].
//!
//! The protocol is `ListenBuildHistory` and `UpdateBuildHistory` of BuildKit's control API.

mod entry;
mod filter;
mod house;
mod late;
mod listen;
mod logs;
mod recorder;
mod recording;
mod redact;
mod spans;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_store::{Document, Store};
use cofferdam_wire::moby::buildkit::v1 as wire;
use tokio::sync::broadcast;

pub(crate) use self::filter::Query;
pub(crate) use self::logs::replay;
pub(crate) use self::recorder::Recorder;
pub(crate) use self::recording::{IN_TOTO, Recording};
pub(crate) use self::trace::TraceContext;

use self::entry::{Entry, Key};
use self::house::Bounds;
use self::late::Late;
use self::spans::Spans;
use crate::blocking::blocking;
use crate::config;
use crate::failure::Failure;

/// The kind of the store's documents that are records.
const KIND: &str = "history";
/// Events a listener may be behind before it is told to come again.
const BACKLOG: usize = 1024;

type Record = Arc<wire::BuildHistoryRecord>;

/// What listeners are told.
#[derive(Debug, Clone)]
struct Told {
    key: Key,
    event: wire::BuildHistoryEvent,
}

/// All records of a builder.
pub(crate) struct History {
    store: Arc<Store>,
    bounds: Bounds,
    state: Mutex<State>,
    /// Room for the whole backlog is made at once, so what is in it is small.
    events: broadcast::Sender<Arc<Told>>,
    /// What clients trace.
    pub(crate) spans: Spans,
    /// Held while documents are written or removed, so that neither overtakes the other.
    disk: tokio::sync::Mutex<()>,
    write_scheduled: AtomicBool,
}

#[derive(Default)]
struct State {
    running: BTreeMap<Key, Record>,
    ended: BTreeMap<Key, Entry>,
    /// Those of them whose trace is not at its end.
    late: BTreeMap<Key, Late>,
}

fn event(kind: wire::BuildHistoryEventType, record: &Record) -> wire::BuildHistoryEvent {
    wire::BuildHistoryEvent {
        r#type: kind.into(),
        record: buffa::MessageField::some((**record).clone()),
        ..wire::BuildHistoryEvent::default()
    }
}

impl History {
    /// The history that `store` holds. *Blocking.*
    pub(crate) fn open(store: Arc<Store>, config: &config::History) -> Result<Arc<Self>, Failure> {
        let mut ended = BTreeMap::new();
        for document in store.documents(KIND).map_err(Failure::store)? {
            let key = Key::of_document(&document.key);
            match key.and_then(|key| Some((key, Entry::of_document(&store, &document)?))) {
                Some((key, entry)) => drop(ended.insert(key, entry)),
                // Of another version, or a blob of it is gone: nobody can read it.
                None => store.remove_document(KIND, &document.key).map_err(Failure::store)?,
            }
        }
        Ok(Arc::new(Self {
            store,
            bounds: Bounds::of(config),
            state: Mutex::new(State { ended, ..State::default() }),
            events: broadcast::Sender::new(BACKLOG),
            disk: tokio::sync::Mutex::default(),
            spans: Spans::default(),
            write_scheduled: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, key: &Key, event: wire::BuildHistoryEvent) {
        // Nobody listens most of the time.
        let _ = self.events.send(Arc::new(Told { key: key.clone(), event }));
    }

    /// Shows a build that begins.
    fn begin(&self, key: &Key, record: Record) {
        self.tell(key, event(wire::BuildHistoryEventType::STARTED, &record));
        self.lock().running.insert(key.clone(), record);
    }

    /// Shows how a build has ended, or more of what is known of it. Of two, the later holds.
    fn end(self: &Arc<Self>, key: &Key, mut entry: Entry) {
        let told = entry.unwritten.as_ref().map(|new| Arc::clone(&new.record));
        if let Some(record) = &told {
            // Until it is written, for a builder that is killed.
            let (bytes, blobs) = (entry::encode(record), entry.blobs.clone());
            self.store.promise_document(KIND, Document { key: key.document(), bytes, blobs });
        }
        {
            let mut state = self.lock();
            state.running.remove(key);
            if let Some(older) = state.ended.remove(key) {
                entry.replaces(older);
            }
            state.ended.insert(key.clone(), entry);
        }
        if let Some(record) = told {
            self.tell(key, event(wire::BuildHistoryEventType::COMPLETE, &record));
        }
        self.schedule_write();
    }

    /// Forgets a build that began and whose end could not be recorded.
    fn abandon(&self, key: &Key) {
        self.lock().running.remove(key);
    }

    /// Whether a build of this name runs, whatever is on record of earlier ones.
    pub(crate) fn is_running(&self, owner: &str, reference: &str) -> bool {
        self.lock().running.contains_key(&Key::new(owner, reference))
    }

    /// The record of a build that has ended.
    pub(crate) async fn find(
        &self,
        owner: &str,
        reference: &str,
    ) -> Result<Option<Record>, Failure> {
        self.read(&Key::new(owner, reference)).await
    }

    async fn read(&self, key: &Key) -> Result<Option<Record>, Failure> {
        match self.lock().ended.get(key) {
            None => return Ok(None),
            Some(Entry { unwritten: Some(new), .. }) => return Ok(Some(Arc::clone(&new.record))),
            Some(_) => {}
        }
        let (store, name) = (Arc::clone(&self.store), key.document());
        let found = blocking(move || store.document(KIND, &name)).await?.map_err(Failure::store)?;
        Ok(found.and_then(|document| entry::decode(&document.bytes)).map(Arc::new))
    }

    /// Whether a record of `owner` names the blob.
    pub(crate) fn names(&self, owner: &str, digest: &Digest) -> bool {
        let state = self.lock();
        state.ended.iter().any(|(key, entry)| key.is_of(owner) && entry.blobs.contains(digest))
    }

    /// Every blob that records of `owner` name.
    pub(crate) fn blobs(&self, owner: &str) -> std::collections::BTreeSet<Digest> {
        let state = self.lock();
        let own = state.ended.iter().filter(|(key, _)| key.is_of(owner));
        own.flat_map(|(_, entry)| entry.blobs.iter().copied()).collect()
    }

    /// Keeps a record whatever its age, or no longer.
    pub(crate) async fn pin(
        self: &Arc<Self>,
        owner: &str,
        reference: &str,
        pinned: bool,
    ) -> Result<(), Failure> {
        let key = Key::new(owner, reference);
        let Some(record) = self.read(&key).await? else {
            return Err(Failure::not_found(format!("failed to retrieve ref {reference}")));
        };
        if record.pinned == pinned {
            return Ok(());
        }
        if pinned {
            self.bounds.check_pin(&self.lock().ended)?;
        }
        let change = |record: &mut wire::BuildHistoryRecord| {
            record.pinned = pinned;
            true
        };
        self.change(&key, Vec::new(), change).await
    }

    /// Changes the record of a build that has ended, which keeps `blobs` from then on too; `change` says whether it is the one that
    /// was meant.
    async fn change(
        self: &Arc<Self>,
        key: &Key,
        blobs: Vec<cofferdam_store::Blob>,
        change: impl FnOnce(&mut wire::BuildHistoryRecord) -> bool,
    ) -> Result<(), Failure> {
        // A record that is removed meanwhile must not come back.
        let _turn = self.disk.lock().await;
        let Some(record) = self.read(key).await? else { return Ok(()) };
        let mut changed = (*record).clone();
        if !change(&mut changed) {
            return Ok(());
        }
        changed.Generation = changed.Generation.saturating_add(1);
        // The record itself does not name everything that is kept with it.
        let gone = entry::replaced(&record, &changed);
        let mut kept = self.kept(key);
        kept.retain(|digest| !gone.contains(digest));
        let held = kept.iter().filter_map(|digest| self.store.blob(digest)).chain(blobs);
        let entry = Entry::new(Arc::new(changed), held.collect());
        self.end(key, entry);
        Ok(())
    }

    /// What is kept with a record.
    fn kept(&self, key: &Key) -> Vec<Digest> {
        self.lock().ended.get(key).map(|entry| entry.blobs.clone()).unwrap_or_default()
    }

    /// Removes the record of a build that has ended, and what nothing else names.
    pub(crate) async fn remove(&self, owner: &str, reference: &str) -> Result<(), Failure> {
        self.remove_key(&Key::new(owner, reference)).await
    }

    async fn remove_key(&self, key: &Key) -> Result<(), Failure> {
        let _turn = self.disk.lock().await;
        let Some(entry) = self.lock().ended.remove(key) else { return Ok(()) };
        let reference = key.reference().to_owned();
        let gone = Arc::new(wire::BuildHistoryRecord { Ref: reference, ..Default::default() });
        self.tell(key, event(wire::BuildHistoryEventType::DELETED, &gone));
        let Entry { blobs, stale, on_disk, unwritten, .. } = entry;
        drop(unwritten);
        let (store, name) = (Arc::clone(&self.store), key.document());
        let removed = blocking(move || {
            if on_disk {
                store.remove_document(KIND, &name)?;
            } else {
                store.break_promise(KIND, &name);
            }
            store.release_blobs(&blobs);
            store.release_blobs(&stale);
            Ok(())
        });
        removed.await?.map_err(|error: cofferdam_store::RecordError| Failure::store(error))
    }

    /// Makes everything durable that is not yet.
    pub(crate) async fn flush(&self) {
        let _turn = self.disk.lock().await;
        let waiting: Vec<(Key, Record, Vec<Digest>)> = {
            let state = self.lock();
            let ended = state.ended.iter();
            ended
                .filter_map(|(key, entry)| {
                    let new = entry.unwritten.as_ref()?;
                    Some((key.clone(), Arc::clone(&new.record), entry.blobs.clone()))
                })
                .collect()
        };
        for (key, record, blobs) in waiting {
            let (store, name) = (Arc::clone(&self.store), key.document());
            let bytes = entry::encode(&record);
            let document = Document { key: name, bytes, blobs };
            let written = blocking(move || store.put_document(KIND, &document)).await;
            match written {
                Ok(Ok(())) => self.written(&key, &record).await,
                Ok(Err(error)) => tracing::warn!(%error, "a build's record could not be written"),
                Err(error) => tracing::warn!(%error, "a build's record could not be written"),
            }
        }
    }

    /// Notes that `record` is on disk, and lets go of what only it held.
    async fn written(&self, key: &Key, record: &Record) {
        let stale = {
            let mut state = self.lock();
            let Some(entry) = state.ended.get_mut(key) else { return };
            entry.on_disk = true;
            // A newer version may have come meanwhile: until that is on disk, what is there still names what it replaces.
            let newest = entry.unwritten.as_ref().map(|new| Arc::ptr_eq(&new.record, record));
            if newest != Some(true) {
                return;
            }
            entry.unwritten = None;
            std::mem::take(&mut entry.stale)
        };
        if !stale.is_empty() {
            let store = Arc::clone(&self.store);
            let _ = blocking(move || store.release_blobs(&stale)).await;
        }
    }
}
