//! A builder's solver: the vertices that jobs hold right now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cofferdam_digest::Digest;
use tokio::sync::Semaphore;

use crate::error::JobError;
use crate::job::Job;
use crate::runtime::Runtime;
use crate::shared::{Core, Shared};
use crate::stream::MAX_JOB_OUTPUT;

/// How a solver behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many steps execute at the same time; `None` means as many as are ready.
    pub parallelism: Option<usize>,
    /// What one step may print.
    pub logs: LogLimits,
    /// What all steps of one job together may print; `None` means the usual limit.
    pub job_output: Option<usize>,
}

/// How many steps of some jobs execute at the same time. Clones count together: a build of several jobs gives each the same.
#[derive(Debug, Clone, Default)]
pub struct Places(pub(crate) Option<Arc<Semaphore>>);

impl Places {
    /// So many places; `None` means as many as are wanted.
    #[must_use]
    pub fn new(most: Option<usize>) -> Self {
        let most = most.map(|most| most.clamp(1, Semaphore::MAX_PERMITS));
        Self(most.map(|most| Arc::new(Semaphore::new(most))))
    }
}

/// What one step may print; `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// In all.
    pub bytes: Option<u64>,
    /// Per second on average, from its first output on.
    pub bytes_per_second: Option<u64>,
}

impl Default for LogLimits {
    fn default() -> Self {
        // No rate: what bursts is often what matters, and the total bounds memory.
        Self { bytes: Some(16 << 20), bytes_per_second: None }
    }
}

/// Schedules graphs over one [`Runtime`], sharing work between jobs.
pub struct Solver<R: Runtime> {
    pub(crate) core: Arc<Core<R>>,
    registry: Mutex<Registry<R>>,
}

/// Taken before any other lock of this crate.
pub(crate) struct Registry<R: Runtime> {
    /// By [`crate::key::shared`]; only vertices that some job holds.
    pub(crate) vertices: HashMap<Digest, Arc<Shared<R>>>,
    jobs: HashMap<String, Weak<Job<R>>>,
    opened: u64,
}

impl<R: Runtime> Solver<R> {
    /// A solver without jobs. Its methods must be called within a tokio runtime.
    #[must_use]
    pub fn new(runtime: Arc<R>, options: Options) -> Arc<Self> {
        let core = Core {
            runtime,
            slots: Places::new(options.parallelism),
            logs: options.logs,
            job_output: options.job_output.unwrap_or(MAX_JOB_OUTPUT),
            leads: Mutex::default(),
        };
        let registry = Registry { vertices: HashMap::new(), jobs: HashMap::new(), opened: 0 };
        Arc::new(Self { core: Arc::new(core), registry: Mutex::new(registry) })
    }

    /// What executes the ops.
    #[must_use]
    pub fn runtime(&self) -> &Arc<R> {
        &self.core.runtime
    }

    /// Opens a job whose steps are limited with those of all others only.
    ///
    /// # Errors
    /// A job with this id is open.
    pub fn job(self: &Arc<Self>, id: &str) -> Result<Arc<Job<R>>, JobError> {
        self.job_within(id, Places::default())
    }

    /// Opens a job whose steps take `places` as well. A step that several jobs want takes a place of the one that came first.
    ///
    /// # Errors
    /// A job with this id is open.
    pub fn job_within(self: &Arc<Self>, id: &str, places: Places) -> Result<Arc<Job<R>>, JobError> {
        let mut registry = self.registry();
        if registry.jobs.contains_key(id) {
            return Err(JobError::Exists(id.to_owned()));
        }
        registry.opened += 1;
        let job = Job::new(self, id, registry.opened, places);
        registry.jobs.insert(id.to_owned(), Arc::downgrade(&job));
        Ok(job)
    }

    /// The open job with this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Job<R>>> {
        self.registry().jobs.get(id)?.upgrade()
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry<R>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Runtime> Registry<R> {
    /// Makes the id of a job free again.
    pub(crate) fn forget_job(&mut self, id: &str) {
        self.jobs.remove(id);
    }

    /// Forgets and cancels a vertex that no job holds any more.
    pub(crate) fn abandon(&mut self, shared: &Arc<Shared<R>>) {
        let known = self.vertices.get(&shared.name);
        if known.is_some_and(|known| Arc::ptr_eq(known, shared)) {
            self.vertices.remove(&shared.name);
        }
        shared.cancel.cancel();
    }
}
