//! The life of builds: created, given a builder, watched, ended in the right state whatever happens.
//!
//! A build ends once. Whoever comes first decides its state: its client, a cancellation, the builder's death, or the reaper that
//! finds nobody at the other end any more. What a builder reports is recorded while the build runs; a build is reported as ended
//! only after its steps are complete.

mod create;
mod end;
mod endpoint;
mod house;
mod live;
mod projects;
mod tap;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_access::Access;
use cofferdam_fleet::{Fleet, Isolation};
use cofferdam_records::Records;
use cofferdam_registry::Registry;
use tokio::sync::Notify;

use crate::gateway::{Authority, Fingerprint};

pub(crate) use create::CreateError;
pub(crate) use end::Outcome;
pub(crate) use endpoint::{Connection, EndpointError};
pub(crate) use live::LiveBuild;

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
        })
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How much cache a project has on disk, where that is known.
    pub(crate) async fn cache_bytes(&self, project: &str) -> Option<u64> {
        self.fleet.cache_bytes(project).await
    }
}
