//! The builder's side of starting steps.
//!
//! [`Launcher::prefork`] makes the launch helpers while the builder still has one thread; [`Preforked::attach`] puts the result
//! under an asynchronous runtime. Each step is then watched by a task of its own that ends it, takes down its cgroup and cleans
//! its root, also when nobody waits for it any more.

mod check;
mod connection;
mod running;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup::{CgroupError, Cgroups, Delegation};
use crate::descriptors;
use crate::gvisor::{self, Runsc, RunscError};
use crate::helper::{Equipment, start_nursery};
use crate::identity::StepIdentity;
use crate::message::{Failure, Request, encode};
use crate::process;
use crate::profile;
use crate::seccomp::Filter;
use crate::spec::{Limits, Process, Spec, StepIds};

use connection::Connection;
use running::Watch;
pub use running::{Control, Running};

/// How long a step waits for a helper when all have just died: they are replaced within a fraction of a second.
const REPLACEMENT_ATTEMPTS: u32 = 100;
const REPLACEMENT_PAUSE: Duration = Duration::from_millis(20);

/// A step could not be started, or was lost.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// This process is not inside an enclosure; there is no other way to start steps.
    #[error("steps are started only from inside an enclosure, and this process is outside of one")]
    NotEnclosed,
    /// Helpers must be made before the first other thread.
    #[error("launch helpers must be made before any other thread; this process has {threads}")]
    Threads {
        /// How many there are.
        threads: usize,
    },
    /// The helpers could not be made.
    #[error("start launch helpers: {action}")]
    Prefork {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The step asks for something that makes no sense.
    #[error("invalid step: {0}")]
    Invalid(String),
    /// The step's control group could not be made.
    #[error("limit the step")]
    Cgroup(#[from] CgroupError),
    /// Steps cannot be run under gVisor here.
    #[error(transparent)]
    Gvisor(#[from] RunscError),
    /// The step that a process should join is over.
    #[error("the container's first process has ended")]
    Over,
    /// Under gVisor each process has a kernel of its own.
    #[error("at isolation level \"gvisor\" a container has one process")]
    Alone,
    /// gVisor makes terminals of its own, which the builder cannot reach.
    #[error("at isolation level \"gvisor\" a process cannot have a terminal")]
    NoTerminal,
    /// A helper could not be asked.
    #[error("ask a launch helper")]
    Helper(#[source] Errno),
    /// The helper ended while the step was running; the step has been ended too.
    #[error("the launch helper of this step was lost")]
    HelperLost,
    /// No process could be made for the step.
    #[error("create the step's process")]
    Process(#[source] Errno),
    /// The root or the mounts do not allow what was asked for.
    #[error("{message}")]
    Root {
        /// What is wrong, with the path in question.
        message: String,
    },
    /// A mechanism of the sandbox failed, so the step was not started.
    #[error("{action}: {message}")]
    Mechanism {
        /// What was tried.
        action: String,
        /// What the kernel said.
        message: String,
    },
    /// The command cannot be executed. A shell would exit with `code`: 127 when there is no such file, else 126.
    #[error("{message}")]
    Command {
        /// In the words other runtimes use.
        message: String,
        /// The exit code to report.
        code: i32,
    },
}

impl From<Failure> for LaunchError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Command { message, code } => Self::Command { message, code },
            Failure::Root { message } => Self::Root { message },
            Failure::Mechanism { action, message } => Self::Mechanism { action, message },
        }
    }
}

/// How steps are started.
#[derive(Debug, Clone)]
pub struct LauncherConfig {
    /// Number of launch helpers, at least 1. Each can have any number of steps in hand; more of them start steps side by side.
    pub helpers: u8,
    /// The ids steps live in, inside the builder's user namespace.
    pub ids: StepIds,
    /// Where control groups may be made. Without it, a step that asks for a limit is refused.
    pub cgroup: Option<Delegation>,
    /// What executes the commands of steps, at [`crate::Isolation::Gvisor`]. Tried before any step.
    pub gvisor: Option<Runsc>,
}

/// Launch helpers that are ready, and not yet under a runtime.
#[derive(Debug)]
pub struct Preforked {
    nursery: OwnedFd,
    helpers: Vec<OwnedFd>,
    equipment: Equipment,
}

/// Starts steps. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    helpers: Mutex<Vec<Arc<Connection>>>,
    cgroups: Cgroups,
    ids: StepIds,
    gvisor: bool,
    next: AtomicU64,
    /// Whether the nursery is gone.
    lost: tokio::sync::watch::Sender<bool>,
}

impl Launcher {
    /// Makes the launch helpers.
    ///
    /// # Errors
    ///
    /// Outside of an enclosure, beside other threads, or when the kernel lacks what steps need.
    pub fn prefork(config: LauncherConfig) -> Result<Preforked, LaunchError> {
        let failed = |action| move |source| LaunchError::Prefork { action, source };
        require_enclosure()?;
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if threads != 1 {
            return Err(LaunchError::Threads { threads });
        }
        check::ids(config.ids)?;
        // Files below /proc/<pid> of a process that is not dumpable belong to root of the host, who alone may write its id maps.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
            .map_err(failed("become inspectable"))?;
        let more = if config.gvisor.is_some() { profile::RUNSC } else { &[] };
        let mut equipment = Equipment {
            ids: config.ids,
            identity: StepIdentity::create(config.ids)
                .map_err(failed("create the steps' user namespace"))?,
            filter: Filter::compile(more),
            cgroups: Cgroups::open(&config.cgroup.unwrap_or_default())?,
            runsc: None,
        };
        if let Some(runsc) = config.gvisor {
            // SAFETY: counted above.
            unsafe { gvisor::choose_platform(&mut equipment, runsc) }?;
        }
        let count = config.helpers.max(1);
        // SAFETY: counted above.
        let nursery = unsafe { start_nursery(&equipment, count) }.map_err(failed("fork"))?;
        let mut helpers = Vec::new();
        for _ in 0..count {
            helpers.push(
                receive_helper(&nursery, RecvFlags::empty()).map_err(failed("hear of a helper"))?.1,
            );
        }
        Ok(Preforked { nursery, helpers, equipment })
    }

    /// Resolves when no step can be started any more: what replaces launch helpers is gone, and the helpers with it.
    pub async fn lost(&self) {
        let mut lost = self.shared.lost.subscribe();
        // The other end is here: there is no error.
        lost.wait_for(|lost| *lost).await.ok();
    }

    /// Starts a step and returns when its command has been executed.
    ///
    /// The standard streams are the caller's: ends of pipes, usually. Without `stdin` the step reads nothing. Dropping the future
    /// ends the step.
    ///
    /// # Errors
    ///
    /// When anything about the step cannot be done as asked; nothing of the step is left running then.
    pub async fn run(
        &self,
        mut spec: Spec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        stdin: Option<OwnedFd>,
    ) -> Result<Running, LaunchError> {
        check::spec(&spec, self.shared.ids)?;
        if self.shared.gvisor {
            if spec.terminal {
                return Err(LaunchError::NoTerminal);
            }
            gvisor::adjust(&mut spec);
        }
        self.shared.cgroups.check(&spec.limits)?;
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let leaf = self.create_leaf(&spec, id).await?;
        let keep = rustix::io::fcntl_dupfd_cloexec(&spec.root, 0).map_err(LaunchError::Helper)?;
        let (report, theirs) = descriptors::pair().map_err(LaunchError::Helper)?;
        let prepared = check::order(spec, id, leaf.as_ref().map(|leaf| leaf.name().to_owned()));
        let order =
            process::sealed_memfd("step", &encode(&prepared.order)).map_err(LaunchError::Helper)?;

        let helper = self.pick().await?;
        let (watch, running) = Watch::start(id, &helper, leaf, Some(keep));
        let mut fds = vec![
            order.as_fd(),
            theirs.as_fd(),
            prepared.root.as_fd(),
            stdout.as_fd(),
            stderr.as_fd(),
        ];
        fds.extend(stdin.iter().map(AsFd::as_fd));
        fds.extend(prepared.mounts.iter().map(AsFd::as_fd));
        let request = encode(&Request { id, stdin: stdin.is_some(), joins: false });
        if let Err(errno) = helper.send(&request, &fds).await {
            helper.forget(id);
            return Err(LaunchError::Helper(errno));
        }
        // Descriptors that stay open here would keep the step's pipes and mounts alive.
        drop(fds);
        drop((order, theirs, prepared, stdout, stderr, stdin));
        running.started(report, watch).await
    }

    /// Starts one more process in a step that is running, with the streams as in [`Launcher::run`]. It ends with the step's first
    /// process at the latest.
    ///
    /// # Errors
    ///
    /// As [`Launcher::run`], and at [`crate::Isolation::Gvisor`].
    pub async fn join(
        &self,
        step: &Control,
        process: Process,
        stdout: OwnedFd,
        stderr: OwnedFd,
        stdin: Option<OwnedFd>,
    ) -> Result<Running, LaunchError> {
        if self.shared.gvisor {
            return Err(LaunchError::Alone);
        }
        check::process(&process, self.shared.ids)?;
        let target = step.handle().pidfd().ok_or(LaunchError::Over)?;
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (report, theirs) = descriptors::pair().map_err(LaunchError::Helper)?;
        let order = check::join_order(process, id, step.handle().leaf());
        let order =
            process::sealed_memfd("process", &encode(&order)).map_err(LaunchError::Helper)?;
        let helper = self.pick().await?;
        let (watch, running) = Watch::start(id, &helper, None, None);
        let mut fds =
            vec![order.as_fd(), theirs.as_fd(), target.as_fd(), stdout.as_fd(), stderr.as_fd()];
        fds.extend(stdin.iter().map(AsFd::as_fd));
        let request = encode(&Request { id, stdin: stdin.is_some(), joins: true });
        if let Err(errno) = helper.send(&request, &fds).await {
            helper.forget(id);
            return Err(LaunchError::Helper(errno));
        }
        drop(fds);
        drop((order, theirs, target, stdout, stderr, stdin));
        running.started(report, watch).await
    }

    /// Whether limits can be held on this machine; [`Launcher::run`] refuses those that cannot.
    #[must_use]
    pub fn can_limit(&self, limits: &Limits) -> bool {
        self.shared.cgroups.check(limits).is_ok()
    }

    async fn create_leaf(
        &self,
        spec: &Spec,
        id: u64,
    ) -> Result<Option<crate::cgroup::Leaf>, LaunchError> {
        if self.shared.cgroups.is_empty() {
            return Ok(None);
        }
        let name = format!("{}-{id}", spec.name);
        let limits = spec.limits.clone();
        let shared = Arc::clone(&self.shared);
        let create = move || shared.cgroups.create(&name, &limits);
        match tokio::task::spawn_blocking(create).await {
            Ok(leaf) => Ok(Some(leaf?)),
            // The runtime is shutting down.
            Err(_) => Err(LaunchError::HelperLost),
        }
    }

    /// The living helper with the fewest steps. Waits a bounded time when all of them are being replaced.
    async fn pick(&self) -> Result<Arc<Connection>, LaunchError> {
        for _ in 0..REPLACEMENT_ATTEMPTS {
            let best = {
                let helpers = self.shared.helpers.lock().unwrap_or_else(PoisonError::into_inner);
                let living = helpers.iter().filter(|helper| !helper.lost());
                living.min_by_key(|helper| helper.load()).map(Arc::clone)
            };
            if let Some(helper) = best {
                return Ok(helper);
            }
            tokio::time::sleep(REPLACEMENT_PAUSE).await;
        }
        Err(LaunchError::HelperLost)
    }
}

impl Preforked {
    /// Puts the helpers under `runtime`.
    ///
    /// # Errors
    ///
    /// When the runtime has no input and output driver.
    pub fn attach(self, runtime: &tokio::runtime::Handle) -> Result<Launcher, LaunchError> {
        let _inside = runtime.enter();
        let failed = |source| LaunchError::Prefork { action: "watch a helper", source };
        let connect = |socket| Connection::open(socket).map_err(failed);
        let helpers = self.helpers.into_iter().map(connect).collect::<Result<Vec<_>, _>>()?;
        let Equipment { ids, cgroups, runsc, .. } = self.equipment;
        let gvisor = runsc.is_some();
        let helpers = Mutex::new(helpers);
        let (next, lost) = (AtomicU64::new(1), tokio::sync::watch::Sender::new(false));
        let shared = Arc::new(Shared { helpers, cgroups, ids, gvisor, next, lost });
        let nursery = watched(self.nursery).map_err(failed)?;
        tokio::spawn(replace_helpers(nursery, Arc::downgrade(&shared)));
        Ok(Launcher { shared })
    }
}

/// Takes in helpers the nursery made for ones that died.
async fn replace_helpers(nursery: AsyncFd<OwnedFd>, shared: std::sync::Weak<Shared>) {
    loop {
        let received = nursery
            .async_io(Interest::READABLE, |fd| Ok(receive_helper(fd, RecvFlags::DONTWAIT)?))
            .await;
        let Some(shared) = shared.upgrade() else { return };
        let Ok((number, socket)) = received else {
            // Its helpers end with it, and nobody replaces them.
            shared.lost.send_replace(true);
            return;
        };
        tracing::warn!(helper = number, "a launch helper was lost and has been replaced");
        let Ok(connection) = Connection::open(socket) else { return };
        let mut helpers = shared.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = helpers.get_mut(usize::from(number)) {
            *slot = connection;
        }
    }
}

fn receive_helper(nursery: &OwnedFd, flags: RecvFlags) -> Result<(u8, OwnedFd), Errno> {
    let (bytes, fds) = descriptors::receive(nursery, flags)?.ok_or(Errno::PIPE)?;
    match (bytes.first(), fds.into_iter().next()) {
        (Some(number), Some(fd)) => Ok((*number, fd)),
        _ => Err(Errno::BADMSG),
    }
}

/// `fd` under the current runtime.
fn watched(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, Errno> {
    descriptors::watch(fd, Interest::READABLE | Interest::WRITABLE)
}

/// A process with the machine's own ids is no builder.
fn require_enclosure() -> Result<(), LaunchError> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.split_whitespace();
    let identity = fields.next() == fields.next();
    let inside =
        !map.is_empty() && !identity && std::path::Path::new(crate::enclosure::STEP_ROOT).is_dir();
    if inside { Ok(()) } else { Err(LaunchError::NotEnclosed) }
}
