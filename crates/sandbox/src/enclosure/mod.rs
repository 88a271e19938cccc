//! The builder's own enclosure: what makes "the builder process" unprivileged.
//!
//! The supervisor, root of the host or an ordinary user, calls [`Enclosure::spawn`]. That tells a spare copy of the supervisor, or
//! executes the same program again, whose first act is [`enter`]; with one thread and nothing of the supervisor's in memory, it takes
//! the namespaces, builds a root of what it was given, changes its ids and goes on as the builder.
//!
//! ```text
//! supervisor                     host ids, host root
//!   |-- (spare copy: enter)      prepares, writes the id maps, ends
//!   '-- init                     pid 1 of the enclosure: reaps, passes signals on, ends when the supervisor does
//!         '-- builder            enter() returns here
//!               '-- nursery, helpers, steps
//! ```
//!
//! Nothing survives the supervisor: init watches a pipe only the supervisor holds the other end of, and with init every process
//! of its pid namespace ends. The network is one of its own, with nothing in it or with an interface that ends in a gate.
//!
//! | | as root of the host | as an ordinary user |
//! |---|---|---|
//! | ids | 0 is `base`, 131,072 in a row | 0 is the user, the rest from `/etc/subuid` and `/etc/subgid` |
//! | root | made before the user namespace, so that its mounts are locked | made inside |
//! | devices | own nodes, readable by the builder | the host's nodes, as far as the user may open them |
//! | limits | a group of its own in every hierarchy | what the user's unified group delegates |

mod begin;
mod enter;
mod groups;
mod ids;
mod init;
mod maps;
mod plan;
mod root;
mod supervised;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use crate::cgroup::{CgroupError, Delegator};
use crate::descriptors;
use crate::message::encode;
use crate::mounts::MountError;
use crate::process;
use crate::spare::{Spare, SpareError};
use crate::spec::{Limits, Network, StepIds};

pub use enter::{Entered, enter};
pub use supervised::{Supervised, SupervisedExit};

use ids::Identity;
pub(crate) use ids::range as subordinate_range;
use plan::Plan;

/// Where a step's root is attached, in a step's own mount namespace.
pub(crate) const STEP_ROOT: &str = "/run/cofferdam/step";
/// Where a step's generated files are, likewise.
pub(crate) const SCRATCH: &str = "/run/cofferdam/scratch";

/// An enclosure could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EnclosureError {
    /// The store directory cannot be used.
    #[error("use {path} as a builder's store")]
    Store {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store directory belongs to somebody else.
    #[error("store {path} belongs to user {owner}, not to the builder's ids from {base}")]
    StoreOwner {
        /// The directory.
        path: PathBuf,
        /// Who it belongs to.
        owner: u32,
        /// Who it should belong to.
        base: u32,
    },
    /// The range of ids asked for cannot be used.
    #[error("id range from {base}: {reason}")]
    Range {
        /// Start of the range.
        base: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An ordinary user has too few subordinate ids.
    #[error("{file} gives user {user} no range of at least {needed} ids")]
    Subordinate {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The user.
        user: u32,
        /// How many are needed.
        needed: u32,
    },
    /// The program that writes an ordinary user's id maps is missing or refused.
    #[error("{program} {arguments}: {reason}")]
    MapHelper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it was called with.
        arguments: String,
        /// What it said.
        reason: String,
    },
    /// The control groups could not be made.
    #[error("make the builder's control groups")]
    Cgroup(#[from] CgroupError),
    /// The program could not be executed again.
    #[error("execute this program again as builder")]
    Spawn(#[source] std::io::Error),
    /// The spare copy could not become the builder.
    #[error("make a builder of a spare copy of this process")]
    Spare(#[from] SpareError),
    /// This program could not be mounted read-only.
    #[error("mount this program read-only")]
    Program {
        /// Why.
        #[source]
        source: MountError,
    },
    /// A mechanism is missing or failed.
    #[error("{action}")]
    Mechanism {
        /// What was tried.
        action: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The new process reported this.
    #[error("enter the enclosure: {0}")]
    Inside(String),
    /// The new process ended without a word.
    #[error("the enclosed process ended before it was ready")]
    Silent,
    /// Entering needs a process with one thread.
    #[error("an enclosure is entered before any other thread; this process has {0}")]
    Threads(usize),
    /// The description left by the supervisor is not there.
    #[error("read the plan of the enclosure: {0}")]
    Plan(String),
}

impl EnclosureError {
    pub(crate) fn mechanism(action: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let action = action.into();
        move |source| Self::Mechanism { action, source }
    }
}

/// A directory or file of the host that the builder sees.
#[derive(Debug, Clone)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the enclosure, absolute.
    pub target: PathBuf,
    /// Whether writes are refused.
    pub readonly: bool,
}

/// What one builder is given.
#[derive(Debug, Default)]
pub struct EnclosureOptions {
    /// The store directory; created when missing, and then the builder's. It appears as [`Entered::store`].
    pub store: PathBuf,
    /// First host id, as root of the host. When absent: the owner of an existing store, else a free block picked by the store's
    /// path, between 2^28 and 2^31 in steps of 131,072, avoiding those of stores in the same directory.
    pub ids_base: Option<u32>,
    /// More of the host's file tree.
    pub binds: Vec<Bind>,
    /// Arguments of the new process, without the program's name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Descriptors it inherits, by name.
    pub descriptors: Vec<(String, OwnedFd)>,
    /// Limits of the builder and all its steps together.
    pub limits: Limits,
    /// What the builder itself can reach.
    pub network: Network,
    /// Whether `/dev/kvm` is among its devices.
    pub kvm: bool,
    /// A copy of this process that is to become the builder. Without one, or when the file of this program could be written to by the
    /// builder's ids, this program is executed again.
    pub spare: Option<Spare>,
}

/// Makes enclosed processes.
#[derive(Debug)]
pub struct Enclosure;

impl Enclosure {
    /// Begins a process of this program inside an enclosure and waits until it is there.
    ///
    /// The program must call [`enter`] before anything else, in a spare copy as soon as that was told what to become. Blocks for some
    /// ten milliseconds.
    ///
    /// # Errors
    ///
    /// When anything the enclosure needs is missing. Nothing is left behind then.
    pub fn spawn(options: EnclosureOptions) -> Result<Supervised, EnclosureError> {
        let (store, identity) = ids::prepare(&options.store, options.ids_base)?;
        let name = unique_name(&store);
        let delegator = Delegator {
            name: &name,
            owner: identity.host_owner(),
            limits: &options.limits,
            kvm: options.kvm,
        };
        let grant = delegator.create()?;
        let plan = Plan::new(store, identity, &options, &grant);
        match start(&plan, options) {
            Ok(started) => Ok(Supervised::new(started, grant)),
            Err(error) => {
                // The first error is the one that matters.
                grant.remove().ok();
                Err(error)
            }
        }
    }
}

/// What is known of a new enclosure.
struct Started {
    pid: i32,
    pidfd: OwnedFd,
    lifeline: OwnedFd,
}

fn start(plan: &Plan, mut options: EnclosureOptions) -> Result<Started, EnclosureError> {
    let spare = options.spare.take();
    let failed = |action: &'static str| EnclosureError::mechanism(action);
    let sealed =
        process::sealed_memfd("enclosure", &encode(plan)).map_err(failed("write the plan"))?;
    let (status, theirs) = descriptors::pair().map_err(failed("make a socket"))?;
    let (dead_end, lifeline) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
    let mut inherited = vec![sealed.as_fd(), theirs.as_fd(), dead_end.as_fd()];
    inherited.extend(options.descriptors.iter().map(|(_, fd)| fd.as_fd()));
    let mut begun = begin::begin(spare, &options, &plan.identity, &inherited)?;
    drop(theirs);
    drop(options);
    let outcome = listen(&status);
    // It ends as soon as it has written the maps, or has failed.
    begun.wait()?;
    let (pid, pidfd) = outcome?;
    Ok(Started { pid, pidfd, lifeline })
}

/// Hears the new process out until the builder is in its place.
fn listen(status: &OwnedFd) -> Result<(i32, OwnedFd), EnclosureError> {
    let mut init = None;
    loop {
        let heard = descriptors::receive(status, rustix::net::RecvFlags::empty())
            .map_err(EnclosureError::mechanism("hear of the enclosed process"))?;
        let Some((bytes, fds)) = heard else {
            return Err(abandon(init, EnclosureError::Silent));
        };
        match serde_json::from_slice(&bytes) {
            Ok(plan::Status::Started { pid }) => init = fds.into_iter().next().map(|fd| (pid, fd)),
            Ok(plan::Status::Ready) => return init.ok_or(EnclosureError::Silent),
            Ok(plan::Status::Failed(message)) => {
                return Err(abandon(init, EnclosureError::Inside(message)));
            }
            Err(error) => return Err(abandon(init, EnclosureError::Plan(error.to_string()))),
        }
    }
}

/// Ends and reaps what was started of a failed enclosure.
fn abandon(init: Option<(i32, OwnedFd)>, error: EnclosureError) -> EnclosureError {
    if let Some((_, pidfd)) = init {
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).ok();
        process::wait_for(&pidfd).ok();
    }
    error
}

/// Names a builder's control groups: which store, and which supervisor, so that leftovers can be told.
fn unique_name(store: &Path) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}-{count}-{}", ids::hash(store), std::process::id())
}

impl Identity {
    /// Host id that owns what is given away, when the caller may give anything away.
    fn host_owner(&self) -> Option<u32> {
        match self {
            Self::Block { base } => Some(*base),
            Self::Subordinate { .. } => None,
        }
    }

    /// The ids steps live in.
    fn step_ids(&self) -> StepIds {
        match self {
            Self::Block { .. } => StepIds { first: ids::STEP_COUNT, count: ids::STEP_COUNT },
            Self::Subordinate { count, .. } => {
                // With one ordinary range the builder keeps a single id to itself.
                let first = if *count >= 2 * ids::STEP_COUNT - 1 { ids::STEP_COUNT } else { 1 };
                StepIds { first, count: ids::STEP_COUNT }
            }
        }
    }
}
