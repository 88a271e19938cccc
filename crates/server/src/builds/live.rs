//! One build while it runs: its builder, its connections, and the signs that somebody still wants it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_fleet::{Isolation, Lease};
use cofferdam_records::{Build, Project};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::tap::Tap;
use super::trace::Trace;
use crate::gateway::ClientCertificate;

/// How long a client that reports its health, or broke off in the middle of work, may be gone before its build is given up.
const GONE: Duration = Duration::from_secs(30);
/// The same for clients that never report: they hold an endpoint and connect whenever they have something to build.
const SILENT: Duration = Duration::from_secs(300);
/// How long a build may exist before anybody asks for its builder or says that it is alive.
const NEVER_CAME: Duration = Duration::from_secs(300);

/// A build that has not ended, or has just done so.
pub(crate) struct LiveBuild {
    build: Build,
    project: Project,
    demanded: Isolation,
    certificate: OnceLock<ClientCertificate>,
    /// Keeps the builder, from when it is first asked for until the build has ended.
    lease: tokio::sync::Mutex<Option<Arc<Lease>>>,
    released: CancellationToken,
    ending: AtomicBool,
    cut: CancellationToken,
    tap: Mutex<Option<Tap>>,
    signs: Mutex<Signs>,
    solves: Mutex<Solves>,
    stage: Mutex<Stage>,
    /// What messages about it say: whose and which it is.
    span: Span,
    trace: Trace,
}

/// How far a build that has not ended has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody has asked for its builder.
    Created,
    /// Its builder is asked for.
    Asking,
    /// It has a builder.
    Running,
}

/// A build that asks for its builder, until dropped.
pub(super) struct Asking<'a>(&'a LiveBuild);

impl Asking<'_> {
    /// It has one.
    pub(super) fn done(self) {
        self.0.set_stage(Stage::Running);
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.0.stage() == Stage::Asking {
            self.0.set_stage(Stage::Created);
        }
    }
}

/// What became of the build's solves so far.
#[derive(Default)]
pub(super) struct Solves {
    /// How many run.
    pub(super) running: usize,
    /// How many went well.
    pub(super) succeeded: usize,
    /// What the last one failed with, when it failed by itself.
    pub(super) failed: Option<String>,
    /// Whether one was broken off.
    pub(super) canceled: bool,
}

/// Signs of life.
struct Signs {
    created: Instant,
    last: Option<Instant>,
    /// Whether the client ever reported its health.
    reports: bool,
    /// Open connections to the builder and open health streams.
    open: usize,
}

/// Something of a client that is open, which shows that it lives.
pub(crate) struct Sign(Arc<LiveBuild>);

impl Drop for Sign {
    fn drop(&mut self) {
        let mut signs = self.0.signs();
        signs.open = signs.open.saturating_sub(1);
        signs.last = Some(Instant::now());
    }
}

impl LiveBuild {
    pub(super) fn new(build: Build, project: Project, demanded: Isolation) -> Arc<Self> {
        let (whose, id) = (project.id.as_str(), build.id.as_str());
        // Of the highest level, so that every message has it; below no request, which the build outlives.
        let span = tracing::error_span!(parent: None, "build", project = whose, build = id);
        Arc::new(Self {
            trace: Trace::new(id),
            span,
            stage: Mutex::new(Stage::Created),
            build,
            project,
            demanded,
            certificate: OnceLock::new(),
            lease: tokio::sync::Mutex::default(),
            released: CancellationToken::new(),
            ending: AtomicBool::new(false),
            cut: CancellationToken::new(),
            tap: Mutex::default(),
            signs: Mutex::new(Signs {
                created: Instant::now(),
                last: None,
                reports: false,
                open: 0,
            }),
            solves: Mutex::default(),
        })
    }

    /// The build's id.
    pub(crate) fn id(&self) -> &str {
        &self.build.id
    }

    /// Its project's id.
    pub(crate) fn project_id(&self) -> &str {
        &self.project.id
    }

    /// The level of isolation that its client wants at least.
    pub(super) const fn demanded(&self) -> Isolation {
        self.demanded
    }

    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.get()
    }

    /// Sets the certificate unless there is one; returns the one that counts.
    pub(super) fn set_certificate(&self, certificate: ClientCertificate) -> &ClientCertificate {
        self.certificate.get_or_init(|| certificate)
    }

    pub(super) const fn lease(&self) -> &tokio::sync::Mutex<Option<Arc<Lease>>> {
        &self.lease
    }

    pub(super) fn tap(&self) -> MutexGuard<'_, Option<Tap>> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn solves(&self) -> MutexGuard<'_, Solves> {
        self.solves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Around everything that is done for it.
    pub(crate) const fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) const fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_stage(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// It asks for its builder now.
    pub(super) fn ask(&self) -> Asking<'_> {
        self.set_stage(Stage::Asking);
        Asking(self)
    }

    /// How long ago it began.
    pub(super) fn age(&self) -> Duration {
        self.signs().created.elapsed()
    }

    /// Whether nobody has begun to end it.
    pub(crate) fn is_running(&self) -> bool {
        !self.ending.load(Ordering::SeqCst)
    }

    /// Begins the end. True for the one caller that is to carry it out.
    pub(super) fn begin_end(&self) -> bool {
        !self.ending.swap(true, Ordering::SeqCst)
    }

    /// The client said that it lives, as it will again and again.
    pub(crate) fn sign(&self) {
        let mut signs = self.signs();
        signs.last = Some(Instant::now());
        signs.reports = true;
    }

    /// The client asked for its builder.
    pub(super) fn asked(&self) {
        self.signs().last = Some(Instant::now());
    }

    /// The client has something open, until the value is dropped. None once the build is ending.
    pub(crate) fn connection(self: &Arc<Self>) -> Option<Sign> {
        if !self.is_running() {
            return None;
        }
        let mut signs = self.signs();
        signs.open += 1;
        signs.last = Some(Instant::now());
        Some(Sign(Arc::clone(self)))
    }

    /// Whether nobody has been there for too long.
    pub(super) fn is_abandoned(&self) -> bool {
        let broke_off = self.solves().canceled;
        let signs = self.signs();
        let patience = if signs.reports || broke_off { GONE } else { SILENT };
        match signs.last {
            _ if signs.open > 0 => false,
            Some(last) => last.elapsed() > patience,
            None => signs.created.elapsed() > NEVER_CAME,
        }
    }

    /// Whether its client ever came as far as building something.
    pub(crate) fn has_solved(&self) -> bool {
        let solves = self.solves();
        solves.running > 0 || solves.succeeded > 0 || solves.failed.is_some() || solves.canceled
    }

    /// Resolves when connections of this build are to be cut.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Whether connections have been cut: the client is to stop by itself if it has not noticed.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    pub(super) fn cut_connections(&self) {
        self.cut.cancel();
    }

    /// Resolves when the build has ended and is recorded so.
    pub(crate) async fn ended(&self) {
        self.released.cancelled().await;
    }

    pub(super) fn set_ended(&self) {
        self.released.cancel();
    }
}
