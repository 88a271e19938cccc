//! What a caller says about one step, and what it learns when the step has ended.
//!
//! Plain values. Nothing here is checked beyond its type: the launcher checks a [`Spec`] as a whole before anything is started.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The ids of the builder's user namespace that steps live in: step id `n` is builder id `first + n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepIds {
    /// Builder id that a step sees as 0. Never 0 itself: a step's root is not the builder's.
    pub first: u32,
    /// Number of ids a step has.
    pub count: u32,
}

/// One step: a root, what is mounted into it, and the process to run there.
#[derive(Debug)]
pub struct Spec {
    /// Names the step's cgroup and appears in logs; letters, digits, `.`, `_`, `-`; made unique by the launcher.
    pub name: String,
    /// Root of a *detached* mount (`fsmount`, or `open_tree` with `OPEN_TREE_CLONE`).
    pub root: OwnedFd,
    /// Whether the step sees its root read-only. Mount points may still be created in it beforehand.
    pub readonly_root: bool,
    /// Mounts in addition to the standard ones (`/proc`, `/dev`, `/sys`, resolver files), attached in order of destination.
    pub mounts: Vec<Mount>,
    /// The command; `args[0]` is looked up in `PATH` of `env` when it has no slash.
    pub args: Vec<String>,
    /// The whole environment, `NAME=value` each.
    pub env: Vec<String>,
    /// Working directory, absolute; created with mode 0755 when it does not exist.
    pub cwd: String,
    /// Ids inside the step, already resolved.
    pub user: User,
    /// Host name inside the step.
    pub hostname: String,
    /// Entries of `/etc/hosts` beyond localhost and the host name.
    pub hosts: Vec<(IpAddr, String)>,
    /// Bytes of `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// What the step can reach.
    pub network: Network,
    /// How much of the kernel the step can use.
    pub security: Security,
    /// Limits of the step's cgroup.
    pub limits: Limits,
    /// Resource limits of the first process; those not named get the defaults.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes; 64 MiB when absent.
    pub shm_size: Option<u64>,
    /// Forbid privileges gained by executing a file. Always in force for user 0, who would gain nothing.
    pub no_new_privileges: bool,
    /// Make a terminal and give it to the command in place of the caller's streams; see [`crate::Running::take_terminal`].
    pub terminal: bool,
}

impl Spec {
    /// A step with root ids, no network, an empty environment and `/` as working directory.
    #[must_use]
    pub fn new(name: impl Into<String>, root: OwnedFd, args: Vec<String>) -> Self {
        Self {
            name: name.into(),
            root,
            readonly_root: false,
            mounts: Vec::new(),
            args,
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: User::default(),
            hostname: "cofferdam".to_owned(),
            hosts: Vec::new(),
            resolv_conf: Vec::new(),
            network: Network::None,
            security: Security::Sandbox,
            limits: Limits::default(),
            ulimits: Vec::new(),
            shm_size: None,
            no_new_privileges: false,
            terminal: false,
        }
    }
}

/// One more process for a step that is running: it gets that step's file systems, network and limits.
#[derive(Debug, Clone)]
pub struct Process {
    /// The command, as in [`Spec::args`].
    pub args: Vec<String>,
    /// The whole environment, `NAME=value` each.
    pub env: Vec<String>,
    /// Working directory, absolute; it has to exist.
    pub cwd: String,
    /// Ids inside the step, already resolved.
    pub user: User,
    /// How much of the kernel the process can use. Mounts are as they are for the step.
    pub security: Security,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// As in [`Spec::no_new_privileges`].
    pub no_new_privileges: bool,
    /// As in [`Spec::terminal`].
    pub terminal: bool,
}

/// Something attached in a step's root.
#[derive(Debug)]
pub struct Mount {
    /// Absolute path inside the root; symbolic links on the way are followed inside the root only.
    pub dest: String,
    /// What is attached.
    pub source: MountSource,
    /// Whether writes are refused.
    pub readonly: bool,
}

/// What a [`Mount`] attaches.
#[derive(Debug)]
pub enum MountSource {
    /// Root of a detached mount, a directory or a regular file; see [`crate::detached_bind`].
    Fd(OwnedFd),
    /// An empty tmpfs of its own, at most `size` bytes (half of memory, counted against the step, when absent).
    Tmpfs {
        /// Upper bound in bytes.
        size: Option<u64>,
    },
}

/// Numeric identity inside the step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id, below [`StepIds::count`].
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What a step, or a whole enclosure, can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Its own loopback and nothing else.
    #[default]
    None,
    /// That of whoever makes it: a step's is then the builder's own, an enclosure's the supervisor's. Only for callers who were
    /// asked for it by somebody entitled to.
    Host,
    /// Its own namespace with a TUN device; the descriptor comes back in [`crate::Running::take_tun`] or in
    /// [`crate::Entered::tun`].
    Gate,
}

/// How much of the kernel a step can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Build capabilities, system-call filter, masked `/proc`.
    Sandbox,
    /// Every capability of the step's own user namespace, a mount namespace of that user namespace, no filter and no masks. The
    /// builder's own enclosure is then the only wall.
    Insecure,
}

/// Limits of one cgroup; `None` leaves what the parent allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Swap in bytes, in addition to memory; none when absent and `memory` is given.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Microseconds of processor time per period.
    pub cpu_quota: Option<u64>,
    /// Length of the period in microseconds; 100,000 when absent.
    pub cpu_period: Option<u64>,
    /// Relative weight, 2 to 262,144, 1024 being normal.
    pub cpu_shares: Option<u64>,
    /// Processors, as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as `0-2,4`.
    pub cpuset_mems: Option<String>,
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One resource limit of the step's first process, by the name `ulimit` and Docker use: `nofile`, `nproc`, `core`, …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name in lower case without `RLIMIT_`.
    pub name: String,
    /// Soft limit; `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` for none. Capped at what the builder itself has.
    pub hard: u64,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code when it exited.
    pub code: Option<i32>,
    /// Signal number when a signal ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// Whether the kernel refused it a process because a limit was reached.
    pub pids_exhausted: bool,
    /// What it used.
    pub usage: Usage,
    /// Directories of the root that a mount point was made in and taken from again, and that are otherwise as before. In an
    /// overlay's upper directory a copy of one of them that is empty carries no change and may be dropped.
    pub settled_parents: Vec<PathBuf>,
}

impl Exit {
    /// Whether the step exited with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// What a step used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user mode of the first process and the children it waited for.
    pub user: Duration,
    /// Processor time in the kernel, likewise.
    pub system: Duration,
    /// Largest resident set of a single process, in bytes.
    pub peak_resident: u64,
}
