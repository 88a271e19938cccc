//! The seam between scheduling and doing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cofferdam_digest::Digest;
use cofferdam_graph::Vertex;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::error::StepError;
use crate::journal::VertexLog;
use crate::solver::Places;

/// What executes ops and keeps their results.
///
/// Every future may be dropped at any await, when the last job that wants the vertex leaves:
/// clean up in destructors. [`Step::cancel`] fires first, for work that runs elsewhere.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// One output of an op, such as a file tree and what keeps it alive. Cheap to clone, and lazy:
    /// a found output that nobody looks into should cost nothing.
    type Output: Clone + Send + Sync + 'static;

    /// What names this vertex's work, and how each input takes part in that name.
    ///
    /// Called at most once per shared vertex, before inputs are there, concurrently for the whole
    /// graph. The digest must cover everything that decides the result except inputs and secrets.
    ///
    /// # Errors
    /// Fails the vertex, for example when a source does not exist.
    async fn cache_map(&self, vertex: &Arc<Vertex>, step: &Step) -> Result<CacheMap, StepError>;

    /// The digest of the part of `output` that input `index` of `vertex` looks at.
    ///
    /// # Errors
    /// Fails the vertex, for example when it looks at a path that does not exist.
    async fn content_digest(
        &self,
        vertex: &Arc<Vertex>,
        index: usize,
        output: &Self::Output,
        step: &Step,
    ) -> Result<Digest, StepError>;

    /// Does the work. `inputs` are in the vertex's order; the result holds as many outputs as
    /// [`cofferdam_graph::output_count`] says.
    ///
    /// # Errors
    /// Fails the vertex.
    async fn execute(
        &self,
        vertex: &Arc<Vertex>,
        inputs: Vec<Self::Output>,
        step: &Step,
    ) -> Result<Vec<Self::Output>, StepError>;

    /// Output number `output` of the result stored under `key`, be it an identity or an alias.
    /// `None` on any trouble: the step then runs.
    async fn lookup(
        &self,
        key: &Digest,
        output: usize,
        step: &Step,
    ) -> Option<Cached<Self::Output>>;

    /// Keeps a result. `keys[0]` is its identity, the others are aliases of it. What any of the
    /// keys named before is replaced. Trouble is logged, never reported: the build goes on.
    async fn store(&self, keys: &[Digest], outputs: &[Self::Output], meta: RecordMeta);

    /// Makes `aliases` lead to the result with this identity. Losing an alias costs time only.
    async fn link(&self, identity: &Digest, aliases: &[Digest]) {
        let _ = (identity, aliases);
    }
}

/// What names a vertex's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMap {
    /// Covers the op, its platform and whatever strength of isolation must not be mixed.
    pub digest: Digest,
    /// How each input takes part, in the vertex's order. Absent ones take part by identity.
    pub inputs: Vec<CacheInput>,
    /// The digest says nothing about the result: never look it up, never keep it.
    pub volatile: bool,
    /// What the runtime found out while it named the work. No part of any key; given back by
    /// [`Job::note`](crate::Job::note) and in [`Step::named`].
    pub note: Option<Arc<str>>,
}

/// How one input takes part in a vertex's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheInput {
    /// Names the part of the input that the vertex looks at.
    pub selector: Option<Digest>,
    /// Let [`Runtime::content_digest`] decide instead of the input's identity.
    pub by_content: bool,
}

/// A result that was found.
#[derive(Debug, Clone)]
pub struct Cached<T> {
    /// The output.
    pub output: T,
    /// The key the result was stored under first (`keys[0]`), whichever key led to it.
    pub identity: Digest,
    /// How long it took to make, when known.
    pub duration: Option<Duration>,
}

/// What is remembered about a result besides the result.
#[derive(Debug, Clone)]
pub struct RecordMeta {
    /// The vertex that made it.
    pub vertex: Arc<Vertex>,
    /// Its display name.
    pub name: String,
    /// How long executing took.
    pub duration: Duration,
}

/// What a runtime gets to know about the work it is asked to do.
#[derive(Clone)]
pub struct Step {
    /// Digest of the vertex.
    pub digest: Digest,
    /// Fires when no job wants the vertex any more.
    pub cancel: CancellationToken,
    /// Where to report to. Start and completion are reported by the solver.
    pub progress: VertexLog,
    /// What [`Runtime::cache_map`] answered: the work has to be what was named, whatever the world looks like by now.
    /// `None` while that is being asked, and for work outside of the graph.
    pub named: Option<CacheMap>,
    pub(crate) slot: Arc<Mutex<Vec<OwnedSemaphorePermit>>>,
}

impl Step {
    /// Ids of the jobs that hold this vertex now; their sessions may be asked for files,
    /// credentials and secrets. The job that came first is first.
    #[must_use]
    pub fn jobs(&self) -> Vec<Arc<str>> {
        self.progress.jobs()
    }

    /// Waits for a place of the job that came first, then for one of all jobs' places: in this order, whoever holds one of the
    /// latter waits for nothing.
    pub(crate) async fn take_slot(&self, slots: &Places) {
        let own = self.progress.places();
        let mut taken = Vec::new();
        for places in [own.0, slots.0.clone()].into_iter().flatten() {
            // The semaphore is never closed, so there is always a permit in the end.
            taken.extend(places.acquire_owned().await.ok());
        }
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = taken;
    }

    /// Gives up this step's place under the limit on parallelism. To be called before an
    /// execution waits for another solve, which may need the place.
    pub fn release_slot(&self) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
