//! The life of builds: created, given a builder, watched, ended in the right state whatever happens.
//!
//! A build ends once. Whoever comes first decides its state: its client, a cancellation, the builder's death, or the reaper that
//! finds nobody at the other end any more. What a builder reports is recorded while the build runs; a build is reported as ended
//! only after its steps are complete.

mod counts;
mod create;
mod end;
mod endpoint;
mod house;
mod keeper;
mod live;
mod projects;
mod storage;
mod tap;
mod trace;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cofferdam_access::Access;
use cofferdam_fleet::{Fleet, Isolation};
use cofferdam_records::Records;
use cofferdam_registry::Registry;
use cofferdam_telemetry::Collector;
use tokio::sync::Notify;

use self::live::Stage;
use crate::gateway::{Authority, Fingerprint};
use crate::metrics::{ALL, BUILDERS, BUILDS, BUILDS_RUNNING, CACHE_BYTES, QUEUE_LENGTH};

pub(crate) use create::CreateError;
pub(crate) use end::{Outcome, ended_already};
pub(crate) use endpoint::{Connection, EndpointError};
pub(crate) use live::LiveBuild;
pub(crate) use storage::{CACHE, Figure, Look, REGISTRY};

/// All builds of this server that have not ended, and those that just did.
pub(crate) struct Builds {
    records: Records,
    access: Arc<Access>,
    fleet: Arc<Fleet>,
    images: Registry,
    authority: Authority,
    /// The level of isolation that every build has at least.
    least: Isolation,
    live: Mutex<Live>,
    /// Told when a build has ended.
    ended: Notify,
    draining: AtomicBool,
    /// Where traces go, if anywhere.
    collector: OnceLock<Collector>,
}

#[derive(Default)]
struct Live {
    builds: HashMap<String, Arc<LiveBuild>>,
    certificates: HashMap<Fingerprint, Arc<LiveBuild>>,
}

impl Builds {
    pub(crate) fn new(
        records: Records,
        access: Arc<Access>,
        fleet: Arc<Fleet>,
        images: Registry,
        authority: Authority,
        least: Isolation,
    ) -> Arc<Self> {
        Arc::new(Self {
            records,
            access,
            fleet,
            images,
            authority,
            least,
            live: Mutex::default(),
            ended: Notify::new(),
            draining: AtomicBool::new(false),
            collector: OnceLock::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on traces of builds go there. Only the first place counts.
    pub(crate) fn trace_to(&self, collector: Collector) {
        // A server has one.
        let _ = self.collector.set(collector);
    }

    /// Brings figures up to date that are so many at the moment.
    pub(crate) fn measure(&self) {
        let queue = self.fleet.waiting();
        let stages: Vec<Stage> = self.running().iter().map(|live| live.stage()).collect();
        let at = |stage: Stage| stages.iter().filter(|one| **one == stage).count();
        let (asking, queued) = (at(Stage::Asking), queue.min(at(Stage::Asking)));
        BUILDS_RUNNING.set(ALL, stages.len() as u64);
        BUILDS.set("created", at(Stage::Created) as u64);
        BUILDS.set("queued", queued as u64);
        BUILDS.set("starting", (asking - queued) as u64);
        BUILDS.set("running", at(Stage::Running) as u64);
        QUEUE_LENGTH.set(ALL, queue as u64);
        BUILDERS.set(ALL, self.fleet.builders() as u64);
        CACHE_BYTES.set(ALL, self.fleet.known_bytes());
    }

    /// The level of isolation that this server demands.
    pub(crate) const fn least(&self) -> Isolation {
        self.least
    }

    /// A build that runs or has just ended.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<LiveBuild>> {
        self.lock().builds.get(id).cloned()
    }

    /// The build whose client holds a certificate.
    pub(crate) fn of_certificate(&self, fingerprint: &Fingerprint) -> Option<Arc<LiveBuild>> {
        self.lock().certificates.get(fingerprint).cloned()
    }

    fn add(&self, build: Arc<LiveBuild>) {
        self.lock().builds.insert(build.id().to_owned(), build);
    }

    fn remove(&self, build: &LiveBuild) {
        let mut live = self.lock();
        live.builds.remove(build.id());
        if let Some(certificate) = build.certificate() {
            live.certificates.remove(&certificate.fingerprint);
        }
    }

    fn running(&self) -> Vec<Arc<LiveBuild>> {
        self.lock().builds.values().filter(|build| build.is_running()).cloned().collect()
    }

    /// From now on no build begins. Returns how many run.
    pub(crate) fn refuse_new(&self) -> usize {
        self.draining.store(true, Ordering::SeqCst);
        self.running().len()
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Waits until no build runs.
    pub(crate) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.running().is_empty() {
                return;
            }
            ended.await;
        }
    }
}
