//! One builder's process: started, held by leases, watched, ended, cleaned up after.
//!
//! A task of its own watches each builder. It alone ends the process, and whatever the reason, it reports the end only when the
//! socket and the control groups are gone, so that the next builder of the project finds a clean place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::error::FleetError;
use crate::fleet::Shared;
use crate::leftovers::sweep_groups;
use crate::messages::{Given, Messages};
use crate::observed::{Observed, Observer};
use crate::places::{CONFIG, ProjectPlaces, SOCKET, failed};
use crate::settings;
use crate::spec::{Clamped, ProjectSpec};

/// How long a new builder may take to answer; it needs a fraction of a second.
const START: Duration = Duration::from_secs(60);
/// Between attempts to reach it.
const PAUSE: Duration = Duration::from_millis(3);
/// How long a builder that ends for a reason of the fleet's has before it is killed. Its supervisor kills it earlier.
const GRACE: Duration = Duration::from_secs(25);
/// How long a builder whose connection broke may take to be seen as ended; then it is killed.
const BROKEN: Duration = Duration::from_secs(5);
/// How long the end of a builder may take to be known after a call to it has failed.
const NEWS: Duration = Duration::from_secs(1);
/// "For ever", for a timer that has to be something.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Variables of the server that its builders get: proxies for pulls, and switches for debugging.
const KEPT: &[&str] = &[
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "RUST_BACKTRACE",
    "TZ",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// How many wait for another builder to end.
pub(crate) type Crowd = Arc<AtomicUsize>;

/// A builder that answers, or has ended.
#[derive(Debug)]
pub(crate) struct Running {
    spec: ProjectSpec,
    clamped: Option<Clamped>,
    supervisor: u32,
    run: OwnedFd,
    control: Control,
    given: Given,
    crowd: Crowd,
    leases: Mutex<Leases>,
    /// Leases held, for the idle timer.
    held: watch::Sender<usize>,
    stop: watch::Sender<Option<Stop>>,
    ended: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Leases {
    held: usize,
    /// How many of them are for builds.
    builds: usize,
    /// Whether the builder takes more; never again once it does not.
    open: bool,
    /// Whether one was ever for a build.
    used: bool,
}

impl Default for Leases {
    fn default() -> Self {
        Self { held: 0, builds: 0, open: true, used: false }
    }
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A build.
    Build,
    /// Keeping the cache within its bounds. That is no use of it, and gives way to builds.
    Upkeep,
}

/// Why and how fast a builder is to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// What those who still hold a lease are told.
    pub(crate) reason: String,
    /// When it is killed.
    pub(crate) grace: Duration,
}

impl Stop {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), grace: GRACE }
    }
}

impl Running {
    pub(crate) fn project(&self) -> &str {
        &self.spec.project
    }

    pub(crate) fn spec(&self) -> &ProjectSpec {
        &self.spec
    }

    pub(crate) fn clamped(&self) -> Option<Clamped> {
        self.clamped
    }

    pub(crate) fn supervisor(&self) -> u32 {
        self.supervisor
    }

    pub(crate) fn run(&self) -> BorrowedFd<'_> {
        self.run.as_fd()
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// The builds that it may speak of.
    pub(crate) fn given(&self) -> &Given {
        &self.given
    }

    pub(crate) async fn usage(&self) -> Result<u64, FleetError> {
        // Sums of such numbers are kept where they have a sign.
        Ok(self.control.usage().await?.min(i64::MAX.unsigned_abs()))
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lease, unless the builder is ending.
    pub(crate) fn hold(&self, purpose: Purpose) -> bool {
        let mut leases = self.leases();
        if leases.open {
            leases.held += 1;
            if purpose == Purpose::Build {
                leases.builds += 1;
                leases.used = true;
            }
            self.held.send_replace(leases.held);
        }
        leases.open
    }

    /// Whether there was ever a lease for a build.
    pub(crate) fn was_used(&self) -> bool {
        self.leases().used
    }

    /// Gives a lease back.
    pub(crate) fn release(&self, purpose: Purpose) {
        let mut leases = self.leases();
        leases.held = leases.held.saturating_sub(1);
        if purpose == Purpose::Build {
            leases.builds = leases.builds.saturating_sub(1);
        }
        self.held.send_replace(leases.held);
        drop(leases);
        if self.crowd.load(Ordering::SeqCst) > 0 {
            self.retire("it made room for another project's");
        }
    }

    /// Lets the builder end if nobody holds a lease for a build and it is not ending already. Returns whether this call did it.
    pub(crate) fn retire(&self, reason: &str) -> bool {
        let mut leases = self.leases();
        let idle = leases.builds == 0 && leases.open;
        leases.open = leases.open && !idle;
        drop(leases);
        if idle {
            self.stop(Stop::because(reason));
        }
        idle
    }

    /// Lets the builder end, whoever holds a lease. The first reason counts, the shortest grace too.
    pub(crate) fn stop(&self, stop: Stop) {
        self.leases().open = false;
        self.stop.send_modify(|known| match known {
            None => *known = Some(stop),
            Some(known) => known.grace = known.grace.min(stop.grace),
        });
    }

    /// Resolves with the reason when the builder has ended.
    pub(crate) fn ended(&self) -> impl Future<Output = String> + Send + 'static {
        let mut ended = self.ended.subscribe();
        async move {
            let known = ended.wait_for(Option::is_some).await;
            let why = known.ok().and_then(|why| why.clone());
            why.unwrap_or_else(|| "it is not watched any more".to_owned())
        }
    }

    /// Whether it ends, or has ended, because the fleet told it to.
    pub(crate) fn was_told(&self) -> bool {
        self.stop.borrow().is_some()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// A failed call to a builder that has ended says so.
    pub(crate) async fn or_end<T>(&self, result: Result<T, FleetError>) -> Result<T, FleetError> {
        match result {
            Err(error @ FleetError::Call { .. }) => match timeout(NEWS, self.ended()).await {
                Ok(why) => Err(FleetError::Ended(why)),
                Err(_) => Err(error),
            },
            other => other,
        }
    }
}

/// Starts the builder of a project and waits until it answers. `permit` is kept until it has ended.
pub(crate) async fn start(
    shared: &Shared,
    spec: ProjectSpec,
    permit: OwnedSemaphorePermit,
) -> Result<Arc<Running>, FleetError> {
    let first_id = spec.first_id().ok_or(FleetError::Slot(spec.slot))?;
    let (resources, clamped) = spec.resources.within(shared.machine);
    if let Some(Clamped { asked, given }) = clamped {
        let project = &spec.project;
        tracing::warn!(
            project,
            ?asked,
            ?given,
            "this machine is smaller than the project's hardware"
        );
    }
    let places = shared.places.project(&spec.project, spec.isolation)?;
    let run = places.create_run()?;
    let config = settings::of_project(&shared.builder_config, &spec, first_id, resources);
    let file = places.run().join(CONFIG);
    std::fs::write(&file, config.to_string()).map_err(failed("write", &file))?;
    let mut child = command(shared, &places).spawn().map_err(|error| {
        places.remove_run();
        FleetError::Start(error.to_string())
    })?;
    let supervisor = child.id().unwrap_or_default();
    let pipe = child.stdin.take();
    let messages = Messages::read(child.stderr.take(), &spec.project);
    let (control, lost) = match ready(&run, &mut child).await {
        Ok(ready) => ready,
        Err(reason) => {
            drop(pipe);
            end(&mut child).await;
            messages.end().await;
            clean_up(&places, supervisor).await;
            return Err(FleetError::Start(with_messages(reason, &messages)));
        }
    };
    let running = Arc::new(Running {
        supervisor,
        spec,
        clamped,
        run,
        control,
        given: messages.given(),
        crowd: Arc::clone(&shared.crowd),
        leases: Mutex::new(Leases::default()),
        held: watch::Sender::new(0),
        stop: watch::Sender::new(None),
        ended: watch::Sender::new(None),
    });
    let observer = Arc::clone(&shared.observer);
    let watched =
        Watched { running: Arc::clone(&running), child, pipe, lost, messages, places, observer };
    tokio::spawn(watched.follow(shared.idle, permit));
    Ok(running)
}

fn command(shared: &Shared, places: &ProjectPlaces) -> Command {
    let mut command = Command::new(&shared.program);
    command.arg("builder").arg("--until-stdin-closes").arg("--server-socket").arg(SOCKET);
    command.arg("--root").arg(places.root()).arg("--config").arg(CONFIG);
    // The socket's name is relative: a path may be longer than an address.
    command.current_dir(places.run());
    command.env_clear();
    command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A terminal's Ctrl-C is for the server.
    command.process_group(0);
    command
}

/// Waits until a new builder answers.
async fn ready(run: &OwnedFd, child: &mut Child) -> Result<(Control, CancellationToken), String> {
    let deadline = Instant::now() + START;
    loop {
        tokio::select! {
            status = child.wait() => return Err(described(status)),
            opened = Control::open(run) => match opened {
                Ok(opened) => return Ok(opened),
                Err(error) if Instant::now() > deadline => return Err(error.to_string()),
                Err(_) => {}
            },
        }
        sleep(PAUSE).await;
    }
}

/// Ends a supervisor that was already told to stop.
async fn end(child: &mut Child) {
    if timeout(GRACE, child.wait()).await.is_err() {
        child.kill().await.ok();
    }
}

fn described(status: std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("its process ended with code {code}"),
            (None, Some(signal)) => format!("its process was killed by signal {signal}"),
            (None, None) => "its process ended".to_owned(),
        },
        Err(error) => format!("its process cannot be watched: {error}"),
    }
}

fn with_messages(reason: String, messages: &Messages) -> String {
    match messages.last() {
        last if last.is_empty() => reason,
        last => format!("{reason}; its last messages:\n{last}"),
    }
}

async fn clean_up(places: &ProjectPlaces, supervisor: u32) {
    places.remove_run();
    sweep_groups(vec![supervisor]).await;
}

/// A running builder and what its watcher needs.
struct Watched {
    running: Arc<Running>,
    child: Child,
    /// Its closing tells the builder to end.
    pipe: Option<ChildStdin>,
    lost: CancellationToken,
    messages: Messages,
    places: ProjectPlaces,
    observer: Arc<Observer>,
}

impl Watched {
    async fn follow(mut self, idle: Duration, permit: OwnedSemaphorePermit) {
        let status = self.until_it_ends(idle).await;
        self.running.leases().open = false;
        self.messages.end().await;
        clean_up(&self.places, self.running.supervisor).await;
        let asked = self.running.stop.borrow().clone();
        self.observer.tell(Observed::Ended { told: asked.is_some() });
        let why = match asked {
            Some(stop) => stop.reason,
            None => with_messages(described(status), &self.messages),
        };
        tracing::info!(project = self.running.project(), why, "a builder has ended");
        drop(permit);
        self.running.ended.send_replace(Some(why));
    }

    async fn until_it_ends(&mut self, idle: Duration) -> std::io::Result<ExitStatus> {
        let mut held = self.running.held.subscribe();
        let mut stop = self.running.stop.subscribe();
        // It may have been said before anybody listened.
        stop.mark_changed();
        let born = Instant::now();
        let (mut kill_at, mut idle_at) = (born + NEVER, born + idle);
        let mut broken = false;
        loop {
            let stopping = self.pipe.is_none();
            tokio::select! {
                status = self.child.wait() => return status,
                changed = stop.changed() => {
                    let asked = stop.borrow_and_update().clone();
                    if let (Ok(()), Some(asked)) = (changed, asked) {
                        drop(self.pipe.take());
                        kill_at = kill_at.min(Instant::now() + asked.grace);
                    }
                }
                _ = held.changed(), if !stopping => {
                    let nobody = *held.borrow_and_update() == 0;
                    idle_at = Instant::now() + if nobody { idle } else { NEVER };
                }
                () = sleep_until(idle_at), if !stopping => {
                    idle_at = Instant::now() + NEVER;
                    self.running.retire("nothing was built for a while");
                }
                () = self.lost.cancelled(), if !broken => {
                    // Its end is near, or it is of no use.
                    broken = true;
                    kill_at = kill_at.min(Instant::now() + BROKEN);
                }
                () = sleep_until(kill_at) => {
                    tracing::warn!(project = self.running.project(), "a builder does not end by itself and is killed");
                    self.child.start_kill().ok();
                    kill_at = Instant::now() + NEVER;
                }
            }
        }
    }
}
