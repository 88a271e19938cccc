//! A container: a sandbox with mounts of a build's results, whose processes are started from outside the graph.
//!
//! Clients look into a build with it, and frontends that are images run in one. It has the walls, the limits and the network policy
//! of a step; what it writes is thrown away with it. What it may do beyond the ordinary is for its owner to have checked.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_sandbox::{Control, Exit, Network, Process, Running, Security, Spec, User};
use cofferdam_solver::Step;
use cofferdam_wire::pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use super::container_io::{self, no_pipes, of_terminal};
pub(crate) use super::container_io::{Input, Ours, Source, Streams, Terminal};
use super::exec::{self, DEFAULT_HOSTNAME};
use super::exec_disk::Written;
use super::exec_limits;
use super::exec_mounts::{self, Prepared, Wanted};
use crate::blocking::give_back;
use crate::context::Context;
use crate::failure::Failure;
use crate::network_record::Recording;
use crate::rooted::Root;
use crate::snapshot::Snapshot;
use crate::user::resolve_user;

/// Processes of one container at a time. Each costs the builder some descriptors and tasks, whatever limits the container has.
const MAX_PROCESSES: usize = 64;
/// What programs look for commands in, by the operating system a container is said to be for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const WINDOWS_PATH: &str =
    "c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0";
/// Kind of a terminal that nobody named.
const TERM: &str = "TERM=xterm";
/// Typed detail of an exit code.
const EXIT: &str = "github.com/moby/buildkit/gatewayapi.ExitMessage+json";

/// What a container is made of.
pub(crate) struct Blueprint {
    /// What it is called in descriptions of what it holds.
    pub(crate) name: String,
    /// Mounts; inputs count into the next.
    pub(crate) mounts: Vec<pb::Mount>,
    /// Results that are mounted.
    pub(crate) inputs: Vec<Snapshot>,
    /// What it can reach.
    pub(crate) network: Network,
    /// Its host name, or the usual one.
    pub(crate) hostname: String,
    /// More entries of its hosts file.
    pub(crate) hosts: Vec<pb::HostIP>,
    /// Whether it is for Windows, whose programs look for others elsewhere.
    pub(crate) windows: bool,
}

/// A process to start.
#[derive(Default)]
pub(crate) struct Launch {
    /// Command, environment, working directory and user.
    pub(crate) meta: pb::Meta,
    /// Variables that are secrets.
    pub(crate) secrets: Vec<pb::SecretEnv>,
    /// Whether it gets a terminal.
    pub(crate) terminal: bool,
    /// Whether it gets every capability there is in a step.
    pub(crate) insecure: bool,
    /// The streams somebody uses.
    pub(crate) streams: Streams,
}

/// A process that runs.
pub(crate) struct Started {
    /// Its streams.
    pub(crate) streams: Ours,
    /// The means to signal it.
    pub(crate) control: Control,
    /// How it ends: without an error when the code is 0.
    pub(crate) end: oneshot::Receiver<Result<(), Failure>>,
}

/// The first process decides what the container is.
enum First {
    Waiting(Box<(Prepared, OwnedFd)>),
    Running(Control),
    Failed,
}

/// A container.
pub(crate) struct Container {
    context: Arc<Context>,
    step: Step,
    blueprint: Blueprint,
    view: Root,
    mounts: Vec<Option<Arc<Root>>>,
    first: tokio::sync::Mutex<First>,
    /// What the sandbox uses for as long as it runs.
    held: Mutex<Option<Prepared>>,
    tasks: TaskTracker,
    /// Room for processes; each has a place from before its start until it has ended.
    room: Arc<Semaphore>,
    failure: Mutex<Option<Failure>>,
}

impl Container {
    /// Makes the mounts. `step` is the container's own; cancelling it ends everything.
    pub(crate) async fn new(
        context: Arc<Context>,
        step: Step,
        blueprint: Blueprint,
    ) -> Result<Arc<Self>, Failure> {
        let wanted = Wanted {
            mounts: &blueprint.mounts,
            cwd: "/",
            name: blueprint.name.clone(),
            fresh_caches: false,
            observed: true,
        };
        let mut prepared =
            exec_mounts::prepare(&context, &wanted, &blueprint.inputs, &step).await?;
        let view = prepared.root_view().try_clone().map_err(Failure::store)?;
        let seen = prepared.take_seen().into_iter();
        let mounts = seen.map(|fd| fd.map(|fd| Arc::new(Root::new(fd).one_mount()))).collect();
        let root = prepared.take_root()?;
        Ok(Arc::new(Self {
            context,
            step,
            view,
            mounts,
            first: tokio::sync::Mutex::new(First::Waiting(Box::new((prepared, root)))),
            held: Mutex::default(),
            tasks: TaskTracker::new(),
            room: Arc::new(Semaphore::new(MAX_PROCESSES)),
            failure: Mutex::default(),
            blueprint,
        }))
    }

    /// The files of mount number `index`, as they are now.
    pub(crate) fn files(&self, index: usize) -> Result<Arc<Root>, Failure> {
        let available = self.mounts.len();
        match self.mounts.get(index) {
            Some(Some(root)) => Ok(Arc::clone(root)),
            Some(None) => Err(Failure::unknown(format!("mountable {index} not found"))),
            None => Err(Failure::unknown(format!(
                "mount index {index} is out of bounds ({available} available)"
            ))),
        }
    }

    /// Starts a process. The first one is the init of the container: when it ends, all others do.
    pub(crate) async fn start(self: &Arc<Self>, launch: Launch) -> Result<Started, Failure> {
        let place = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            let message = format!("the container has {MAX_PROCESSES} processes already");
            Failure::new(connectrpc::ErrorCode::ResourceExhausted, message)
        })?;
        let process = self.process(&launch).await?;
        // A canceled step ends whoever waits here.
        let mut first = tokio::select! {
            first = self.first.lock() => first,
            () = self.step.cancel.cancelled() => return Err(Failure::canceled()),
        };
        match std::mem::replace(&mut *first, First::Failed) {
            First::Waiting(parts) => {
                let (prepared, root) = *parts;
                let started = self.start_first(prepared, root, process, &launch, place).await?;
                *first = First::Running(started.control.clone());
                Ok(started)
            }
            First::Running(control) => {
                *first = First::Running(control.clone());
                drop(first);
                self.join(&control, process, &launch, place).await
            }
            First::Failed => Err(Failure::unknown("the container's first process was not started")),
        }
    }

    /// What is asked of a process, with names resolved.
    async fn process(&self, launch: &Launch) -> Result<Process, Failure> {
        let meta = &launch.meta;
        let user = resolve_user(&self.view, &meta.user).map_err(Failure::of)?;
        let mut env = meta.env.clone();
        let has =
            |env: &[String], name: &str| env.iter().any(|variable| variable.starts_with(name));
        if !has(&env, "PATH=") {
            let path = if self.blueprint.windows { WINDOWS_PATH } else { PATH };
            env.push(format!("PATH={path}"));
        }
        if launch.terminal && !has(&env, "TERM=") {
            env.push(TERM.to_owned());
        }
        if let Some(nameless) = launch.secrets.iter().find(|secret| secret.ID.is_empty()) {
            let name = &nameless.name;
            let message = format!("secret ID missing for {name:?} environment variable");
            return Err(Failure::invalid(message));
        }
        env.extend(exec::secret_environment(&self.context, &launch.secrets, &self.step).await?);
        if !has(&env, "HOME=") {
            env.push(format!("HOME={}", user.home));
        }
        Ok(Process {
            args: meta.args.clone(),
            env,
            cwd: if meta.cwd.is_empty() { "/".to_owned() } else { crate::rooted::clean(&meta.cwd) },
            user: User { uid: user.uid, gid: user.gid, groups: user.groups },
            security: if launch.insecure { Security::Insecure } else { Security::Sandbox },
            ulimits: exec_limits::of_processes(&self.context.config.limits, meta),
            no_new_privileges: user.uid == 0,
            terminal: launch.terminal,
        })
    }

    fn spec(
        &self,
        prepared: &mut Prepared,
        root: OwnedFd,
        process: Process,
    ) -> Result<Spec, Failure> {
        let blueprint = &self.blueprint;
        let name = self.step.digest.hex().chars().take(12).collect::<String>();
        let mut spec = Spec::new(name, root, process.args);
        spec.readonly_root = prepared.readonly_root;
        spec.mounts = std::mem::take(&mut prepared.mounts);
        spec.env = process.env;
        spec.cwd = process.cwd;
        spec.user = process.user;
        spec.no_new_privileges = process.no_new_privileges;
        let hostname = &blueprint.hostname;
        let hostname = if hostname.is_empty() { DEFAULT_HOSTNAME } else { hostname };
        hostname.clone_into(&mut spec.hostname);
        spec.hosts = exec::hosts(&blueprint.hosts)?;
        spec.network = blueprint.network;
        spec.resolv_conf = self.context.resolv_conf(spec.network);
        spec.security = process.security;
        spec.limits = exec_limits::of_group(&self.context, None);
        spec.ulimits = process.ulimits;
        spec.shm_size = prepared.shm_size;
        spec.terminal = process.terminal;
        Ok(spec)
    }

    async fn start_first(
        self: &Arc<Self>,
        mut prepared: Prepared,
        root: OwnedFd,
        process: Process,
        launch: &Launch,
        place: OwnedSemaphorePermit,
    ) -> Result<Started, Failure> {
        let context = &self.context;
        let spec = self.spec(&mut prepared, root, process)?;
        let written = exec::written(context, &prepared).await?;
        let gated = spec.network == Network::Gate;
        if gated {
            context.require_gate()?;
        }
        let (theirs, ours) = streams(launch)?;
        let name = spec.name.clone();
        *self.held() = Some(prepared);
        let run = context.launcher.run(spec, theirs.stdout, theirs.stderr, theirs.stdin);
        let mut running = run.await.map_err(command_failed)?;
        let recording = match running.take_tun() {
            Some(tun) if gated => {
                let attachment = context.attach(tun, &name).await?;
                Some(Recording::begin(context, &self.step, attachment))
            }
            _ => None,
        };
        let limits = Limits { written, recording };
        self.watch(running, ours, launch, Some(limits), place)
    }

    async fn join(
        self: &Arc<Self>,
        first: &Control,
        process: Process,
        launch: &Launch,
        place: OwnedSemaphorePermit,
    ) -> Result<Started, Failure> {
        let (theirs, ours) = streams(launch)?;
        let launcher = &self.context.launcher;
        let running =
            launcher.join(first, process, theirs.stdout, theirs.stderr, theirs.stdin).await;
        self.watch(running.map_err(command_failed)?, ours, launch, None, place)
    }

    /// Waits for a process's end on a task of its own.
    fn watch(
        self: &Arc<Self>,
        mut running: Running,
        ours: Option<Ours>,
        launch: &Launch,
        limits: Option<Limits>,
        place: OwnedSemaphorePermit,
    ) -> Result<Started, Failure> {
        let streams = match (ours, running.take_terminal()) {
            (Some(ours), _) => ours,
            (None, Some(terminal)) => of_terminal(terminal, launch.streams)?,
            (None, None) => return Err(Failure::unknown("the process has no terminal")),
        };
        let control = running.control();
        let (told, end) = oneshot::channel();
        let container = Arc::clone(self);
        self.tasks.spawn(async move {
            let ended = container.ended(running, limits).await;
            drop(place);
            if let Err(failure) = &ended {
                let mut first = container.failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| failure.clone());
            }
            // Whoever asked for the process may be gone.
            told.send(ended).ok();
        });
        Ok(Started { streams, control, end })
    }

    async fn ended(&self, mut running: Running, limits: Option<Limits>) -> Result<(), Failure> {
        let unwanted = async {
            match &limits {
                Some(limits) => {
                    exec_limits::unwanted(&self.context, &self.step, &limits.written).await
                }
                None => {
                    self.step.cancel.cancelled().await;
                    Failure::canceled()
                }
            }
        };
        let exit = tokio::select! {
            exit = running.wait() => exit.map_err(Failure::of),
            failure = unwanted => {
                running.kill();
                // Only then may the mounts be reused.
                let _ = running.wait().await;
                Err(failure)
            }
        };
        if let Some(recording) = limits.and_then(|limits| limits.recording) {
            recording.finish().await;
        }
        exit.and_then(|exit| self.check(&exit))
    }

    fn check(&self, exit: &Exit) -> Result<(), Failure> {
        let code = exit.code.unwrap_or_else(|| 128 + exit.signal.unwrap_or(127));
        if code == 0 {
            return Ok(());
        }
        let mut message = format!("exit code: {code}");
        let reached = exec_limits::reached(&self.context, exit);
        if let Some(reached) = &reached {
            message = format!("{message}: {reached}");
        }
        let detail = exec_limits::exit_detail(code, reached);
        Err(Failure::unknown(message).with_detail(EXIT, detail))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Prepared>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every process and gives back what the container holds. Fails as the first process that failed did.
    pub(crate) async fn release(&self) -> Result<(), Failure> {
        self.step.cancel.cancel();
        // What is being started comes to its end first.
        let waiting = std::mem::replace(&mut *self.first.lock().await, First::Failed);
        self.tasks.close();
        self.tasks.wait().await;
        let held = self.held().take();
        give_back(&self.context.store, (waiting_parts(waiting), held)).await;
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }
}

fn waiting_parts(first: First) -> Option<Box<(Prepared, OwnedFd)>> {
    match first {
        First::Waiting(parts) => Some(parts),
        First::Running(_) | First::Failed => None,
    }
}

/// What is watched while the first process runs.
struct Limits {
    written: Written,
    recording: Option<Recording>,
}

fn streams(launch: &Launch) -> Result<(container_io::Theirs, Option<Ours>), Failure> {
    if launch.terminal {
        return Ok((no_pipes()?, None));
    }
    let (theirs, ours) = container_io::pipes(launch.streams)?;
    Ok((theirs, Some(ours)))
}

/// A command that cannot be executed ends as it would in a shell.
fn command_failed(error: cofferdam_sandbox::LaunchError) -> Failure {
    if let cofferdam_sandbox::LaunchError::Command { code, .. } = &error {
        let detail = serde_json::json!({ "Code": code }).to_string();
        return Failure::of(error).with_detail(EXIT, detail);
    }
    Failure::of(error)
}
