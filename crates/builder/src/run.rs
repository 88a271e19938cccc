//! A builder's life: open the store, serve, collect garbage, stop.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_egress::Gate;
use cofferdam_sandbox::{ConfineError, Preforked, StepIds, confine_builder};
use cofferdam_solver::Solver;
use cofferdam_store::{IdRange, Options as StoreOptions, Store};
use tokio::signal::unix::{SignalKind, signal};

use crate::builder::Builder;
use crate::config::{Config, Landlock};
use crate::context::Context;
use crate::failure::Failure;
use crate::listener::{Listener, listen};
use crate::online::Online;
use crate::runtime::OpRuntime;
use crate::worker::Worker;

/// Stack of a thread that polls builds. A build's future holds frontends, policies and sources within each other, and without
/// optimization its frames do not fit into the usual 2 MiB. Only what is touched takes memory.
const STACK: usize = 16 << 20;
/// How long builds may take to notice that the builder stops.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Everything a builder is given when it starts, inside its enclosure.
pub struct Parts {
    /// The store's directory.
    pub root: PathBuf,
    /// Configuration.
    pub config: Config,
    /// Where to serve the API.
    pub listeners: Vec<Listener>,
    /// The control socket of the egress gate.
    pub gate: Option<OwnedFd>,
    /// The builder's own network device, for the gate.
    pub tun: Option<OwnedFd>,
    /// Where the supervisor says what devices there are.
    pub devices: Option<OwnedFd>,
    /// Starts sandboxes; its helpers were forked before any thread existed.
    pub launcher: Preforked,
    /// Ids of steps in the builder's user namespace.
    pub step_ids: StepIds,
}

/// Why a builder could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The second wall around this process does not stand.
    #[error("failed to confine the builder")]
    Confine(#[from] ConfineError),
    /// The async runtime could not be made.
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
    /// A part of the builder could not be opened.
    #[error("failed to open the builder: {0}")]
    Open(String),
    /// A listener could not be served.
    #[error("failed to serve")]
    Serve(#[source] std::io::Error),
    /// The processes that start steps were lost.
    #[error("the processes that start steps are gone")]
    Helpers,
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        Self::Open(failure.message().to_owned())
    }
}

/// Serves until SIGTERM or SIGINT, then cancels what runs and closes the store.
///
/// # Errors
/// The store, a socket or another part cannot be opened.
pub fn run(parts: Parts) -> Result<(), RunError> {
    // Ignoring the result is right: an error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // File modes asked for by builds are exact.
    rustix::process::umask(rustix::fs::Mode::empty());
    if parts.config.isolation.landlock == Landlock::Required {
        // Before any thread that is to be bound by it.
        cofferdam_store::start_mounter().map_err(RunError::Runtime)?;
        confine_builder()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(serve(parts));
    runtime.shutdown_timeout(STOP_GRACE);
    result
}

async fn serve(parts: Parts) -> Result<(), RunError> {
    let Parts { root, config, listeners, gate, tun, devices, launcher, step_ids } = parts;
    let stop = stop_signal().map_err(RunError::Serve)?;
    let ids = IdRange { first: step_ids.first, count: step_ids.count };
    let store = Store::open(&root, StoreOptions { ids }).map_err(Failure::store)?;
    let gate = gate.map(Gate::new).transpose().map_err(Failure::of)?;
    let online = match (&gate, tun) {
        (Some(gate), Some(tun)) => Online::attach(gate, tun).await.map_err(Failure::of)?,
        _ => Online::default(),
    };
    let launcher = launcher.attach(&tokio::runtime::Handle::current()).map_err(Failure::of)?;
    let steps = launcher.clone();
    let registries = crate::registries::client(&config)?;
    let worker = Worker::open(&store, &config)?;
    let context = Context::new(Arc::clone(&store), launcher, gate, online, registries, config)?;
    let runtime = Arc::new(OpRuntime::new(Arc::clone(&context)));
    let options = solver_options(&context.config);
    let builder = Builder::new(Arc::clone(&context), Solver::new(runtime, options), worker);

    let tls = context.config.grpc.tls.pem.as_ref().map(crate::tls::acceptor).transpose()?;
    for listener in listeners {
        listen(listener, &builder, tls.clone()).map_err(RunError::Serve)?;
    }
    tokio::spawn(crate::collect::collect_garbage(Arc::clone(&context)));
    if let Some(feed) = devices {
        tokio::spawn(Arc::clone(&context.devices).follow(feed));
    }
    tokio::spawn(Arc::clone(&context.history).keep_house());
    tracing::info!(root = %root.display(), "builder is ready");
    // Without helpers every step would fail, and a builder cannot be given others.
    let stopped = tokio::select! {
        () = stop => Ok(()),
        () = steps.lost() => Err(RunError::Helpers),
    };
    tracing::info!("builder is stopping");
    builder.stop();
    let idle = async {
        while !(builder.is_idle() && context.garbage.is_idle()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(STOP_GRACE, idle).await.is_err() {
        tracing::warn!("builds were still running when the builder stopped");
    }
    context.history.flush().await;
    tokio::task::spawn_blocking(move || store.flush())
        .await
        .map_err(|error| RunError::Open(error.to_string()))?
        .map_err(Failure::store)?;
    stopped
}

/// How steps are scheduled and what they may print.
fn solver_options(config: &Config) -> cofferdam_solver::Options {
    let bytes = config.limits.step_log();
    let unlimited = usize::MAX;
    let job_output = config.limits.build_log();
    cofferdam_solver::Options {
        parallelism: Some(config.worker.oci.max_parallelism).filter(|most| *most > 0),
        logs: cofferdam_solver::LogLimits { bytes, bytes_per_second: None },
        job_output: Some(
            job_output.map_or(unlimited, |bytes| usize::try_from(bytes).unwrap_or(unlimited)),
        ),
    }
}

/// What ends a builder in good order, watched for from this call on: a signal that comes while the builder starts is not lost.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
