//! What every part of a builder shares: store, launcher, gate, sessions, registries.
//!
//! Knows which build has which session, so that a step can ask its own clients, and nobody
//! else's, for files, credentials and secrets. Never keeps a secret.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use cofferdam_egress::{Attachment, GATE_ADDRESS, Gate};
use cofferdam_image::registry;
use cofferdam_sandbox::{Launcher, Network};
use cofferdam_session::{LookupError, Session, SessionManager};
use cofferdam_solver::{Step, VertexLog};
use cofferdam_store::{IdRange, Store};
use cofferdam_telemetry::Collector;
use cofferdam_wire::moby::buildkit::v1::types::WorkerRecord;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::buildpacks::composed::Composed;
use crate::cache::{Imports, Spoilt};
use crate::collect::Garbage;
use crate::config::Config;
use crate::content_digest::KnownMirrors;
use crate::devices::Devices;
use crate::export::blocks::PackedBlocks;
use crate::failure::Failure;
use crate::gateway::bridge::Bridge;
use crate::history::{History, Recording};
use crate::online::Online;
use crate::op::build::Nesting;
use crate::op::file::EarlierCopies;
use crate::provenance::Produced;
use crate::serving::{Scope, ServedSolve};
use crate::source::{Answers, Names};
use crate::turns::Turns;

/// One build as its steps see it.
#[derive(Clone, Default)]
pub(crate) struct BuildInfo {
    /// Sessions of the build's client, as they are called in this builder.
    pub(crate) sessions: Vec<String>,
    /// Whose build it is.
    pub(crate) scope: Scope,
    /// Where a server reads what the build connected to.
    pub(crate) solve: Option<Arc<ServedSolve>>,
    /// Caches the build may look into.
    pub(crate) imports: Arc<Imports>,
    /// Images that its frontend put together.
    pub(crate) composed: Arc<Composed>,
    /// Whether its client drives it and may look into what failed.
    pub(crate) explores: bool,
    /// Where graphs are solved for it.
    pub(crate) bridge: Option<Weak<Bridge>>,
    /// What its record is told.
    pub(crate) recording: Recording,
    /// What references of repositories turned out to be.
    pub(crate) names: Arc<Names>,
    /// What was downloaded for it.
    pub(crate) answers: Arc<Answers>,
}

/// The shared parts of a builder.
pub(crate) struct Context {
    /// State on disk.
    pub(crate) store: Arc<Store>,
    /// Keeps it within its limits.
    pub(crate) garbage: Garbage,
    /// What was compressed into it before.
    pub(crate) blocks: Arc<PackedBlocks>,
    /// Starts sandboxes.
    pub(crate) launcher: Launcher,
    /// The way to the network, when there is one.
    pub(crate) gate: Option<Gate>,
    /// Open sessions.
    pub(crate) sessions: Arc<SessionManager>,
    /// Registries.
    pub(crate) registries: Arc<registry::Client>,
    /// Plain downloads, from the first one on.
    http: OnceLock<reqwest::Client>,
    /// Configuration.
    pub(crate) config: Config,
    /// Layers that are being fetched.
    pub(crate) fetches: Arc<Turns>,
    /// Devices that the operator declared.
    pub(crate) devices: Arc<Devices>,
    /// Where traces go.
    pub(crate) collector: Collector,
    /// Builds that were.
    pub(crate) history: Arc<History>,
    /// The builder's own use of the network.
    pub(crate) online: Arc<Online>,
    /// Which requests made which graphs.
    pub(crate) produced: Arc<Produced>,
    /// Which build ops wait for which.
    pub(crate) nesting: Nesting,
    /// Digests of files in mirrors of clients' directories.
    pub(crate) known_files: KnownMirrors,
    /// Copies of those directories.
    pub(crate) earlier_copies: Arc<EarlierCopies>,
    /// Imported caches that hold other layers than they say.
    pub(crate) spoilt: Arc<Spoilt>,
    worker: OnceLock<WorkerRecord>,
    builds: Mutex<HashMap<String, BuildInfo>>,
}

impl Context {
    /// Puts the parts together.
    pub(crate) fn new(
        store: Arc<Store>,
        launcher: Launcher,
        gate: Option<Gate>,
        online: Online,
        registries: Arc<registry::Client>,
        config: Config,
    ) -> Result<Arc<Self>, Failure> {
        let collector = Collector::start(&config.otel)
            .map_err(|error| Failure::invalid(crate::failure::chain(&error)))?;
        let history = History::open(Arc::clone(&store), &config.history)?;
        let blocks = Arc::new(PackedBlocks::new(Arc::clone(&store)));
        let garbage = Garbage::new(&store, &config);
        Ok(Arc::new(Self {
            store,
            garbage,
            blocks,
            history,
            collector,
            devices: Arc::default(),
            launcher,
            gate,
            sessions: SessionManager::new(),
            registries,
            http: OnceLock::new(),
            fetches: Arc::default(),
            online: Arc::new(online),
            produced: Arc::default(),
            nesting: Nesting::default(),
            known_files: KnownMirrors::default(),
            earlier_copies: Arc::default(),
            spoilt: Arc::default(),
            config,
            worker: OnceLock::new(),
            builds: Mutex::default(),
        }))
    }

    /// The client of plain downloads. It is made when it is first wanted: reading the machine's certificates takes longer than all
    /// else that a builder does before its first answer, and most builds download nothing.
    ///
    /// # Errors
    /// The machine has no certificates that can be read.
    pub(crate) fn http(&self) -> Result<&reqwest::Client, Failure> {
        if let Some(client) = self.http.get() {
            return Ok(client);
        }
        let client = crate::source::http::client().map_err(Failure::of)?;
        Ok(self.http.get_or_init(|| client))
    }

    /// Says once what this builder is.
    pub(crate) fn introduce(&self, worker: WorkerRecord) {
        // Said only once, when the builder is put together.
        let _ = self.worker.set(worker);
    }

    /// What this builder says about itself.
    pub(crate) fn worker(&self) -> WorkerRecord {
        self.worker.get().cloned().unwrap_or_default()
    }

    /// How ids are written to disk.
    pub(crate) fn store_ids(&self) -> IdRange {
        self.store.ids()
    }

    /// Makes a build known under its job id.
    pub(crate) fn add_build(&self, job: &str, info: BuildInfo) {
        if let Some(solve) = &info.solve {
            self.online.add_solve(job, solve);
        }
        self.lock().insert(job.to_owned(), info);
    }

    /// Forgets a build.
    pub(crate) fn remove_build(&self, job: &str) {
        self.online.remove_solve(job);
        self.lock().remove(job);
    }

    /// The caches of a build.
    pub(crate) fn imports_of(&self, job: &str) -> Arc<Imports> {
        self.lock().get(job).map(|build| Arc::clone(&build.imports)).unwrap_or_default()
    }

    /// What the record of a build is told; see [`crate::history::Recording`].
    pub(crate) fn recording_of(&self, job: &str) -> Recording {
        self.lock().get(job).map(|build| build.recording.clone()).unwrap_or_default()
    }

    /// What the frontend of a build put together.
    pub(crate) fn composed_of(&self, job: &str) -> Arc<Composed> {
        self.lock().get(job).map(|build| Arc::clone(&build.composed)).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, BuildInfo>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The builds that want a step, in the order they came.
    pub(crate) fn builds_of(&self, step: &Step) -> Vec<BuildInfo> {
        let builds = self.lock();
        step.jobs().iter().filter_map(|job| builds.get(&**job).cloned()).collect()
    }

    /// The sessions of the builds that want a step.
    pub(crate) fn sessions_of(&self, step: &Step) -> Vec<String> {
        self.builds_of(step).into_iter().flat_map(|build| build.sessions).collect()
    }

    /// The sessions of the builds that want what `log` tells of, now.
    pub(crate) fn sessions_holding(&self, log: &VertexLog) -> Vec<String> {
        let builds = self.lock();
        let holders = log.holders();
        let wanting = holders.iter().filter_map(|(job, _)| builds.get(&**job));
        wanting.flat_map(|build| build.sessions.iter().cloned()).collect()
    }

    /// A session that a step's op names, then those of the builds that want it, each once: a lookup of one that is not there
    /// takes its time. An op may name sessions of its own builds only.
    pub(crate) fn sessions_with(&self, step: &Step, named: Option<&String>) -> Vec<String> {
        let builds = self.builds_of(step);
        let named = builds.iter().flat_map(|build| named.map(|named| build.scope.name(named)));
        let others = builds.iter().flat_map(|build| build.sessions.iter().cloned());
        let mut ids: Vec<String> = Vec::new();
        for id in named.chain(others) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Tries `attempt` with each session in turn until one succeeds; the last error wins.
    pub(crate) async fn any_session<'a, T: Send>(
        &self,
        ids: &[String],
        attempt: impl Fn(Arc<Session>) -> BoxFuture<'a, Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let mut last = Failure::of(LookupError::None);
        for id in ids {
            match self.sessions.get(id).await {
                Err(error) => last = Failure::of(error),
                Ok(session) => match attempt(session).await {
                    Ok(value) => return Ok(value),
                    Err(failure) => last = failure,
                },
            }
        }
        Err(last)
    }

    /// A secret's bytes from any client that wants the step.
    pub(crate) async fn secret(&self, step: &Step, id: &str) -> Result<Vec<u8>, Failure> {
        let ids = self.sessions_of(step);
        self.any_session(&ids, |session| {
            async move { session.get_secret(id).await.map_err(Failure::of) }.boxed()
        })
        .await
    }

    /// A session that forwards agent `id`.
    pub(crate) async fn agent_session(
        &self,
        step: &Step,
        id: &str,
    ) -> Result<Arc<Session>, Failure> {
        let ids = self.sessions_of(step);
        self.any_session(&ids, |session| {
            async move {
                session.check_agent(id).await.map_err(Failure::of)?;
                Ok(session)
            }
            .boxed()
        })
        .await
    }

    /// The gate, or why a step that wants the network cannot run.
    pub(crate) fn require_gate(&self) -> Result<&Gate, Failure> {
        let gate = self.gate.as_ref().filter(|gate| !gate.is_gone());
        gate.ok_or_else(|| {
            Failure::unknown(
                "the builder's egress gate is not running, so steps have no network: restart the \
                 builder, or use --network=none for the step",
            )
        })
    }

    /// Gives a step the network.
    pub(crate) async fn attach(&self, tun: OwnedFd, step: &str) -> Result<Attachment, Failure> {
        self.require_gate()?.attach(tun, step).await.map_err(Failure::of)
    }

    /// Whether the configuration gives every step the host's network.
    pub(crate) fn host_network_by_default(&self) -> bool {
        self.config.worker.oci.network_mode == "host"
    }

    /// A step's resolver configuration: the gate, or nothing.
    pub(crate) fn resolv_conf(&self, network: Network) -> Vec<u8> {
        let mut text = String::new();
        match network {
            Network::None => return Vec::new(),
            // The host's network is the builder's own, whose way out is the gate as well.
            Network::Gate | Network::Host => {
                text.push_str(&format!("nameserver {GATE_ADDRESS}\n"));
            }
        }
        if !self.config.dns.search_domains.is_empty() {
            text.push_str(&format!("search {}\n", self.config.dns.search_domains.join(" ")));
        }
        if !self.config.dns.options.is_empty() {
            text.push_str(&format!("options {}\n", self.config.dns.options.join(" ")));
        }
        text.into_bytes()
    }
}
