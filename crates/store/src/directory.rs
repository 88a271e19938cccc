//! Mutable directories: cache mounts of steps and mirrors of a client's directories.
//!
//! A directory is never committed and never part of a tree. It is taken by a guard and free
//! again when the guard is dropped; house keeping takes only free ones.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::DirectoryError;
use crate::ids::{LayerId, name_of};
use crate::layer::RecordType;
use crate::mount::{self, MountError, Upper};
use crate::root;
use crate::state::{State, lock};
use crate::store::Store;
use crate::sweep;
use crate::tree::Tree;
use crate::walk::LayerUsage;

/// How steps share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of steps use one directory at once.
    Shared,
    /// Each step has a directory of its own; a free one is used again.
    Private,
    /// One step at a time; others wait.
    Locked,
}

/// Which of the two a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    #[serde(rename = "cache")]
    Cache,
    #[serde(rename = "mirror")]
    Mirror,
}

/// A directory as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DirectoryRow {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    /// The layers beneath it, bottom first.
    #[serde(default)]
    pub(crate) base: Vec<LayerId>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) last_used_at: Option<DateTime<Utc>>,
    pub(crate) usage_count: u32,
    /// `None` when it was used since it was last counted.
    #[serde(default)]
    pub(crate) usage: Option<LayerUsage>,
}

impl DirectoryRow {
    pub(crate) const fn record_type(&self) -> RecordType {
        match self.kind {
            Kind::Cache => RecordType::CacheMount,
            Kind::Mirror => RecordType::LocalSource,
        }
    }

    pub(crate) fn description(&self) -> String {
        match self.kind {
            Kind::Cache => format!("cached mount {}", self.key),
            Kind::Mirror => format!("local source for {}", self.key),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Free,
    Shared(usize),
    Exclusive,
}

/// A directory in memory.
pub(crate) struct DirectoryEntry {
    pub(crate) row: DirectoryRow,
    pub(crate) hold: Hold,
    /// To be deleted instead of freed.
    retired: bool,
    /// What it took when it was last counted.
    pub(crate) counted: LayerUsage,
    /// The overlay that all its current holders share: two overlays must not write to one
    /// upper directory.
    overlay: Arc<Mutex<Option<OwnedFd>>>,
}

impl DirectoryEntry {
    pub(crate) fn free(row: DirectoryRow) -> Self {
        let counted = row.usage.unwrap_or_default();
        Self { row, hold: Hold::Free, retired: false, counted, overlay: Arc::default() }
    }
}

/// A directory that is held. Dropping it frees the directory.
struct Held {
    store: Arc<Store>,
    id: u64,
    path: PathBuf,
    overlay: Arc<Mutex<Option<OwnedFd>>>,
    discard: bool,
}

impl Held {
    fn open(&self, part: &str) -> io::Result<OwnedFd> {
        let name = format!("{}/{part}", name_of(self.id));
        Ok(root::open_directory(self.store.root.mutable.as_fd(), &name)?)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = lock(&self.store.state);
        let Some(entry) = state.directories.get_mut(&self.id) else { return };
        entry.hold = match entry.hold {
            Hold::Shared(holders) if holders > 1 => Hold::Shared(holders - 1),
            _ => Hold::Free,
        };
        entry.retired |= self.discard;
        entry.row.last_used_at = Some(self.store.now());
        entry.row.usage_count = entry.row.usage_count.saturating_add(1);
        entry.row.usage = None;
        let (free, retired) = (entry.hold == Hold::Free, entry.retired);
        if free {
            entry.overlay = Arc::default();
        }
        state.pending.directories.insert(self.id);
        if free && retired {
            self.store.remove_directory(&mut state, self.id);
        }
        drop(state);
        self.store.schedule_flush();
        self.store.released.notify_waiters();
    }
}

/// A cache mount in use.
pub struct CacheMount {
    held: Held,
    base: Tree,
}

impl std::fmt::Debug for CacheMount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "CacheMount({})", name_of(self.held.id))
    }
}

impl CacheMount {
    /// The directory's id, as in [`crate::UsageRecord::id`].
    #[must_use]
    pub fn id(&self) -> String {
        name_of(self.held.id)
    }

    /// The directory. With a base it holds only what differs from it: use
    /// [`CacheMount::mount`] to see both.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.held.path
    }

    /// Opens the directory.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn open(&self) -> io::Result<OwnedFd> {
        self.held.open("fs")
    }

    /// A detached, writable mount of it. Holders of a shared directory get mounts of one file
    /// system.
    ///
    /// # Errors
    /// The kernel refuses the mount.
    pub fn mount(&self) -> Result<OwnedFd, MountError> {
        let open = |part| self.held.open(part).map_err(MountError::open);
        if self.base.is_empty() {
            return mount::clone_directory(&open("fs")?, false);
        }
        let mut overlay = lock(&self.held.overlay);
        if let Some(shared) = &*overlay
            && let Ok(mount) = mount::clone_mount(shared)
        {
            return Ok(mount);
        }
        let upper = Upper {
            fs: open("fs")?,
            work: open("work")?,
            name: format!("mutable/{}", name_of(self.held.id)),
            // It is mounted again and again, and what it holds should survive a crash.
            volatile: false,
        };
        let made = mount::overlay(&self.held.store, &self.base.layers(), Some(&upper))?;
        if let Ok(mount) = mount::clone_mount(&made) {
            *overlay = Some(made);
            return Ok(mount);
        }
        Ok(made)
    }
}

/// A mirror in use, by this guard alone.
pub struct MirrorGuard {
    held: Held,
}

impl std::fmt::Debug for MirrorGuard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "MirrorGuard({})", name_of(self.held.id))
    }
}

impl MirrorGuard {
    /// The directory's id, as in [`crate::UsageRecord::id`]. A mirror that has the same id as
    /// before has the contents it was left with.
    #[must_use]
    pub fn id(&self) -> String {
        name_of(self.held.id)
    }

    /// The mirrored files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.held.path
    }

    /// Opens the directory of mirrored files.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn open(&self) -> io::Result<OwnedFd> {
        self.held.open("fs")
    }

    /// Opens a directory beside it for what the owner wants to know next time, such as digests
    /// of files. No step ever sees it.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn open_state(&self) -> io::Result<OwnedFd> {
        self.held.open("state")
    }

    /// A detached, read-only mount of the mirrored files.
    ///
    /// # Errors
    /// The kernel refuses the mount.
    pub fn mount(&self) -> Result<OwnedFd, MountError> {
        mount::clone_directory(&self.open().map_err(MountError::open)?, true)
    }

    /// Gives it back to be deleted: what it holds is not a faithful mirror.
    pub fn discard(mut self) {
        self.held.discard = true;
    }

    /// Has it deleted whenever it is given back, until [`MirrorGuard::keep`]: somebody may go on writing to it.
    pub const fn distrust(&mut self) {
        self.held.discard = true;
    }

    /// Says that it holds what it is to hold, and that nobody writes to it any more.
    pub const fn keep(&mut self) {
        self.held.discard = false;
    }
}

impl Store {
    /// Takes the cache mount `id` on top of `base`. Waits while it is [`Sharing::Locked`] and
    /// all directories of that name are in use. What is waited for may be given up by dropping
    /// the future.
    ///
    /// # Errors
    /// A new directory cannot be made.
    pub async fn cache_mount(
        self: &Arc<Self>,
        id: &str,
        base: &Tree,
        sharing: Sharing,
    ) -> Result<CacheMount, DirectoryError> {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // A release between the look and the wait must not be missed.
            released.as_mut().enable();
            if let Some(held) = self.take(Kind::Cache, id, base, sharing)? {
                return Ok(CacheMount { held, base: base.clone() });
            }
            released.await;
        }
    }

    /// Takes a mirror of `key` for the caller alone: the most recently used free one, or a new,
    /// empty one.
    ///
    /// # Errors
    /// A new directory cannot be made, or the mark for crashes cannot be written.
    pub fn mirror(self: &Arc<Self>, key: &str) -> Result<MirrorGuard, DirectoryError> {
        sweep::mark_mirrors(self).map_err(|source| DirectoryError::Io {
            attempt: "mark as open",
            id: key.to_owned(),
            source,
        })?;
        // Private never waits.
        let held = self.take(Kind::Mirror, key, &Tree::scratch(), Sharing::Private)?;
        held.map(|held| MirrorGuard { held }).ok_or_else(|| DirectoryError::Io {
            attempt: "take",
            id: key.to_owned(),
            source: io::ErrorKind::ResourceBusy.into(),
        })
    }

    /// Forgets all directories of the cache mount `id`, whatever their base. Those in use are
    /// deleted when they become free; nobody new gets them.
    pub fn drop_cache_mounts(&self, id: &str) {
        let mut state = lock(&self.state);
        let of_this_id = state
            .directories
            .iter()
            .filter(|(_, entry)| entry.row.kind == Kind::Cache && entry.row.key == id)
            .map(|(id, _)| *id)
            .collect::<Vec<u64>>();
        for id in of_this_id {
            let Some(entry) = state.directories.get_mut(&id) else { continue };
            if entry.hold == Hold::Free {
                self.remove_directory(&mut state, id);
            } else {
                entry.retired = true;
            }
        }
        drop(state);
        self.schedule_flush();
    }

    /// Takes a directory; `None` when the caller has to wait.
    fn take(
        self: &Arc<Self>,
        kind: Kind,
        key: &str,
        base: &Tree,
        sharing: Sharing,
    ) -> Result<Option<Held>, DirectoryError> {
        let mut state = lock(&self.state);
        let base = base.ids();
        let id = match choose(&state, kind, key, &base, sharing) {
            Choice::Take(id) => id,
            Choice::Wait => return Ok(None),
            Choice::Make => self.make_directory(&mut state, kind, key, base)?,
        };
        let Some(entry) = state.directories.get_mut(&id) else { return Ok(None) };
        entry.hold = match (sharing, entry.hold) {
            (Sharing::Shared, Hold::Shared(holders)) => Hold::Shared(holders + 1),
            (Sharing::Shared, _) => Hold::Shared(1),
            _ => Hold::Exclusive,
        };
        let overlay = entry.overlay.clone();
        // What it takes is unknown from here on, also to whoever opens the store after a crash.
        if entry.row.usage.take().is_some() {
            state.pending.directories.insert(id);
            self.schedule_flush();
        }
        let name = name_of(id);
        Ok(Some(Held {
            store: self.clone(),
            id,
            path: self.root.path().join("mutable").join(&name).join("fs"),
            overlay,
            discard: false,
        }))
    }

    fn make_directory(
        &self,
        state: &mut State,
        kind: Kind,
        key: &str,
        base: Vec<LayerId>,
    ) -> Result<u64, DirectoryError> {
        let id = state.next_id;
        state.next_id += 1;
        let name = name_of(id);
        let mutable = self.root.mutable.as_fd();
        let failed = |name, source| DirectoryError::Io { attempt: "create", id: name, source };
        // One that is there already is not this call's, and stays as it is.
        if let Err(errno) = rustix::fs::mkdirat(mutable, &name, rustix::fs::Mode::RWXU) {
            return Err(failed(name, errno.into()));
        }
        let fill = || -> io::Result<()> {
            let parent = root::open_directory(mutable, &name)?;
            root::make_owned_directory(parent.as_fd(), "fs", self.ids.first)?;
            match kind {
                Kind::Cache => root::make_directory(parent.as_fd(), "work"),
                Kind::Mirror => root::make_directory(parent.as_fd(), "state"),
            }
        };
        if let Err(source) = fill() {
            let _ = self.reaper.discard(mutable, &name);
            return Err(failed(name, source));
        }
        let row = DirectoryRow {
            kind,
            key: key.to_owned(),
            base,
            created_at: self.now(),
            last_used_at: None,
            usage_count: 0,
            usage: None,
        };
        state.directories.insert(id, DirectoryEntry::free(row));
        state.pending.directories.insert(id);
        Ok(id)
    }

    /// Lets nobody have a directory again: what it holds may not be what was written to it. The
    /// state is locked by the caller, who schedules the batch.
    pub(crate) fn retire_directories(&self, state: &mut State) {
        let all: Vec<u64> = state.directories.keys().copied().collect();
        for id in all {
            let Some(entry) = state.directories.get_mut(&id) else { continue };
            if entry.hold == Hold::Free {
                self.remove_directory(state, id);
            } else {
                entry.retired = true;
            }
        }
    }

    /// Removes a free directory; the state is locked by the caller, who schedules the batch.
    pub(crate) fn remove_directory(&self, state: &mut State, id: u64) {
        state.directories.remove(&id);
        state.pending.directories.remove(&id);
        state.pending.removed_directories.insert(id);
        let name = name_of(id);
        if let Err(error) = self.reaper.discard(self.root.mutable.as_fd(), &name) {
            tracing::warn!(%name, %error, "cannot move a directory aside");
        }
    }
}

enum Choice {
    Take(u64),
    Make,
    Wait,
}

/// Which directory a request gets. The most recently used free one is the warmest.
fn choose(state: &State, kind: Kind, key: &str, base: &[LayerId], sharing: Sharing) -> Choice {
    let mut exists = false;
    let mut free: Option<(Option<DateTime<Utc>>, u64)> = None;
    for (id, entry) in &state.directories {
        let row = &entry.row;
        if entry.retired || row.kind != kind || row.key != key || row.base != base {
            continue;
        }
        exists = true;
        match entry.hold {
            Hold::Shared(_) if sharing == Sharing::Shared => return Choice::Take(*id),
            Hold::Free => free = free.max(Some((row.last_used_at, *id))),
            _ => {}
        }
    }
    match free {
        Some((_, id)) => Choice::Take(id),
        None if exists && sharing == Sharing::Locked => Choice::Wait,
        None => Choice::Make,
    }
}
