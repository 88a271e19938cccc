//! Mounts of an exec operation, as detached mounts that a sandbox attaches.
//!
//! Every source is a descriptor: a tree, a subdirectory resolved beneath it by the kernel, a
//! cache directory, a file in memory. A secret exists on tmpfs only, for as long as its step.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use cofferdam_graph::Vertex;
use cofferdam_sandbox::{Mount, MountSource, detached_file, detached_part};
use cofferdam_solver::Step;
use cofferdam_store::{CacheMount, LayerId, Sharing, Tree};
use cofferdam_wire::pb;
use rustix::fs::{Mode, OFlags};
use tokio::task::JoinHandle;

use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::rooted::{Root, clean};
use crate::snapshot::{Snapshot, Workspace};

/// What an output of the op is made of, in mount order.
pub(super) enum Slot {
    /// A writable layer to commit.
    Layer(Box<Workspace>),
    /// The mount's input, which could not be changed.
    Input(usize),
    /// Nothing was mounted there and nothing could be written.
    Scratch,
}

/// Everything a step's sandbox needs that holds resources.
pub(super) struct Prepared {
    view: Root,
    root: Option<OwnedFd>,
    /// Whether the step may not write to its root.
    pub(super) readonly_root: bool,
    /// Mounts other than the root.
    pub(super) mounts: Vec<Mount>,
    /// Size asked for `/dev/shm`.
    pub(super) shm_size: Option<u64>,
    /// Outputs in mount order, with the number of each mount.
    pub(super) slots: Vec<(usize, Slot)>,
    /// Writable layers that are thrown away afterwards, likewise.
    discarded: Vec<(usize, Workspace)>,
    /// Number of the mount that is being made.
    at: usize,
    /// Caches by name and by the layers they began with.
    caches: Vec<(String, Vec<LayerId>, CacheMount)>,
    agents: Vec<JoinHandle<()>>,
    views: Vec<Root>,
    /// What is mounted, in the order that was asked for; only kept for those who want to look.
    seen: Option<Vec<Option<OwnedFd>>>,
}

impl Prepared {
    /// The root's files, to look up users in.
    pub(super) const fn root_view(&self) -> &Root {
        &self.view
    }

    /// Hands the root over to the sandbox.
    pub(super) fn take_root(&mut self) -> Result<OwnedFd, Failure> {
        self.root.take().ok_or_else(|| Failure::unknown("the root was handed over already"))
    }

    /// The directories a step may write to that are on disk, and whether something was in them before.
    pub(super) fn writable(&self) -> Result<Vec<(OwnedFd, bool)>, Failure> {
        let layers = self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Layer(workspace) => Some(&**workspace),
            Slot::Input(_) | Slot::Scratch => None,
        });
        let mut found = Vec::new();
        for workspace in layers.chain(self.discarded.iter().map(|(_, workspace)| workspace)) {
            let upper = workspace.upper()?;
            found.push((upper.as_fd().try_clone_to_owned().map_err(Failure::store)?, false));
        }
        for (_, _, cache) in &self.caches {
            found.push((cache.open().map_err(Failure::store)?, true));
        }
        Ok(found)
    }

    /// Takes note of a mount for [`Prepared::take_seen`].
    fn remember(&mut self, mount: Option<impl AsFd>) -> Result<(), Failure> {
        let Some(seen) = &mut self.seen else { return Ok(()) };
        let clone = |fd: &_| AsFd::as_fd(fd).try_clone_to_owned().map_err(Failure::store);
        seen.push(mount.as_ref().map(clone).transpose()?);
        Ok(())
    }

    /// The mounts to look into, in the order that was asked for.
    pub(super) fn take_seen(&mut self) -> Vec<Option<OwnedFd>> {
        self.seen.take().unwrap_or_default()
    }

    /// Stops forwarding to agents; the step is over.
    pub(super) fn finish_agents(&mut self) {
        for agent in self.agents.drain(..) {
            agent.abort();
        }
    }

    /// Releases what is not an output.
    pub(super) fn into_slots(mut self) -> Vec<Slot> {
        self.finish_agents();
        std::mem::take(&mut self.slots).into_iter().map(|(_, slot)| slot).collect()
    }

    /// Everything that has a writable layer or stands for an input, by the number of its mount.
    pub(super) fn into_mounts(mut self) -> Vec<(usize, Slot)> {
        self.finish_agents();
        let discarded = std::mem::take(&mut self.discarded).into_iter();
        let layers = discarded.map(|(at, workspace)| (at, Slot::Layer(Box::new(workspace))));
        let mut mounts = std::mem::take(&mut self.slots);
        mounts.extend(layers);
        mounts
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.finish_agents();
    }
}

/// What a sandbox is prepared for.
pub(super) struct Wanted<'a> {
    /// Its mounts, whose inputs are numbered as in an operation.
    pub(super) mounts: &'a [pb::Mount],
    /// What relative destinations are relative to.
    pub(super) cwd: &'a str,
    /// What its layers are described as.
    pub(super) name: String,
    /// Whether its cache mounts begin empty.
    pub(super) fresh_caches: bool,
    /// Whether somebody will look into the mounts from outside.
    pub(super) observed: bool,
}

impl<'a> Wanted<'a> {
    /// As a vertex says.
    pub(super) fn by(vertex: &Vertex, exec: &'a pb::ExecOp) -> Self {
        Self {
            mounts: &exec.mounts,
            cwd: exec.meta.as_option().map_or("/", |meta| meta.cwd.as_str()),
            name: vertex.name(),
            fresh_caches: vertex.ignore_cache(),
            observed: false,
        }
    }
}

/// Makes every mount that is wanted.
pub(super) async fn prepare(
    context: &Arc<Context>,
    wanted: &Wanted<'_>,
    inputs: &[Snapshot],
    step: &Step,
) -> Result<Prepared, Failure> {
    let root_mount = wanted
        .mounts
        .iter()
        .find(|mount| mount.dest == "/")
        .ok_or_else(|| Failure::invalid("invalid exec op with no rootfs"))?;
    let name = wanted.name.clone();
    let base = tree_of(inputs, root_mount.input).await?;
    let store = Arc::clone(&context.store);
    let workspace = blocking(move || Workspace::mounted(&store, base, &name)).await??;
    let mount = workspace.root().as_fd().try_clone_to_owned().map_err(Failure::store)?;
    let mut prepared = Prepared {
        view: workspace.root().try_clone().map_err(Failure::store)?,
        root: Some(mount),
        readonly_root: root_mount.readonly,
        mounts: Vec::new(),
        shm_size: None,
        slots: Vec::new(),
        discarded: Vec::new(),
        at: 0,
        caches: Vec::new(),
        agents: Vec::new(),
        views: Vec::new(),
        seen: wanted.observed.then(Vec::new),
    };
    let mut root = Some(workspace);
    for (at, mount) in wanted.mounts.iter().enumerate() {
        prepared.at = at;
        if mount.dest == "/" {
            if let Some(workspace) = root.take() {
                prepared.remember(Some(workspace.root()))?;
                prepared.keep(workspace, mount);
            }
            continue;
        }
        prepared.add(context, wanted, mount, inputs, step).await?;
    }
    Ok(prepared)
}

async fn tree_of(inputs: &[Snapshot], input: i64) -> Result<Tree, Failure> {
    match usize::try_from(input).ok().and_then(|index| inputs.get(index)) {
        Some(snapshot) => snapshot.tree().await,
        None => Ok(Tree::scratch()),
    }
}

impl Prepared {
    /// Files a workspace under what becomes of it.
    fn keep(&mut self, workspace: Workspace, mount: &pb::Mount) {
        if mount.output < 0 {
            self.discarded.push((self.at, workspace));
        } else if mount.readonly {
            self.discarded.push((self.at, workspace));
            self.slots.push((self.at, input_slot(mount)));
        } else {
            self.slots.push((self.at, Slot::Layer(Box::new(workspace))));
        }
    }

    async fn add(
        &mut self,
        context: &Arc<Context>,
        wanted: &Wanted<'_>,
        mount: &pb::Mount,
        inputs: &[Snapshot],
        step: &Step,
    ) -> Result<(), Failure> {
        let source = match mount.mountType.as_known() {
            Some(pb::MountType::BIND) => {
                Some(MountSource::Fd(self.bind(context, wanted, mount, inputs).await?))
            }
            Some(pb::MountType::CACHE) => {
                Some(MountSource::Fd(self.cache(context, wanted, mount, inputs).await?))
            }
            Some(pb::MountType::TMPFS) => self.tmpfs(mount),
            Some(pb::MountType::SECRET) => secret(context, mount, step).await?.map(MountSource::Fd),
            Some(pb::MountType::SSH) => {
                self.agent(context, mount, step).await?.map(MountSource::Fd)
            }
            None => return Err(Failure::invalid("invalid mount type")),
        };
        let seen = match &source {
            Some(MountSource::Fd(fd)) => Some(fd.as_fd()),
            _ => None,
        };
        self.remember(seen)?;
        if let Some(source) = source {
            let cwd = wanted.cwd;
            let dest = if mount.dest.starts_with('/') {
                clean(&mount.dest)
            } else {
                clean(&format!("{cwd}/{}", mount.dest))
            };
            self.mounts.push(Mount { dest, source, readonly: mount.readonly });
        }
        Ok(())
    }

    async fn bind(
        &mut self,
        context: &Arc<Context>,
        wanted: &Wanted<'_>,
        mount: &pb::Mount,
        inputs: &[Snapshot],
    ) -> Result<OwnedFd, Failure> {
        let input = usize::try_from(mount.input).ok().and_then(|index| inputs.get(index));
        if let (true, Some(snapshot)) = (mount.readonly, input) {
            let root = snapshot.mounted().await?;
            let fd = subtree(&root, &mount.selector)?;
            self.views.push(root);
            if mount.output >= 0 {
                self.slots.push((self.at, input_slot(mount)));
            }
            return Ok(fd);
        }
        let base = tree_of(inputs, mount.input).await?;
        let store = Arc::clone(&context.store);
        let name = wanted.name.clone();
        let workspace = blocking(move || Workspace::mounted(&store, base, &name)).await??;
        let fd = subtree(workspace.root(), &mount.selector)?;
        self.keep(workspace, mount);
        Ok(fd)
    }

    async fn cache(
        &mut self,
        context: &Arc<Context>,
        wanted: &Wanted<'_>,
        mount: &pb::Mount,
        inputs: &[Snapshot],
    ) -> Result<OwnedFd, Failure> {
        let options = mount.cacheOpt.as_option();
        let id = options.map(|options| options.ID.as_str()).filter(|id| !id.is_empty());
        let sharing = match options.and_then(|options| options.sharing.as_known()) {
            Some(pb::CacheSharingOpt::PRIVATE) => Sharing::Private,
            Some(pb::CacheSharingOpt::LOCKED) => Sharing::Locked,
            _ => Sharing::Shared,
        };
        let base = tree_of(inputs, mount.input).await?;
        let id = id.unwrap_or(&mount.dest);
        // A step that mounts a cache twice has it already: waiting for its own lock would last for ever.
        let layers = base.ids();
        let held = self.caches.iter().position(|(held, below, _)| held == id && *below == layers);
        let held = match held {
            Some(held) => held,
            None => {
                if wanted.fresh_caches {
                    context.store.drop_cache_mounts(id);
                }
                let taken = context.store.cache_mount(id, &base, sharing).await;
                self.caches.push((id.to_owned(), layers, taken.map_err(Failure::store)?));
                self.caches.len() - 1
            }
        };
        let root = Root::new(self.caches[held].2.mount().map_err(Failure::store)?);
        let fd = subtree(&root, &mount.selector)?;
        if mount.output >= 0 && mount.input >= 0 {
            self.slots.push((self.at, input_slot(mount)));
        }
        Ok(fd)
    }

    /// A tmpfs on `/dev/shm` is how frontends ask for its size; the sandbox makes that one.
    fn tmpfs(&mut self, mount: &pb::Mount) -> Option<MountSource> {
        let size = mount.TmpfsOpt.as_option().and_then(|options| u64::try_from(options.size).ok());
        let size = size.filter(|size| *size > 0);
        if clean(&mount.dest) == "/dev/shm" {
            self.shm_size = size;
            return None;
        }
        Some(MountSource::Tmpfs { size })
    }

    async fn agent(
        &mut self,
        context: &Arc<Context>,
        mount: &pb::Mount,
        step: &Step,
    ) -> Result<Option<OwnedFd>, Failure> {
        let options = mount.SSHOpt.as_option().cloned().unwrap_or_default();
        let id = if options.ID.is_empty() { cofferdam_session::DEFAULT_AGENT } else { &options.ID };
        let session = match context.agent_session(step, id).await {
            Ok(session) => session,
            Err(_) if options.optional => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let owner = disk_owner(context, options.uid, options.gid)?;
        let (listener, fd) = super::exec_agent::socket(owner, options.mode).map_err(Failure::of)?;
        let id = id.to_owned();
        self.agents.push(tokio::spawn(async move {
            if let Err(error) = session.forward_agent(&id, listener).await {
                tracing::debug!(%error, "agent forwarding ended");
            }
        }));
        Ok(Some(fd))
    }
}

fn input_slot(mount: &pb::Mount) -> Slot {
    usize::try_from(mount.input).map_or(Slot::Scratch, Slot::Input)
}

/// A detached mount of what is at `selector` beneath `root`, resolved there by the kernel. The mount
/// `root` is used by nobody else, and used up.
fn subtree(root: &Root, selector: &str) -> Result<OwnedFd, Failure> {
    let path = clean(selector);
    if path == "/" {
        return root.as_fd().try_clone_to_owned().map_err(Failure::store);
    }
    let fd = root.open(&path, OFlags::PATH, Mode::empty()).map_err(|error| {
        if crate::rooted::is_absent(&error) {
            Failure::unknown(format!("{path:?}: not found"))
        } else {
            Failure::store(error)
        }
    })?;
    detached_part(root.as_fd(), fd).map_err(Failure::of)
}

fn disk_owner(context: &Context, uid: u32, gid: u32) -> Result<(u32, u32), Failure> {
    let ids = context.store_ids();
    ids.to_disk(uid)
        .zip(ids.to_disk(gid))
        .ok_or_else(|| Failure::invalid(format!("ids {uid}:{gid} are outside a build's range")))
}

async fn secret(
    context: &Arc<Context>,
    mount: &pb::Mount,
    step: &Step,
) -> Result<Option<OwnedFd>, Failure> {
    let options = mount.secretOpt.as_option().cloned().unwrap_or_default();
    let bytes = match context.secret(step, &options.ID).await {
        Ok(bytes) => bytes,
        Err(_) if options.optional => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let owner = disk_owner(context, options.uid, options.gid)?;
    detached_file(&bytes, owner, options.mode & 0o777).map(Some).map_err(Failure::of)
}
