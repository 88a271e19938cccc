//! A running builder: its parts, and the builds it has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cofferdam_digest::Digest;
use cofferdam_solver::{Job, Solver};
use connectrpc::ErrorCode;
use tokio::sync::Notify;

use crate::admission::Admission;
use crate::context::Context;
use crate::failure::Failure;
use crate::gateway::bridge::Bridge;
use crate::runtime::OpRuntime;
use crate::serving::ServedBuilds;
use crate::worker::Worker;

/// How long a finished build can still be asked for its events.
const LINGER: Duration = Duration::from_secs(10);
/// What clients are told of a builder that ends in good order.
pub(crate) const STOPPING: &str = "the builder is stopping";

/// A running builder.
pub(crate) struct Builder {
    /// The shared parts.
    pub(crate) context: Arc<Context>,
    /// Schedules all builds.
    pub(crate) solver: Arc<Solver<OpRuntime>>,
    /// What the builder says about itself.
    pub(crate) worker: Worker,
    /// What a server told this builder of.
    pub(crate) served: ServedBuilds,
    /// Room for builds.
    pub(crate) admission: Admission,
    builds: Mutex<HashMap<String, Build>>,
    arrived: Notify,
    /// Set with `builds` locked, so that none comes in behind those that are cancelled.
    stopping: AtomicBool,
}

struct Build {
    job: Arc<Job<OpRuntime>>,
    bridge: Option<Arc<Bridge>>,
}

impl Builder {
    /// Puts a builder together.
    pub(crate) fn new(
        context: Arc<Context>,
        solver: Arc<Solver<OpRuntime>>,
        worker: Worker,
    ) -> Arc<Self> {
        context.introduce(worker.record());
        let admission = Admission::new(&context.config.limits);
        Arc::new(Self {
            context,
            solver,
            worker,
            served: ServedBuilds::default(),
            admission,
            builds: Mutex::default(),
            arrived: Notify::new(),
            stopping: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Build>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a build under its ref.
    pub(crate) fn add(&self, job: Arc<Job<OpRuntime>>, bridge: Arc<Bridge>) -> Result<(), Failure> {
        let id = job.id().to_owned();
        let mut builds = self.lock();
        self.check_open()?;
        if builds.contains_key(&id) {
            return Err(Failure::unknown(format!("job ID {id} exists")));
        }
        builds.insert(id, Build { job, bridge: Some(bridge) });
        drop(builds);
        self.arrived.notify_waiters();
        Ok(())
    }

    /// Ends a build: its bridge answers no more, its events stay for a moment.
    pub(crate) fn finish(self: &Arc<Self>, id: &str) {
        if let Some(build) = self.lock().get_mut(id) {
            build.bridge = None;
            build.job.close();
        }
        self.context.remove_build(id);
        let builder = Arc::clone(self);
        let id = id.to_owned();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            builder.lock().remove(&id);
        });
    }

    /// The bridge of build `id`, which may be on its way.
    pub(crate) async fn bridge(&self, id: &str, wait: Duration) -> Result<Arc<Bridge>, Failure> {
        self.wait_for(id, wait, |build| build.bridge.clone()).await
    }

    /// The job of build `id`, which may be on its way.
    pub(crate) async fn job(
        &self,
        id: &str,
        wait: Duration,
    ) -> Result<Arc<Job<OpRuntime>>, Failure> {
        self.wait_for(id, wait, |build| Some(Arc::clone(&build.job))).await
    }

    /// How long the cached result of a vertex took to make. A vertex below one that was found is
    /// never looked up itself, but its record may still be there and know.
    pub(crate) fn saved(&self, job: &Job<OpRuntime>, vertex: &Digest) -> Option<Duration> {
        let records = job.names(vertex).into_iter();
        records
            .filter_map(|name| self.context.store.record(&name))
            .map(|(record, _)| record.duration)
            .next()
    }

    async fn wait_for<T>(
        &self,
        id: &str,
        wait: Duration,
        find: impl Fn(&Build) -> Option<T>,
    ) -> Result<T, Failure> {
        let look = async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some(found) = self.lock().get(id).and_then(&find) {
                    return found;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(wait, look)
            .await
            .map_err(|_| Failure::not_found(format!("no such job {id}")))
    }

    /// Cancels every build and takes no more, for the end of the process.
    pub(crate) fn stop(&self) {
        let builds = self.lock();
        self.stopping.store(true, Ordering::SeqCst);
        for build in builds.values() {
            build.job.cancel();
        }
    }

    /// Whether it takes no more builds.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Refuses a build that comes while the builder ends.
    pub(crate) fn check_open(&self) -> Result<(), Failure> {
        match self.is_stopping() {
            true => Err(Failure::new(ErrorCode::Unavailable, STOPPING)),
            false => Ok(()),
        }
    }

    /// The builds that run, as they are called in this builder.
    pub(crate) fn running(&self) -> Vec<String> {
        let builds = self.lock();
        let running = builds.iter().filter(|(_, build)| build.bridge.is_some());
        running.map(|(id, _)| id.clone()).collect()
    }

    /// Whether no build is running.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().values().all(|build| build.bridge.is_none())
    }
}
