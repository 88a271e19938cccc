//! Layers: overlay upper directories, first active, then committed by one rename.
//!
//! A committed layer never changes. It is meaningful by itself: whiteouts and opaque directories
//! are part of it, and any order of layers makes a tree. This module must never copy a layer.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use cofferdam_digest::Digest;
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::LayerError;
use crate::ids::{LayerId, name_of};
use crate::root::{self, rename_new};
use crate::state::{LayerEntry, State, lock};
use crate::store::Store;
use crate::walk::LayerUsage;

/// A layer has a handful of forms (one per compression and level); more is a caller that
/// repeats itself, and each row is read whole.
const MAX_LAYER_BLOBS: usize = 32;

/// What a directory of the store is for, in the words of `BuildKit`'s disk usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum RecordType {
    /// The result of a step.
    #[default]
    #[serde(rename = "regular")]
    Regular,
    /// Made by the builder for itself.
    #[serde(rename = "internal")]
    Internal,
    /// A frontend's image.
    #[serde(rename = "frontend")]
    Frontend,
    /// Files of a client.
    #[serde(rename = "source.local")]
    LocalSource,
    /// A checkout.
    #[serde(rename = "source.git.checkout")]
    GitCheckout,
    /// A cache mount.
    #[serde(rename = "exec.cachemount")]
    CacheMount,
}

impl RecordType {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Internal => "internal",
            Self::Frontend => "frontend",
            Self::LocalSource => "source.local",
            Self::GitCheckout => "source.git.checkout",
            Self::CacheMount => "exec.cachemount",
        }
    }
}

/// A packed form of a layer. The blob is kept as long as the layer, but may be missing after a
/// crash: a reader asks [`Store::blob`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// The blob in the content store.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type, which tells the compression.
    pub media_type: String,
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Annotations that go into a descriptor of it.
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What the store knows of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// What made it, for people.
    pub description: String,
    /// What it is for.
    pub record_type: RecordType,
    /// The layers it was seen directly on top of.
    #[serde(default)]
    pub parents: Vec<LayerId>,
    /// The OCI chain id under which it was pulled.
    #[serde(default)]
    pub chain_id: Option<Digest>,
    /// The digest of its uncompressed tar, once known.
    #[serde(default)]
    pub diff_id: Option<Digest>,
    /// Its known packed forms.
    #[serde(default)]
    pub blobs: Vec<LayerBlob>,
    /// What its directory takes; `None` until counted in the background.
    #[serde(default)]
    pub usage: Option<LayerUsage>,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// When a record last led to it.
    pub last_used_at: Option<DateTime<Utc>>,
    /// How often a record led to it.
    pub usage_count: u32,
}

/// A committed layer. Holding it keeps the layer from being evicted.
#[derive(Debug, Clone)]
pub struct Layer(Arc<Pinned>);

pub(crate) struct Pinned {
    id: LayerId,
    path: PathBuf,
    store: Arc<Store>,
    /// The names at its root, once somebody asked for them; `None` for a layer that has many.
    names: OnceLock<Option<Vec<CString>>>,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.id)
    }
}

impl PartialEq for Layer {
    /// Whether both are the same layer of the same store.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.id() == other.id() && self.dir() == other.dir())
    }
}

impl Eq for Layer {}

impl Layer {
    /// The layer's id.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.0.id
    }

    /// The layer's directory. For messages and the launch of sandboxes; contents are read
    /// through [`Layer::open`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.path
    }

    /// Opens the layer's directory.
    ///
    /// # Errors
    /// The directory is gone, the disk lost what was written to it, or no descriptor is free.
    pub fn open(&self) -> io::Result<OwnedFd> {
        self.check()?;
        let layers = &self.0.store.root.layers;
        Ok(root::open_directory(layers.as_fd(), &name_of(self.0.id.0))?)
    }

    /// Whether something of this name is at the layer's root, be it what removes it from the layers below. Who asks this of each layer
    /// of a tree, for every step that adds one, does not want to open all of them every time. *Blocking.*
    ///
    /// # Errors
    /// As [`Layer::open`], or the directory cannot be read.
    pub fn has_at_root(&self, name: &str) -> io::Result<bool> {
        let names = match self.0.names.get() {
            Some(names) => {
                self.check()?;
                names
            }
            None => {
                let names = crate::walk::few_names(&self.open()?)?;
                self.0.names.get_or_init(|| names)
            }
        };
        if let Some(names) = names {
            return Ok(names.iter().any(|known| known.to_bytes() == name.as_bytes()));
        }
        match statat(self.open()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What the store knows of the layer. `usage` may still be missing.
    #[must_use]
    pub fn info(&self) -> LayerInfo {
        let state = lock(&self.0.store.state);
        // A pinned layer has an entry: eviction takes only what nobody holds.
        state.layers.get(&self.0.id).map_or_else(LayerInfo::gone, |entry| entry.info.clone())
    }

    /// Whether a directory of the layer hides whatever lies below it, wherever the layer is put.
    /// *Blocking.*
    ///
    /// # Errors
    /// The layer cannot be read.
    pub fn has_opaque(&self) -> io::Result<bool> {
        if self.is_plain() {
            return Ok(false);
        }
        crate::walk::has_opaque(self.open()?)
    }

    fn check(&self) -> io::Result<()> {
        if !lock(&self.0.store.state).layers.contains_key(&self.0.id) {
            // It is held, so it was not evicted: see `Store::distrust_unsynced`.
            return Err(io::Error::other("the disk lost what was written to this layer"));
        }
        Ok(())
    }

    /// The store this layer belongs to.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    pub(crate) fn is_plain(&self) -> bool {
        let state = lock(&self.0.store.state);
        let usage = state.layers.get(&self.0.id).and_then(|entry| entry.info.usage);
        usage.is_some_and(|usage| usage.plain)
    }
}

impl LayerInfo {
    pub(crate) fn new(description: String, record_type: RecordType) -> Self {
        Self {
            description,
            record_type,
            parents: Vec::new(),
            chain_id: None,
            diff_id: None,
            blobs: Vec::new(),
            usage: None,
            created_at: Utc::now(),
            last_used_at: None,
            usage_count: 0,
        }
    }

    fn gone() -> Self {
        Self::new(String::new(), RecordType::Internal)
    }
}

/// A layer being made: the upper directory `fs` and the work directory of an overlay. Dropping
/// it deletes both.
#[derive(Debug)]
pub struct ActiveLayer {
    id: LayerId,
    path: PathBuf,
    info: Option<LayerInfo>,
    /// How often the disk had lost something when this was begun.
    losses: u64,
    store: Arc<Store>,
}

impl ActiveLayer {
    /// The id the layer will have.
    #[must_use]
    pub const fn id(&self) -> LayerId {
        self.id
    }

    /// The upper directory: owned by the container's root, mode 0755.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// Opens the upper directory.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn open(&self) -> io::Result<OwnedFd> {
        self.open_part("fs")
    }

    /// Opens the overlay's work directory.
    pub(crate) fn open_work(&self) -> io::Result<OwnedFd> {
        self.open_part("work")
    }

    fn open_part(&self, part: &str) -> io::Result<OwnedFd> {
        let name = format!("{}/{part}", name_of(self.id.0));
        Ok(root::open_directory(self.store.root.active.as_fd(), &name)?)
    }

    /// The store this layer belongs to.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Makes the layer permanent. Mounts that can write to it must be gone. What it takes on
    /// disk is counted in the background.
    ///
    /// # Errors
    /// The rename failed; the layer is deleted.
    pub fn commit(self) -> Result<Layer, LayerError> {
        self.commit_as(None)
    }

    /// Like [`ActiveLayer::commit`] for a caller that counted while it wrote.
    ///
    /// # Errors
    /// The rename failed; the layer is deleted.
    pub fn commit_with_usage(self, usage: LayerUsage) -> Result<Layer, LayerError> {
        self.commit_as(Some(usage))
    }

    fn commit_as(mut self, usage: Option<LayerUsage>) -> Result<Layer, LayerError> {
        let name = name_of(self.id.0);
        let id = self.id;
        let failed = |source| LayerError::Io { attempt: "commit", id, source };
        let mut info = self.info.take().unwrap_or_else(LayerInfo::gone);
        info.usage = usage;
        info.created_at = self.store.now();
        let layer = {
            let root = &self.store.root;
            let mut state = lock(&self.store.state);
            // A loss that is told of later finds the layer in the state.
            if state.losses != self.losses {
                return Err(failed(crate::loss::lost(root)));
            }
            rename_new(root.active.as_fd(), &format!("{name}/fs"), root.layers.as_fd(), &name)
                .map_err(|errno| failed(errno.into()))?;
            state.layers.insert(self.id, LayerEntry::new(info));
            if usage.is_none() {
                state.uncounted.insert(self.id);
            }
            state.pending.layers.insert(self.id);
            self.store.pin(&mut state, self.id)
        };
        // Others are counted later.
        self.store.came_in(usage.map_or(0, |usage| usage.bytes));
        self.store.schedule_flush();
        layer.ok_or_else(|| LayerError::Io {
            attempt: "find the committed",
            id: self.id,
            source: io::ErrorKind::NotFound.into(),
        })
        // Dropping `self` discards the work directory.
    }
}

impl Drop for ActiveLayer {
    fn drop(&mut self) {
        let name = name_of(self.id.0);
        let active = self.store.root.active.as_fd();
        if let Err(error) = self.store.reaper.discard_in_the_end(active, &name) {
            tracing::warn!(id = %self.id, %error, "cannot move an active layer aside");
        }
    }
}

impl Store {
    /// Begins a layer: an empty directory for the files of one step.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn new_layer(
        self: &Arc<Self>,
        description: impl Into<String>,
        record_type: RecordType,
    ) -> Result<ActiveLayer, LayerError> {
        let id = LayerId(self.next_id());
        let name = name_of(id.0);
        // The guard exists before the directories so that a failure half way cleans up.
        let layer = ActiveLayer {
            id,
            path: self.root.path().join("active").join(&name).join("fs"),
            info: Some(LayerInfo::new(description.into(), record_type)),
            losses: lock(&self.state).losses,
            store: self.clone(),
        };
        let make = || -> io::Result<()> {
            rustix::fs::mkdirat(&self.root.active, &name, rustix::fs::Mode::RWXU)?;
            let parent = root::open_directory(self.root.active.as_fd(), &name)?;
            root::make_owned_directory(parent.as_fd(), "fs", self.ids.first)?;
            root::make_directory(parent.as_fd(), "work")
        };
        make().map_err(|source| LayerError::Io { attempt: "create", id, source })?;
        Ok(layer)
    }

    /// A committed layer by its id.
    #[must_use]
    pub fn layer(self: &Arc<Self>, id: LayerId) -> Option<Layer> {
        self.pin(&mut lock(&self.state), id)
    }

    /// A layer that was pulled under this OCI chain id.
    #[must_use]
    pub fn layer_by_chain_id(self: &Arc<Self>, chain_id: &Digest) -> Option<Layer> {
        let mut state = lock(&self.state);
        let id = *state.chains.get(chain_id)?;
        self.touch(&mut state, id, self.now());
        self.pin(&mut state, id)
    }

    /// Remembers the chain id under which a layer can be found.
    pub fn set_layer_chain_id(&self, layer: &Layer, chain_id: Digest) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.layers.get_mut(&layer.id()) {
            entry.info.chain_id = Some(chain_id);
            state.chains.insert(chain_id, layer.id());
            state.pending.layers.insert(layer.id());
        }
        drop(state);
        self.schedule_flush();
    }

    /// Says when a layer was made that another builder made.
    pub fn set_layer_created_at(&self, layer: &Layer, created_at: DateTime<Utc>) {
        self.change_layer(layer, |info| info.created_at = created_at);
    }

    /// Remembers the digest of a layer's uncompressed tar.
    pub fn set_layer_diff_id(&self, layer: &Layer, diff_id: Digest) {
        self.change_layer(layer, |info| info.diff_id = Some(diff_id));
    }

    /// Remembers a packed form of a layer; from now on the blob lives as long as the layer. The
    /// caller still holds the [`crate::Blob`]. A form with the same digest and media type is
    /// replaced.
    pub fn set_layer_blob(&self, layer: &Layer, blob: LayerBlob) {
        self.change_layer(layer, |info| {
            info.diff_id.get_or_insert(blob.diff_id);
            info.blobs
                .retain(|known| known.digest != blob.digest || known.media_type != blob.media_type);
            if info.blobs.len() >= MAX_LAYER_BLOBS {
                info.blobs.remove(0);
            }
            info.blobs.push(blob);
        });
    }

    /// Changes what a layer is for, for instance when a frontend's image turns out to be a base.
    pub fn set_layer_type(&self, layer: &Layer, record_type: RecordType) {
        self.change_layer(layer, |info| info.record_type = record_type);
    }

    fn change_layer(&self, layer: &Layer, change: impl FnOnce(&mut LayerInfo)) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.layers.get_mut(&layer.id()) {
            change(&mut entry.info);
            state.pending.layers.insert(layer.id());
        }
        drop(state);
        self.schedule_flush();
    }

    /// A handle that keeps the layer; the state is locked by the caller.
    pub(crate) fn pin(self: &Arc<Self>, state: &mut State, id: LayerId) -> Option<Layer> {
        let entry = state.layers.get_mut(&id)?;
        if let Some(pinned) = entry.pinned.upgrade() {
            return Some(Layer(pinned));
        }
        let pinned = Arc::new(Pinned {
            id,
            path: self.root.path().join("layers").join(name_of(id.0)),
            store: self.clone(),
            names: OnceLock::new(),
        });
        entry.pinned = Arc::downgrade(&pinned);
        Some(Layer(pinned))
    }

    /// Notes a use of a layer; written with a later batch.
    ///
    /// Layers used together get the same time: their order is then that of the tree.
    pub(crate) fn touch(&self, state: &mut State, id: LayerId, now: DateTime<Utc>) {
        if let Some(entry) = state.layers.get_mut(&id) {
            entry.info.last_used_at = Some(now);
            entry.info.usage_count = entry.info.usage_count.saturating_add(1);
            state.pending.touched.insert(id);
            self.schedule_touches();
        }
    }
}
