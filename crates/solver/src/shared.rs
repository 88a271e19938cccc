//! One vertex as all jobs see it: a few stages, each done once.
//!
//! A value here lives as long as a job holds it or work on it is under way. Its inputs are held
//! by the same jobs, so a stage may always wait for the stages of its inputs. Dropping must not
//! recurse over inputs.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_graph::Vertex;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{SolveError, StepError};
use crate::evaluate::{self, Extent, Keyed, Lineage, Resolved};
use crate::journal::{Journal, VertexLog};
use crate::runtime::{Runtime, Step};
use crate::solver::{LogLimits, Places};

/// What came of a stage, as everybody who waits sees it.
type Outcome<T> = Result<Arc<T>, SolveError>;

/// What all vertices of a solver use.
pub(crate) struct Core<R> {
    pub(crate) runtime: Arc<R>,
    pub(crate) slots: Places,
    pub(crate) logs: LogLimits,
    /// Output that one job keeps.
    pub(crate) job_output: usize,
    /// Keys whose result is being made right now. A sender is dropped when that ends.
    pub(crate) leads: Mutex<HashMap<Digest, watch::Sender<()>>>,
}

/// An output of another shared vertex.
pub(crate) struct Input<R: Runtime> {
    pub(crate) shared: Arc<Shared<R>>,
    pub(crate) output: usize,
}

pub(crate) struct Shared<R: Runtime> {
    pub(crate) core: Arc<Core<R>>,
    pub(crate) vertex: Arc<Vertex>,
    pub(crate) inputs: Vec<Input<R>>,
    /// See [`crate::key::shared`].
    pub(crate) name: Digest,
    pub(crate) journal: Arc<Journal>,
    pub(crate) cancel: CancellationToken,
    keyed: Stage<Keyed>,
    lineage: Stage<Lineage>,
    resolved: Stage<Resolved<R::Output>>,
    /// Only begun when an output is wanted that a cache left out.
    whole: Stage<Resolved<R::Output>>,
}

impl<R: Runtime> Shared<R> {
    pub(crate) fn new(
        core: &Arc<Core<R>>,
        vertex: &Arc<Vertex>,
        name: Digest,
        inputs: Vec<Input<R>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::clone(core),
            vertex: Arc::clone(vertex),
            inputs,
            name,
            journal: Journal::new(core.logs),
            cancel: CancellationToken::new(),
            keyed: Stage::new(),
            lineage: Stage::new(),
            resolved: Stage::new(),
            whole: Stage::new(),
        })
    }

    /// The vertex's keys; starts the work on them when nobody did.
    pub(crate) fn keyed(self: &Arc<Self>) -> BoxFuture<'_, Outcome<Keyed>> {
        if self.keyed.begin() {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let work = evaluate::keys(&shared);
                shared.keyed.run(&shared, work).await;
            });
        }
        self.keyed.wait().boxed()
    }

    /// The vertex's name by where it comes from; starts the work on it when nobody did.
    pub(crate) fn lineage(self: &Arc<Self>) -> BoxFuture<'_, Outcome<Lineage>> {
        if self.lineage.begin() {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let work = evaluate::lineage(&shared);
                shared.lineage.run(&shared, work).await;
            });
        }
        self.lineage.wait().boxed()
    }

    /// The vertex's result; starts the work on it when nobody did.
    pub(crate) fn resolved(self: &Arc<Self>) -> BoxFuture<'_, Outcome<Resolved<R::Output>>> {
        if self.resolved.begin() {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let work = evaluate::resolve(&shared, Extent::Part);
                shared.resolved.run(&shared, work).await;
            });
        }
        self.resolved.wait().boxed()
    }

    /// The vertex's result with at least one output. An imported cache may hold some outputs of a
    /// vertex and not others: those are made when they are wanted, and not before.
    pub(crate) fn with_output(
        self: &Arc<Self>,
        output: usize,
    ) -> BoxFuture<'_, Outcome<Resolved<R::Output>>> {
        async move {
            let found = self.resolved().await?;
            if !found.outputs.get(output).is_some_and(Option::is_none) {
                return Ok(found);
            }
            if self.whole.begin() {
                let shared = Arc::clone(self);
                tokio::spawn(async move {
                    let work = evaluate::resolve(&shared, Extent::Whole);
                    shared.whole.run(&shared, work).await;
                });
            }
            self.whole.wait().await
        }
        .boxed()
    }

    /// The result if it is there already.
    pub(crate) fn peek(&self) -> Option<Arc<Resolved<R::Output>>> {
        self.whole.peek().or_else(|| self.resolved.peek())
    }

    /// Every name of the vertex that is known by now, the one its result has first.
    pub(crate) fn names(&self) -> Vec<Digest> {
        let mut names: Vec<Digest> = self.peek().map(|found| found.identity).into_iter().collect();
        names.extend(self.lineage.peek().and_then(|lineage| lineage.name()));
        names.extend(self.keyed.peek().and_then(|keyed| keyed.definition()));
        names
    }

    /// What the runtime noted when it named the vertex; `None` when nobody asked for a name yet.
    pub(crate) fn note(&self) -> Option<Option<Arc<str>>> {
        self.keyed.peek().map(|keyed| keyed.note())
    }

    pub(crate) fn failed(&self) -> bool {
        self.keyed.failed()
            || self.lineage.failed()
            || self.resolved.failed()
            || self.whole.failed()
    }

    /// Whether this vertex takes exactly these inputs, not other attempts at them.
    pub(crate) fn takes(&self, inputs: &[Input<R>]) -> bool {
        self.inputs.len() == inputs.len()
            && self.inputs.iter().zip(inputs).all(|(own, other)| {
                own.output == other.output && Arc::ptr_eq(&own.shared, &other.shared)
            })
    }

    pub(crate) fn step(&self) -> Step {
        Step {
            digest: self.vertex.digest,
            cancel: self.cancel.clone(),
            progress: VertexLog::new(Arc::clone(&self.journal)),
            named: self.keyed.peek().map(|keyed| keyed.map().clone()),
            slot: Arc::default(),
        }
    }

    /// Reports that this vertex failed.
    pub(crate) fn fail(&self, error: StepError) -> SolveError {
        if self.cancel.is_cancelled() {
            return SolveError::Canceled;
        }
        VertexLog::new(Arc::clone(&self.journal)).fail(&error.to_string());
        SolveError::Step {
            vertex: self.vertex.digest,
            name: self.vertex.name(),
            sources: self.vertex.sources.clone(),
            error: Arc::new(error),
        }
    }
}

impl<R: Runtime> Drop for Shared<R> {
    fn drop(&mut self) {
        // The derived drop would recurse once per vertex of a chain.
        let mut orphans = std::mem::take(&mut self.inputs);
        while let Some(input) = orphans.pop() {
            if let Some(mut shared) = Arc::into_inner(input.shared) {
                orphans.append(&mut shared.inputs);
            }
        }
    }
}

/// Something that is worked out once, for everybody who waits.
struct Stage<T> {
    begun: AtomicBool,
    value: watch::Sender<Option<Outcome<T>>>,
}

impl<T> Stage<T> {
    fn new() -> Self {
        Self { begun: AtomicBool::new(false), value: watch::Sender::new(None) }
    }

    /// Whether the caller is the one to do the work.
    fn begin(&self) -> bool {
        !self.begun.swap(true, Ordering::AcqRel)
    }

    /// Does the work, unless cancelled, and publishes what came of it, even when it panics.
    async fn run<R: Runtime>(
        &self,
        shared: &Shared<R>,
        work: impl Future<Output = Result<T, SolveError>>,
    ) {
        let vertex = shared.vertex.digest;
        let _unfinished = Unfinished { stage: self, vertex, journal: &shared.journal };
        let outcome = tokio::select! {
            biased;
            () = shared.cancel.cancelled() => Err(SolveError::Canceled),
            outcome = work => outcome,
        };
        self.value.send_replace(Some(outcome.map(Arc::new)));
    }

    async fn wait(&self) -> Outcome<T> {
        let mut value = self.value.subscribe();
        match value.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // The sender is part of this stage and outlives the wait.
            _ => Err(SolveError::Canceled),
        }
    }

    fn peek(&self) -> Option<Arc<T>> {
        self.value.borrow().as_ref()?.as_ref().ok().cloned()
    }

    fn failed(&self) -> bool {
        matches!(*self.value.borrow(), Some(Err(_)))
    }
}

/// Releases everybody who waits when the work unwinds.
struct Unfinished<'a, T> {
    stage: &'a Stage<T>,
    vertex: Digest,
    journal: &'a Arc<Journal>,
}

impl<T> Drop for Unfinished<'_, T> {
    fn drop(&mut self) {
        if self.stage.value.borrow().is_some() {
            return;
        }
        let error = SolveError::Abandoned { vertex: self.vertex };
        VertexLog::new(Arc::clone(self.journal)).fail(&error.to_string());
        self.stage.value.send_replace(Some(Err(error)));
    }
}

/// The right to make the result with one key. While it is held, others wait.
pub(crate) struct Lead<'a> {
    leads: &'a Mutex<HashMap<Digest, watch::Sender<()>>>,
    key: Digest,
}

impl<'a> Lead<'a> {
    /// Waits until nobody else makes the result with `key`.
    pub(crate) async fn take(
        leads: &'a Mutex<HashMap<Digest, watch::Sender<()>>>,
        key: Digest,
    ) -> Self {
        loop {
            let mut other = {
                let mut leads_now = leads.lock().unwrap_or_else(PoisonError::into_inner);
                match leads_now.get(&key) {
                    Some(other) => other.subscribe(),
                    None => {
                        leads_now.insert(key, watch::Sender::new(()));
                        return Self { leads, key };
                    }
                }
            };
            // Nothing is ever sent: this ends when the sender is dropped.
            let _ = other.changed().await;
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.leads.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
