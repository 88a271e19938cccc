//! Control groups: a leaf per step in every delegated hierarchy, with its limits, its kill switch and its memory of what died.
//!
//! Both layouts are served, and the mixed one where controllers are on version 1 while the unified hierarchy still offers
//! `cgroup.kill`. A limit whose controller was not delegated is an error, never ignored. See cgroups(7) and the kernel's
//! admin-guide/cgroup-v1 and cgroup-v2.

mod delegate;
mod limits;
mod orphans;
mod removal;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use delegate::sweep_groups;
pub(crate) use delegate::{Delegator, Grant};

use crate::spec::Limits;

/// How often the removal of a leaf is tried, and with what pauses: the last process of a killed tree may still be on its way out.
/// The pauses grow from a fraction of what that usually takes; together they are about a second.
const REMOVE_ATTEMPTS: u32 = 60;
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Longest control file that is read: `memory.events` and `memory.oom_control` are a few lines.
const MAX_CONTROL_FILE: usize = 4096;

/// Controllers that are of use to steps.
const STEP_CONTROLLERS: &[&str] = &["memory", "pids", "cpu", "cpuacct", "cpuset"];

/// Name of the builder's own leaf, beside those of its steps.
const HOME: &str = "builder";

/// Something about a control group failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A limit was asked for whose controller is not delegated to this builder.
    #[error("limit {limit}: the {controller} cgroup controller is not available here")]
    Unavailable {
        /// The limit asked for.
        limit: &'static str,
        /// The controller it needs.
        controller: &'static str,
    },
    /// A control group could not be created.
    #[error("create cgroup {path}")]
    Create {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A control file could not be read or written.
    #[error("write {value:?} to {file} of cgroup {path}")]
    Write {
        /// The control group.
        path: PathBuf,
        /// The control file.
        file: String,
        /// What was to be written.
        value: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A control group could not be opened.
    #[error("open cgroup {path}")]
    Open {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A process could not be put into its control group.
    #[error("join cgroup {path}")]
    Join {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A control group stayed busy, most likely for a process the kernel cannot end.
    #[error("remove cgroup {path}")]
    Remove {
        /// Where.
        path: PathBuf,
        /// What the kernel said last.
        #[source]
        source: Errno,
    },
    /// The description of the mounted hierarchies could not be read.
    #[error("read {path}")]
    Describe {
        /// Which file.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The control groups a builder may create children in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// One per mounted hierarchy.
    pub hierarchies: Vec<Hierarchy>,
}

impl Delegation {
    /// The delegated directory of the unified hierarchy, opened for a process to be made there.
    pub(crate) fn unified(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let hierarchy =
            self.hierarchies.iter().find(|hierarchy| hierarchy.kind == HierarchyKind::V2);
        hierarchy.map(Hierarchy::open).transpose()
    }

    /// The leaf of it that is for the builder itself, if the supervisor has made one.
    pub(crate) fn home(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(group) = self.unified()? else { return Ok(None) };
        match open_directory(&group, HOME) {
            Ok(home) => Ok(Some(home)),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(CgroupError::Open { path: HOME.into(), source }),
        }
    }

    /// Moves the calling process, the only one in the delegated group of the unified hierarchy, into a leaf of it.
    pub(crate) fn move_home(&self) -> Result<(), CgroupError> {
        let unified = |hierarchy: &&Hierarchy| hierarchy.kind == HierarchyKind::V2;
        self.hierarchies.iter().filter(unified).try_for_each(Hierarchy::move_home)
    }

    /// Has the calling process, the first of the builder's, make controllers usable for the groups of steps.
    pub(crate) fn settle(&mut self) -> Result<(), CgroupError> {
        let unified = |hierarchy: &&mut Hierarchy| hierarchy.kind == HierarchyKind::V2;
        self.hierarchies.iter_mut().filter(unified).try_for_each(Hierarchy::settle)
    }
}

/// One delegated directory of a cgroup file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Version of the interface.
    pub kind: HierarchyKind,
    /// Controllers usable in it.
    pub controllers: Vec<String>,
    /// The directory, as the process that holds this value sees it.
    pub path: PathBuf,
}

/// Version of the cgroup interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HierarchyKind {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// The delegated directories, held open so that helpers reach them after the path is gone from their view.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    hierarchies: Vec<(Hierarchy, OwnedFd)>,
}

impl Cgroups {
    pub(crate) fn open(delegation: &Delegation) -> Result<Self, CgroupError> {
        let open = |hierarchy: &Hierarchy| Ok((hierarchy.clone(), hierarchy.open()?));
        Ok(Self { hierarchies: delegation.hierarchies.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// Creates a leaf in the unified hierarchy and in those of version 1 that `limits` need, and writes the limits. Nothing is left
    /// behind on failure.
    ///
    /// A group of version 1 is made where a limit asks for it alone: without one there is nothing to gain by it, and the step is
    /// accounted for with its builder.
    pub(crate) fn create(&self, name: &str, limits: &Limits) -> Result<Leaf, CgroupError> {
        self.check(limits)?;
        let mut leaf = Leaf {
            name: name.to_owned(),
            parts: Vec::with_capacity(self.hierarchies.len()),
            removed: AtomicBool::new(false),
        };
        let needed = |hierarchy: &Hierarchy| {
            hierarchy.kind == HierarchyKind::V2
                || limits::required(limits).any(|(_, controller)| hierarchy.has(controller))
        };
        for (hierarchy, dir) in self.hierarchies.iter().filter(|(hierarchy, _)| needed(hierarchy)) {
            if let Err(error) = leaf.add(hierarchy, dir, limits) {
                leaf.remove().ok();
                return Err(error);
            }
        }
        Ok(leaf)
    }

    /// The leaf `name` of the unified hierarchy, for a process to be made there; `None` without such a hierarchy.
    pub(crate) fn unified(&self, name: &str) -> Result<Option<OwnedFd>, Errno> {
        let mut hierarchies = self.hierarchies.iter();
        let unified = hierarchies.find(|(hierarchy, _)| hierarchy.kind == HierarchyKind::V2);
        unified.map(|(_, dir)| open_directory(dir, name)).transpose()
    }

    /// Puts the calling process, which must have one thread, into the leaf `name` of every hierarchy of version 1 that has one. (It
    /// was made in that of the unified hierarchy; see [`Cgroups::unified`].)
    ///
    /// A thread that moves itself alone moves at once. With `cgroup.procs` the kernel waits until every processor has passed a
    /// quiet state, some ten milliseconds, which is more than everything else about a step's start.
    pub(crate) fn join(&self, name: &str) -> Result<(), CgroupError> {
        for (hierarchy, dir) in
            self.hierarchies.iter().filter(|(hierarchy, _)| hierarchy.kind == HierarchyKind::V1)
        {
            let joined = match open_directory(dir, name) {
                Err(Errno::NOENT) => continue,
                other => other.and_then(|leaf| write_control(&leaf, "tasks", "0")),
            };
            joined
                .map_err(|source| CgroupError::Join { path: hierarchy.path.join(name), source })?;
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hierarchies.is_empty()
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.hierarchies.iter().map(|(_, dir)| dir.as_fd())
    }

    pub(crate) fn check(&self, limits: &Limits) -> Result<(), CgroupError> {
        let has = |controller: &str| {
            self.hierarchies.iter().any(|(hierarchy, _)| hierarchy.has(controller))
        };
        for (limit, controller) in limits::required(limits) {
            if !has(controller) {
                return Err(CgroupError::Unavailable { limit, controller });
            }
        }
        Ok(())
    }
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    fn open(&self) -> Result<OwnedFd, CgroupError> {
        open_directory(CWD, &self.path)
            .map_err(|source| CgroupError::Open { path: self.path.clone(), source })
    }

    fn move_home(&self) -> Result<(), CgroupError> {
        let path = self.path.join(HOME);
        let create = |source| CgroupError::Create { path: path.clone(), source };
        let dir = self.open()?;
        rustix::fs::mkdirat(&dir, HOME, Mode::from_raw_mode(0o755)).map_err(create)?;
        let home = open_directory(&dir, HOME).map_err(create)?;
        write_control(&home, "cgroup.procs", "0")
            .map_err(|source| CgroupError::Join { path: path.clone(), source })
    }

    /// Makes the controllers usable for the leaves. No process may be left in this group: in the unified hierarchy a group with
    /// processes cannot have children with controllers.
    fn settle(&mut self) -> Result<(), CgroupError> {
        let dir = self.open()?;
        // A process that has ended and was waited for may count for moments yet. What is left then shows in what is read back.
        retry(|| enable(&dir)).ok();
        self.controllers = step_controllers(&dir, "cgroup.subtree_control");
        Ok(())
    }
}

/// Makes controllers usable for children of a group of the unified hierarchy, as far as the group has them. What is really on is
/// read back by whoever needs to know.
///
/// # Errors
/// `EBUSY`: there are processes in the group.
fn enable(dir: &OwnedFd) -> Result<(), Errno> {
    let mut enabled = Ok(());
    for controller in STEP_CONTROLLERS {
        // One at a time: a single unknown name would spoil the others.
        let done = write_control(dir, "cgroup.subtree_control", &format!("+{controller}"));
        if done == Err(Errno::BUSY) {
            enabled = done;
        }
    }
    enabled
}

/// Those of the controllers listed in `file` that are of use to steps.
fn step_controllers(dir: &OwnedFd, file: &str) -> Vec<String> {
    let listed = read_control(dir, file).unwrap_or_default();
    let used = listed.split_whitespace().filter(|name| STEP_CONTROLLERS.contains(name));
    used.map(str::to_owned).collect()
}

/// One step's control group in every hierarchy.
#[derive(Debug)]
pub(crate) struct Leaf {
    name: String,
    parts: Vec<Part>,
    removed: AtomicBool,
}

#[derive(Debug)]
struct Part {
    kind: HierarchyKind,
    memory: bool,
    pids: bool,
    parent: OwnedFd,
    dir: OwnedFd,
    path: PathBuf,
}

impl Part {
    /// Whether the line of `file` that begins with `name` counts anything.
    fn counted(&self, file: &str, name: &str) -> bool {
        let text = read_control(&self.dir, file).unwrap_or_default();
        let mut counts = text.lines().filter_map(|line| line.strip_prefix(name));
        counts.any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
    }
}

impl Leaf {
    fn add(
        &mut self,
        hierarchy: &Hierarchy,
        parent: &OwnedFd,
        limits: &Limits,
    ) -> Result<(), CgroupError> {
        let path = hierarchy.path.join(&self.name);
        let create = |source| CgroupError::Create { path: path.clone(), source };
        rustix::fs::mkdirat(parent, &self.name, Mode::from_raw_mode(0o755)).map_err(create)?;
        let dir = open_directory(parent, &self.name).map_err(create)?;
        let parent = rustix::io::fcntl_dupfd_cloexec(parent, 0).map_err(create)?;
        let (memory, pids) = (hierarchy.has("memory"), hierarchy.has("pids"));
        self.parts.push(Part { kind: hierarchy.kind, memory, pids, parent, dir, path });
        let Some(part) = self.parts.last() else { return Ok(()) };
        limits::write(&part.dir, &part.path, hierarchy, limits)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Ends every process of the step, where the kernel has a switch for it.
    pub(crate) fn kill(&self) {
        for part in self.parts.iter().filter(|part| part.kind == HierarchyKind::V2) {
            // Without the switch (before 5.14) the end of the pid namespace does the same.
            write_control(&part.dir, "cgroup.kill", "1").ok();
        }
    }

    /// Whether a process of the step was killed for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        self.parts.iter().filter(|part| part.memory).any(|part| {
            let file = match part.kind {
                HierarchyKind::V1 => "memory.oom_control",
                HierarchyKind::V2 => "memory.events",
            };
            part.counted(file, "oom_kill ")
        })
    }

    /// Whether the step was refused a process or thread because of a limit.
    pub(crate) fn pids_exhausted(&self) -> bool {
        self.parts.iter().any(|part| part.pids && part.counted("pids.events", "max "))
    }

    /// Removes the leaf everywhere, waiting a bounded time for processes on their way out. Blocks.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        let mut failed = Ok(());
        self.removed.store(true, Ordering::Relaxed);
        for part in &self.parts {
            let removed =
                retry(|| rustix::fs::unlinkat(&part.parent, &self.name, AtFlags::REMOVEDIR));
            if let Err(source) = removed {
                failed = Err(CgroupError::Remove { path: part.path.clone(), source });
            }
        }
        failed
    }
}

/// A step that never came to be, because whoever asked for it changed their mind, leaves an empty group.
impl Drop for Leaf {
    fn drop(&mut self) {
        if !self.removed.load(Ordering::Relaxed) {
            for part in &self.parts {
                rustix::fs::unlinkat(&part.parent, &self.name, AtFlags::REMOVEDIR).ok();
            }
        }
    }
}

fn retry(mut remove: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut last = Errno::BUSY;
    let mut pause = FIRST_PAUSE;
    for _ in 0..REMOVE_ATTEMPTS {
        match remove() {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(errno) => last = errno,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Err(last)
}

fn open_directory(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

fn write_control(dir: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(|_| ())
}

fn read_control(dir: &OwnedFd, file: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    let mut bytes = vec![0; MAX_CONTROL_FILE];
    let length = rustix::io::read(&file, &mut bytes)?;
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}
