//! One build's hold on the solver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_graph::{Edge, Vertex};
use tokio_util::sync::CancellationToken;

use crate::error::SolveError;
use crate::event::VertexState;
use crate::journal::{Journal, Subscriber, VertexLog};
use crate::key;
use crate::runtime::{Runtime, Step};
use crate::shared::{Input, Shared};
use crate::solver::{Places, Registry, Solver};
use crate::stream::{EventStream, JobLog};

/// One build: what it asked for is kept until it is closed, and nothing runs twice in it.
///
/// Dropping a job closes it. Dropping the future of [`Job::solve`] does not stop the work, which
/// belongs to the job as a whole.
pub struct Job<R: Runtime> {
    solver: Arc<Solver<R>>,
    id: Arc<str>,
    serial: u64,
    cancel: CancellationToken,
    log: Arc<JobLog>,
    places: Places,
    held: Mutex<Held<R>>,
}

struct Held<R: Runtime> {
    /// By [`key::shared`].
    vertices: HashMap<Digest, Arc<Shared<R>>>,
    /// By what this job calls them.
    shown: HashMap<Digest, Shown>,
    /// Vertices that the builder made itself.
    own: HashMap<Digest, VertexLog>,
    /// Names of vertices when they were let go, for those who ask afterwards.
    left_names: HashMap<Digest, Vec<Digest>>,
    left: bool,
}

/// A vertex under the name it has in this job's events.
struct Shown {
    shared_name: Digest,
    vertex: Arc<Vertex>,
}

impl<R: Runtime> Job<R> {
    pub(crate) fn new(solver: &Arc<Solver<R>>, id: &str, serial: u64, places: Places) -> Arc<Self> {
        Arc::new(Self {
            solver: Arc::clone(solver),
            id: id.into(),
            serial,
            cancel: CancellationToken::new(),
            log: JobLog::new(solver.core.job_output),
            places,
            held: Mutex::new(Held {
                vertices: HashMap::new(),
                shown: HashMap::new(),
                own: HashMap::new(),
                left_names: HashMap::new(),
                left: false,
            }),
        })
    }

    /// The id it was opened with.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The value of one output, found or made. Calls may run concurrently.
    ///
    /// # Errors
    /// The failure of the first vertex below that failed, or that this job was cancelled.
    pub async fn solve(&self, edge: &Edge) -> Result<R::Output, SolveError> {
        let shared = self.hold(edge)?;
        let resolved = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(SolveError::Canceled),
            resolved = shared.with_output(edge.output) => resolved.map_err(|error| self.localize(error))?,
        };
        let vertex = edge.vertex.digest;
        resolved.outputs.get(edge.output).cloned().flatten().ok_or(SolveError::Abandoned { vertex })
    }

    /// The identity of a result that [`Job::solve`] yielded, by the vertex's digest. With the
    /// output's index it names the output in this builder's records.
    #[must_use]
    pub fn identity(&self, vertex: &Digest) -> Option<Digest> {
        let held = self.held();
        let shown = held.shown.get(vertex)?;
        Some(held.vertices.get(&shown.shared_name)?.peek()?.identity)
    }

    /// Every name of a vertex of this job that is known by now, whether or not its result was
    /// asked for; the identity first when there is a result.
    #[must_use]
    pub fn names(&self, vertex: &Digest) -> Vec<Digest> {
        let held = self.held();
        let shown = held.shown.get(vertex);
        match shown.and_then(|shown| held.vertices.get(&shown.shared_name)) {
            Some(shared) => shared.names(),
            None => held.left_names.get(vertex).cloned().unwrap_or_default(),
        }
    }

    /// The outputs of a vertex of this job, if they are there by now.
    #[must_use]
    pub fn outputs(&self, vertex: &Digest) -> Option<Vec<Option<R::Output>>> {
        let held = self.held();
        let shown = held.shown.get(vertex)?;
        held.vertices.get(&shown.shared_name)?.peek()?.outputs.clone().into()
    }

    /// What the runtime noted when it named a vertex of this job. The outer `None`: nobody needed
    /// its name.
    #[must_use]
    pub fn note(&self, vertex: &Digest) -> Option<Option<Arc<str>>> {
        let held = self.held();
        let shown = held.shown.get(vertex)?;
        held.vertices.get(&shown.shared_name)?.note()
    }

    /// All events of this job from its beginning, then live, until it is closed.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.log.read()
    }

    /// Introduces a vertex that the builder makes itself, such as an exporter. Asking again for
    /// the same digest continues the same vertex.
    pub fn vertex(&self, digest: Digest, name: &str) -> VertexLog {
        let mut held = self.held();
        if let Some(known) = held.own.get(&digest) {
            return known.clone();
        }
        let journal = Journal::new(self.solver.core.logs);
        let log = VertexLog::new(Arc::clone(&journal));
        held.own.insert(digest, log.clone());
        drop(held);
        self.log.announce(VertexState {
            digest,
            inputs: Arc::default(),
            name: name.into(),
            started: None,
            completed: None,
            cached: false,
            error: None,
            saved: None,
            progress_group: None,
        });
        journal.subscribe(self.subscriber(digest));
        log
    }

    /// Work outside of the graph that this build alone wants: nothing of it is shown, and it ends with the job at the latest.
    #[must_use]
    pub fn aside(&self, digest: Digest) -> Step {
        let journal = Journal::new(self.solver.core.logs);
        journal.subscribe(Subscriber { log: JobLog::new(0), ..self.subscriber(digest) });
        Step {
            digest,
            cancel: self.cancel.child_token(),
            progress: VertexLog::new(journal),
            named: None,
            slot: Arc::default(),
        }
    }

    /// Fires when this job is cancelled or closed.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Stops this job's work, except what other jobs want too. Its events stay open, so that its
    /// end can be reported.
    pub fn cancel(&self) {
        let mut registry = self.solver.registry();
        let held = self.leave(&mut registry);
        drop(registry);
        // Outputs may do real work when dropped, which must not hold up other jobs.
        drop(held);
    }

    /// Ends this job: as [`Job::cancel`], and ends its events and frees its id.
    pub fn close(&self) {
        let mut registry = self.solver.registry();
        let held = self.leave(&mut registry);
        if self.log.close() {
            registry.forget_job(&self.id);
        }
        drop(registry);
        drop(held);
    }

    /// This job as one that is told of a vertex under this name.
    fn subscriber(&self, digest: Digest) -> Subscriber {
        Subscriber {
            job: self.serial,
            id: Arc::clone(&self.id),
            log: Arc::clone(&self.log),
            digest,
            places: self.places.clone(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held<R>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of all vertices and returns them, to be dropped without any lock.
    fn leave(&self, registry: &mut Registry<R>) -> HashMap<Digest, Arc<Shared<R>>> {
        let mut held = self.held();
        held.left = true;
        self.cancel.cancel();
        let names: Vec<(Digest, Vec<Digest>)> = held
            .shown
            .iter()
            .filter_map(|(digest, shown)| {
                Some((*digest, held.vertices.get(&shown.shared_name)?.names()))
            })
            .collect();
        held.left_names.extend(names);
        for shared in held.vertices.values() {
            if !shared.journal.unsubscribe(self.serial) {
                registry.abandon(shared);
            }
        }
        std::mem::take(&mut held.vertices)
    }

    /// Makes this job one that wants `edge` and everything below it.
    fn hold(&self, edge: &Edge) -> Result<Arc<Shared<R>>, SolveError> {
        let order = inputs_first(&edge.vertex);
        let mut registry = self.solver.registry();
        let mut held = self.held();
        if held.left {
            return Err(SolveError::Canceled);
        }
        let mut done: HashMap<*const Vertex, Arc<Shared<R>>> = HashMap::new();
        for vertex in &order {
            let inputs: Option<Vec<Input<R>>> = vertex
                .inputs
                .iter()
                .map(|input| {
                    let shared = Arc::clone(done.get(&Arc::as_ptr(&input.vertex))?);
                    Some(Input { shared, output: input.output })
                })
                .collect();
            let vertex_digest = vertex.digest;
            let inputs = inputs.ok_or(SolveError::Abandoned { vertex: vertex_digest })?;
            let shared = self.hold_one(vertex, inputs, &mut registry, &mut held);
            done.insert(Arc::as_ptr(vertex), shared);
        }
        let vertex = edge.vertex.digest;
        done.remove(&Arc::as_ptr(&edge.vertex)).ok_or(SolveError::Abandoned { vertex })
    }

    fn hold_one(
        &self,
        vertex: &Arc<Vertex>,
        inputs: Vec<Input<R>>,
        registry: &mut Registry<R>,
        held: &mut Held<R>,
    ) -> Arc<Shared<R>> {
        let below: Vec<(Digest, Digest)> =
            inputs.iter().map(|input| (input.shared.vertex.digest, input.shared.name)).collect();
        let name = key::shared(vertex.digest, vertex.ignore_cache(), &below);
        if let Some(known) = held.vertices.get(&name) {
            return Arc::clone(known);
        }
        // What failed, failed for the jobs that held it then; a new one deserves a new attempt.
        let known = registry
            .vertices
            .get(&name)
            .filter(|known| !known.failed() && known.takes(&inputs))
            .map(Arc::clone);
        let shared = known.unwrap_or_else(|| {
            let shared = Shared::new(&self.solver.core, vertex, name, inputs);
            registry.vertices.insert(name, Arc::clone(&shared));
            shared
        });
        held.vertices.insert(name, Arc::clone(&shared));
        let digest = held.show(vertex, name);
        let inputs = shared.inputs.iter().map(|input| held.shown_as(&input.shared)).collect();
        self.log.announce(VertexState {
            digest,
            inputs,
            name: vertex.name().into(),
            started: None,
            completed: None,
            cached: false,
            error: None,
            saved: None,
            progress_group: vertex.metadata.progress_group.as_option().cloned(),
        });
        shared.journal.subscribe(self.subscriber(digest));
        shared
    }

    /// Replaces another job's source locations by this job's.
    fn localize(&self, error: SolveError) -> SolveError {
        match error {
            SolveError::Step { vertex, name, sources, error } => {
                let held = self.held();
                let own = held.shown.get(&vertex).map(|shown| &shown.vertex);
                let name = own.map_or(name, |own| own.name());
                let sources = own.map_or(sources, |own| own.sources.clone());
                SolveError::Step { vertex, name, sources, error }
            }
            // Work on a vertex that this job holds is cancelled only together with the job.
            other => other,
        }
    }
}

impl<R: Runtime> Held<R> {
    /// Chooses what the vertex is called: its digest, unless the job also holds a twin of it.
    fn show(&mut self, vertex: &Arc<Vertex>, shared_name: Digest) -> Digest {
        let mut digest = vertex.digest;
        while self.shown.get(&digest).is_some_and(|shown| shown.shared_name != shared_name) {
            digest = key::display_twin(digest);
        }
        self.shown.insert(digest, Shown { shared_name, vertex: Arc::clone(vertex) });
        digest
    }

    fn shown_as(&self, shared: &Shared<R>) -> Digest {
        let mut digest = shared.vertex.digest;
        while self.shown.get(&digest).is_some_and(|shown| shown.shared_name != shared.name) {
            digest = key::display_twin(digest);
        }
        digest
    }
}

impl<R: Runtime> Drop for Job<R> {
    fn drop(&mut self) {
        self.close();
    }
}

/// All vertices below and including `target`, inputs before their consumers, each once.
fn inputs_first(target: &Arc<Vertex>) -> Vec<Arc<Vertex>> {
    let mut seen = std::collections::HashSet::from([Arc::as_ptr(target)]);
    let mut order = Vec::new();
    let mut stack = vec![(target, 0)];
    while let Some((vertex, next)) = stack.pop() {
        match vertex.inputs.get(next) {
            None => order.push(Arc::clone(vertex)),
            Some(input) => {
                stack.push((vertex, next + 1));
                if seen.insert(Arc::as_ptr(&input.vertex)) {
                    stack.push((&input.vertex, 0));
                }
            }
        }
    }
    order
}
