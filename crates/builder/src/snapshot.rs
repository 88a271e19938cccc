//! The output of a vertex: a file tree that may not be on this disk yet.
//!
//! A [`Snapshot`] is a committed tree, layers of images or imported caches that are pulled when
//! somebody first looks at files, or the mirror of a client's directory. Consumers that are
//! answered by the cache never look, so nothing is pulled for them.

use std::sync::Arc;

use cofferdam_sandbox::detached_bind;
pub(crate) use cofferdam_store::Tree;
use cofferdam_store::{ActiveLayer, MirrorGuard, RecordType, Store, mount_tree};
use rustix::fs::{Mode, OFlags};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::blocking::blocking;
use crate::content_digest::KnownFiles;
use crate::failure::Failure;
use crate::pieces::Pieces;
use crate::rooted::Root;

/// A file tree, cheap to clone.
#[derive(Clone)]
pub(crate) struct Snapshot(Arc<Inner>);

struct Inner {
    origin: Origin,
    tree: OnceCell<Tree>,
    view: OnceCell<Arc<Root>>,
}

enum Origin {
    Committed,
    /// Some layers were elsewhere when this was made.
    Joined(Pieces),
    Mirror {
        guard: MirrorGuard,
        store: Arc<Store>,
        known: Arc<KnownFiles>,
    },
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Origin::Mirror { store, known, .. } = &self.origin else { return };
        if !known.has_news() {
            return;
        }
        // The store is closed, and says that its builder ended in good order, after what it is to vouch for was written. The
        // mirror itself is free at once: what is known is compared with its files whenever it is used.
        let (store, known) = (Arc::clone(store), Arc::clone(known));
        let save = move || {
            known.save();
            drop(store);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(save)),
            Err(_) => save(),
        }
    }
}

impl Snapshot {
    fn new(origin: Origin, tree: Option<Tree>) -> Self {
        let tree = tree.map_or_else(OnceCell::new, |tree| OnceCell::new_with(Some(tree)));
        Self(Arc::new(Inner { origin, tree, view: OnceCell::new() }))
    }

    /// A committed tree.
    pub(crate) fn committed(tree: Tree) -> Self {
        Self::new(Origin::Committed, Some(tree))
    }

    /// The empty tree.
    pub(crate) fn scratch() -> Self {
        Self::committed(Tree::scratch())
    }

    /// Layers that may be elsewhere.
    pub(crate) fn joined(pieces: Pieces) -> Self {
        match pieces.here() {
            Some(tree) => Self::committed(tree),
            None => Self::new(Origin::Joined(pieces), None),
        }
    }

    /// A client's directory; held for as long as any clone lives. `known` are digests of its files
    /// from earlier builds; what is added to them meanwhile is kept once, when the last clone goes.
    pub(crate) fn mirror(guard: MirrorGuard, store: Arc<Store>, known: Arc<KnownFiles>) -> Self {
        Self::new(Origin::Mirror { guard, store, known }, None)
    }

    /// What is known of single files. Of committed trees the digest of the whole is remembered.
    pub(crate) fn known_files(&self) -> Option<Arc<KnownFiles>> {
        match &self.0.origin {
            Origin::Mirror { known, .. } => Some(Arc::clone(known)),
            _ => None,
        }
    }

    /// Names the mirror that this is, and never another one.
    pub(crate) fn mirror_id(&self) -> Option<String> {
        match &self.0.origin {
            Origin::Mirror { guard, .. } => Some(guard.id()),
            _ => None,
        }
    }

    /// The tree, when it is known to be on this disk as committed layers.
    pub(crate) fn known_tree(&self) -> Option<Tree> {
        self.0.tree.get().cloned()
    }

    /// Whether a cache record may name this output.
    pub(crate) fn is_recordable(&self) -> bool {
        matches!(self.0.origin, Origin::Committed)
    }

    /// Whether the files can never change: everything but a client's mirror.
    pub(crate) fn is_immutable(&self) -> bool {
        !matches!(self.0.origin, Origin::Mirror { .. })
    }

    /// The tree as committed layers, pulled or copied when it is not.
    pub(crate) async fn tree(&self) -> Result<Tree, Failure> {
        let make = || async {
            match &self.0.origin {
                Origin::Committed => Ok(Tree::scratch()),
                Origin::Joined(pieces) => pieces.fetch().await,
                Origin::Mirror { guard, store, .. } => {
                    let source = Root::new(guard.open().map_err(Failure::store)?);
                    copied(Arc::clone(store), source).await
                }
            }
        };
        self.0.tree.get_or_try_init(make).await.cloned()
    }

    /// The layers, without pulling any.
    pub(crate) async fn pieces(&self) -> Result<Pieces, Failure> {
        match (&self.0.origin, self.known_tree()) {
            (Origin::Joined(pieces), None) => Ok(pieces.clone()),
            _ => Ok(Pieces::from(&self.tree().await?)),
        }
    }

    /// The tree's files, read-only in practice: writers make a [`Workspace`].
    pub(crate) async fn view(&self) -> Result<Arc<Root>, Failure> {
        let make = || async {
            if let Origin::Mirror { guard, .. } = &self.0.origin {
                return Ok(Arc::new(Root::new(guard.open().map_err(Failure::store)?)));
            }
            let tree = self.tree().await?;
            let fd = blocking(move || mount_tree(&tree, None)).await?.map_err(Failure::store)?;
            Ok(Arc::new(Root::new(fd)))
        };
        self.0.view.get_or_try_init(make).await.cloned()
    }

    /// The same files as a detached mount of the caller's own: kernels before 6.15 cannot clone the
    /// one that everybody reads.
    pub(crate) async fn mounted(&self) -> Result<Root, Failure> {
        if let Origin::Mirror { guard, .. } = &self.0.origin {
            let fd = guard.open().map_err(Failure::store)?;
            return detached_bind(fd, false).map(Root::new).map_err(Failure::of);
        }
        let tree = self.tree().await?;
        let fd = blocking(move || mount_tree(&tree, None)).await?.map_err(Failure::store)?;
        Ok(Root::new(fd))
    }
}

/// Copies a client's directory into a layer, for the rare graph that builds upon one.
async fn copied(store: Arc<Store>, source: Root) -> Result<Tree, Failure> {
    blocking(move || {
        let workspace = Workspace::new(&store, Tree::scratch(), "copy of a local directory")?;
        crate::op::file::copy_everything(&source, workspace.root(), None, None)
            .map_err(Failure::store)?;
        workspace.commit()
    })
    .await?
}

/// A tree with a writable layer on top.
pub(crate) struct Workspace {
    // Declared first so that the mount is gone before the layer is committed or deleted.
    root: Root,
    active: ActiveLayer,
    base: Tree,
}

impl Workspace {
    /// Begins a layer on `base`. Blocking.
    pub(crate) fn new(store: &Arc<Store>, base: Tree, description: &str) -> Result<Self, Failure> {
        let active = store.new_layer(description, RecordType::Regular).map_err(Failure::store)?;
        let fd = if base.is_empty() {
            active.open().map_err(Failure::store)?
        } else {
            mount_tree(&base, Some(&active)).map_err(Failure::store)?
        };
        Ok(Self { root: Root::new(fd), active, base })
    }

    /// As [`Workspace::new`], always as a detached mount that a sandbox can attach.
    pub(crate) fn mounted(
        store: &Arc<Store>,
        base: Tree,
        description: &str,
    ) -> Result<Self, Failure> {
        let active = store.new_layer(description, RecordType::Regular).map_err(Failure::store)?;
        let fd = mount_tree(&base, Some(&active)).map_err(Failure::store)?;
        Ok(Self { root: Root::new(fd), active, base })
    }

    /// The same layer without a view of what is below it: the merged tree is gone from here on, and the root is the layer's own
    /// directory.
    pub(crate) fn bare(mut self) -> Result<Self, Failure> {
        self.root = self.upper()?;
        Ok(self)
    }

    /// The merged tree.
    pub(crate) const fn root(&self) -> &Root {
        &self.root
    }

    /// The layer's own directory.
    pub(crate) fn upper(&self) -> Result<Root, Failure> {
        self.active.open().map(Root::new).map_err(Failure::store)
    }

    /// Makes the layer permanent. Blocking.
    pub(crate) fn commit(self) -> Result<Tree, Failure> {
        self.commit_after(|| Ok(()))
    }

    /// As [`Workspace::commit`], with last touches to the upper directory, which the overlay
    /// must not see while it is mounted. Blocking.
    pub(crate) fn commit_after(
        self,
        touch: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Tree, Failure> {
        let Self { root, active, base } = self;
        drop(root);
        touch()?;
        let layer = active.commit().map_err(Failure::store)?;
        Ok(base.with(layer))
    }
}

/// Opens a directory of the host side of the builder, for its own files only.
pub(crate) fn open_own(path: &std::path::Path) -> std::io::Result<Root> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Root::new(rustix::fs::open(path, flags, Mode::empty())?))
}
