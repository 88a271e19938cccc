//! One build as frontends see it: graphs go in, opaque references come out, and files of their
//! results can be read.
//!
//! The built-in frontend and clients that drive the build themselves use the same bridge.
//! Results are lazy: a graph is loaded and checked when it arrives and solved when somebody
//! looks at it. References belong to this build alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_dockerfile::Built;
use cofferdam_graph::{Edge, Graph, Limits};
use cofferdam_solver::{Job, Warning};
use cofferdam_wire::pb;
use futures::FutureExt;
use tokio::sync::{OnceCell, watch};

pub(crate) use super::answer::{Answer, AnswerRefs, to_wire};
use super::containers::Containers;
use super::entitlements::Granted;
use super::policy::Rules;
use crate::attest::{self, Content};
use crate::cache::import::{ImportRequest, ImportedCache};
use crate::context::Context;
use crate::error_details;
use crate::export::{Output, Refs};
use crate::failure::Failure;
use crate::provenance::{Asked, FrontendRequest};
use crate::runtime::OpRuntime;
use crate::snapshot::Snapshot;

/// References one build may hold; each holds its graph.
const MAX_REFERENCES: usize = 10_000;

/// Build ops that one build may have.
const MAX_NESTED: usize = 100;

/// Caches that one build may import, and how long all attributes of one may be; each is remembered.
const MAX_IMPORTS: usize = 100;
const MAX_IMPORT: usize = 64 << 10;

/// A result that may not have been solved yet.
pub(crate) struct Reference {
    /// What the build calls it.
    pub(crate) id: String,
    /// The graph as it arrived, for clients that build upon it.
    pub(crate) definition: pb::Definition,
    graph: Graph,
    result: OnceCell<Snapshot>,
}

impl Reference {
    /// The graph, checked; its target stands for this reference.
    pub(crate) const fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether somebody asked for the result and got it.
    pub(crate) fn is_solved(&self) -> bool {
        self.result.initialized()
    }
}

/// What a client driving the build itself has said in the end.
#[derive(Clone)]
pub(crate) enum Verdict {
    /// Nothing yet.
    Pending,
    /// The result.
    Done(Answer),
    /// The failure.
    Failed(Failure),
}

/// One build's bridge, as one frontend of it has it.
#[derive(Clone)]
pub(crate) struct Bridge {
    /// The builder's parts.
    pub(crate) context: Arc<Context>,
    /// The build's job.
    pub(crate) job: Arc<Job<OpRuntime>>,
    /// The client's session, as the client calls it.
    pub(crate) session: String,
    /// The same as it is called in this builder, if there is one.
    pub(crate) sessions: Vec<String>,
    /// Platforms of the worker.
    pub(crate) platforms: Vec<pb::Platform>,
    /// Definitions that came with the request.
    pub(crate) inputs: Arc<HashMap<String, pb::Definition>>,
    /// What was asked through this bridge, for the build's provenance.
    pub(crate) asked: Arc<Asked>,
    rules: Arc<Rules>,
    verdict: Arc<watch::Sender<Verdict>>,
    held: Arc<Held>,
}

/// What all bridges of a build share.
struct Held {
    granted: Granted,
    containers: Containers,
    /// What failed steps left, by names that clients were told.
    left: Mutex<HashMap<String, Snapshot>>,
    references: Mutex<HashMap<String, Arc<Reference>>>,
    /// Graphs that were found in files and solved.
    nested: AtomicUsize,
    solved: Mutex<Vec<Edge>>,
    imported: Mutex<Vec<ImportRequest>>,
    /// Whether the client was told that not every cache is imported.
    told: AtomicBool,
}

/// What becomes of a request for a cache.
#[derive(Debug, PartialEq, Eq)]
enum Import {
    Begin,
    Known,
    TooMuch,
}

/// Remembers `request` among those `imported`, if it is new and there is room for it.
fn remember(imported: &mut Vec<ImportRequest>, request: &ImportRequest) -> Import {
    if imported.contains(request) {
        return Import::Known;
    }
    let attrs = request.attrs.iter().map(|(key, value)| key.len().saturating_add(value.len()));
    let size = attrs.fold(request.kind.len(), usize::saturating_add);
    if imported.len() >= MAX_IMPORTS || size > MAX_IMPORT {
        return Import::TooMuch;
    }
    imported.push(request.clone());
    Import::Begin
}

impl Bridge {
    /// A bridge for a job.
    pub(crate) fn new(
        context: Arc<Context>,
        job: Arc<Job<OpRuntime>>,
        session: String,
        sessions: Vec<String>,
        platforms: Vec<pb::Platform>,
        asked: Arc<Asked>,
        granted: Granted,
    ) -> Arc<Self> {
        Arc::new(Self {
            context,
            job,
            session,
            sessions,
            platforms,
            inputs: asked.inputs(),
            asked,
            rules: Arc::default(),
            verdict: Arc::new(watch::Sender::new(Verdict::Pending)),
            held: Arc::new(Held {
                granted,
                containers: Containers::default(),
                left: Mutex::default(),
                references: Mutex::default(),
                nested: AtomicUsize::new(0),
                solved: Mutex::default(),
                imported: Mutex::default(),
                told: AtomicBool::new(false),
            }),
        })
    }

    /// The same build's bridge for a frontend that answers `request`: what it asks is told apart
    /// in the provenance.
    fn within(&self, request: FrontendRequest) -> Result<Arc<Self>, Failure> {
        self.held.containers.frontend()?;
        let inputs = Arc::clone(&request.inputs);
        let verdict = Arc::new(watch::Sender::new(Verdict::Pending));
        Ok(Arc::new(Self { inputs, verdict, asked: self.asked.begin(request)?, ..self.clone() }))
    }

    /// The same bridge under these rules about sources.
    pub(crate) fn under(&self, rules: Rules) -> Arc<Self> {
        Arc::new(Self { rules: Arc::new(rules), ..self.clone() })
    }

    /// The rules about sources.
    pub(super) const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Loads a graph, checks what it asks for and what it may use, and names it.
    pub(crate) async fn reference(
        &self,
        definition: pb::Definition,
    ) -> Result<Arc<Reference>, Failure> {
        let graph = cofferdam_graph::load(&definition, &Limits::default()).map_err(|error| {
            Failure::invalid(crate::failure::chain(&error)).during("failed to load LLB")
        })?;
        self.held.granted.check(&graph, &self.context.devices)?;
        let (definition, graph) = self.govern_graph(definition, graph).await?;
        let reference = Arc::new(Reference {
            id: crate::worker::random_id()?,
            definition,
            graph,
            result: OnceCell::new(),
        });
        let mut references = self.held.references.lock().unwrap_or_else(PoisonError::into_inner);
        if references.len() >= MAX_REFERENCES {
            return Err(Failure::invalid("the build holds too many references"));
        }
        references.insert(reference.id.clone(), Arc::clone(&reference));
        drop(references);
        self.asked.made(&reference);
        Ok(reference)
    }

    /// The reference a client calls `id`; the empty id is scratch.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Arc<Reference>>, Failure> {
        if id.is_empty() {
            return Ok(None);
        }
        let references = self.held.references.lock().unwrap_or_else(PoisonError::into_inner);
        match references.get(id) {
            Some(reference) => Ok(Some(Arc::clone(reference))),
            None => Err(Failure::not_found(format!("no such ref: {id}"))),
        }
    }

    /// What the build was granted.
    pub(super) fn granted(&self) -> &Granted {
        &self.held.granted
    }

    /// The build's containers.
    pub(super) fn containers(&self) -> &Containers {
        &self.held.containers
    }

    /// What failed steps left.
    pub(super) fn left(&self) -> std::sync::MutexGuard<'_, HashMap<String, Snapshot>> {
        self.held.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a failed step left under this name.
    pub(super) fn left_behind(&self, id: &str) -> Option<Snapshot> {
        self.left().get(id).cloned()
    }

    /// Solves a reference, once.
    pub(crate) async fn evaluate(&self, reference: &Reference) -> Result<Snapshot, Failure> {
        let solve = || async {
            let Some(edge) = reference.graph.target() else { return Ok(Snapshot::scratch()) };
            let snapshot = self
                .job
                .solve(edge)
                .await
                .map_err(|error| self.explain(&error, &reference.graph))?;
            self.held.solved.lock().unwrap_or_else(PoisonError::into_inner).push(edge.clone());
            Ok(snapshot)
        };
        reference.result.get_or_try_init(solve).await.cloned()
    }

    /// Names the result of a graph that a step found in a file. Steps can write such graphs themselves, each asking for one more.
    pub(crate) async fn nested(
        &self,
        definition: pb::Definition,
    ) -> Result<Arc<Reference>, Failure> {
        if self.held.nested.fetch_add(1, Ordering::Relaxed) >= MAX_NESTED {
            return Err(Failure::invalid(format!("more than {MAX_NESTED} build ops in one build")));
        }
        self.reference(definition).await
    }

    /// Every vertex whose result this build has asked for, with what lies below.
    pub(crate) fn solved(&self) -> Vec<Edge> {
        self.held.solved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Solves everything an answer refers to, side by side.
    pub(crate) async fn output(&self, answer: &Answer) -> Result<Output, Failure> {
        let solve = |reference: Option<Arc<Reference>>| async move {
            match reference {
                Some(reference) => Ok::<_, Failure>(Some(self.evaluate(&reference).await?)),
                None => Ok(None),
            }
        };
        let refs = match &answer.refs {
            AnswerRefs::Single(reference) => Refs::Single(solve(reference.clone()).await?),
            AnswerRefs::Map(map) => {
                let all = map.iter().map(|(_, reference)| solve(reference.clone()));
                let snapshots = futures::future::try_join_all(all).await?;
                Refs::Map(map.iter().map(|(id, _)| id.clone()).zip(snapshots).collect())
            }
        };
        let mut attestations = BTreeMap::new();
        for (platform, promised) in &answer.attestations {
            let mut ready = Vec::with_capacity(promised.len());
            for attestation in promised {
                let files = match &attestation.content {
                    Some(reference) => Content::Files(self.evaluate(reference).await?),
                    None => Content::None,
                };
                ready.push(attestation.clone().with(files));
            }
            attestations.insert(platform.clone(), ready);
        }
        Ok(Output { refs, metadata: answer.metadata.clone(), attestations })
    }

    /// Makes caches available to everything solved from now on; trouble is shown, not fatal.
    pub(crate) async fn import(&self, requests: Vec<ImportRequest>) {
        let sessions = self.sessions.clone();
        for request in requests {
            let import = {
                let mut imported =
                    self.held.imported.lock().unwrap_or_else(PoisonError::into_inner);
                remember(&mut imported, &request)
            };
            match import {
                Import::Begin => {}
                Import::Known => continue,
                Import::TooMuch => {
                    self.imports_no_more();
                    continue;
                }
            }
            let name = format!("importing cache manifest from {}", request.name());
            let digest = cofferdam_digest::Digest::of(format!("{}:{name}", self.job.id()));
            let log = self.job.vertex(digest, &name);
            log.start();
            let names = request.name();
            let load = ImportedCache::load(&self.context, &request, &sessions);
            match self.context.online.during(&log, &names, load).await {
                Ok(cache) => {
                    self.context.imports_of(self.job.id()).add(cache);
                    log.complete();
                }
                Err(failure) => log.fail(failure.message()),
            }
        }
    }

    /// Says once that a cache is left out.
    fn imports_no_more(&self) {
        if self.held.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let name = "importing more caches";
        let digest = cofferdam_digest::Digest::of(format!("{}:{name}", self.job.id()));
        let log = self.job.vertex(digest, name);
        log.start();
        log.fail(&format!("a build imports at most {MAX_IMPORTS} caches, each of few attributes"));
    }

    /// Runs a built-in frontend.
    pub(crate) async fn frontend(
        self: &Arc<Self>,
        name: &str,
        attrs: BTreeMap<String, String>,
        inputs: HashMap<String, pb::Definition>,
    ) -> Result<Answer, Failure> {
        let source = attrs.get("source").map_or("", String::as_str);
        if name == "gateway.v0" && is_builtin(source) {
            // The name of the frontend is all that such a request adds.
            let mut attrs = attrs;
            attrs.remove("source");
            return Box::pin(self.frontend("dockerfile.v0", attrs, inputs)).await;
        }
        let within = self.within(FrontendRequest::new(name, &attrs, inputs))?;
        let answer = match name {
            "dockerfile.v0" => within.dockerfile(&attrs).boxed().await?,
            "buildpacks.v0" => within.buildpacks(&attrs).boxed().await?,
            // Boxed: it may ask for other frontends.
            "gateway.v0" => within.image_frontend(&attrs).boxed().await?,
            other => return Err(Failure::invalid(format!("invalid frontend: {other}"))),
        };
        within.asked.answered(answer.references());
        Ok(answer)
    }

    async fn dockerfile(
        self: &Arc<Self>,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Answer, Failure> {
        let nothing = |input: &pb::Definition| input.def.is_empty() && input.metadata.is_empty();
        if self.inputs.values().any(nothing) {
            return Err(Failure::invalid("invalid nil input definition to definition op"));
        }
        let client = super::dockerfile::FrontendClient::new(Arc::clone(self));
        // A large Dockerfile's conversion must not starve other builds of their threads.
        let built = cofferdam_dockerfile::build(&client, attrs).await;
        let mut built = built.map_err(|error| error_details::of_frontend(&error))?;
        if let Some(answer) = client.forwarded() {
            return Ok(answer);
        }
        let scans = std::mem::take(&mut built.scans);
        let mut answer = self.answer(built).await?;
        answer.attestations = attest::scans(self, attrs, scans, &answer).await?;
        Ok(answer)
    }

    async fn buildpacks(
        self: &Arc<Self>,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Answer, Failure> {
        // Boxed: extensions run the Dockerfile frontend, which comes through here again.
        let built = Box::pin(crate::buildpacks::build(self, attrs)).await?;
        let reference = self.reference(built.definition).await?;
        let refs = AnswerRefs::Single(Some(reference));
        Ok(Answer { refs, metadata: built.metadata, ..Answer::default() })
    }

    async fn answer(&self, built: Built) -> Result<Answer, Failure> {
        let mut refs = Vec::with_capacity(built.refs.len());
        for built in built.refs {
            let reference = match built.definition {
                Some(definition) => Some(self.reference(definition).await?),
                None => None,
            };
            refs.push((built.platform, reference));
        }
        let refs = if built.single {
            AnswerRefs::Single(refs.pop().and_then(|(_, reference)| reference))
        } else {
            AnswerRefs::Map(refs)
        };
        Ok(Answer { refs, metadata: built.metadata, ..Answer::default() })
    }

    /// Settles the build of a client that drives it itself.
    pub(crate) fn settle(&self, verdict: Verdict) {
        self.verdict.send_replace(verdict);
    }

    /// What was said so far.
    pub(super) fn settled(&self) -> Verdict {
        self.verdict.borrow().clone()
    }

    /// Waits until such a client has settled the build.
    pub(crate) async fn verdict(&self) -> Result<Answer, Failure> {
        let mut verdict = self.verdict.subscribe();
        let settled = verdict.wait_for(|verdict| !matches!(verdict, Verdict::Pending)).await;
        match settled.as_deref() {
            Ok(Verdict::Done(answer)) => Ok(answer.clone()),
            Ok(Verdict::Failed(failure)) => Err(failure.clone()),
            _ => Err(Failure::canceled()),
        }
    }

    /// Shows a warning next to a vertex.
    pub(crate) fn warn(&self, vertex: cofferdam_digest::Digest, warning: Warning) {
        self.job.vertex(vertex, "").warning(warning);
    }
}

/// Whether a frontend image's name means the frontend that is built in.
fn is_builtin(source: &str) -> bool {
    let name = source.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.split(':').next().unwrap_or_default();
    matches!(name, "dockerfile.v0" | "docker/dockerfile" | "docker/dockerfile-upstream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_caches_are_imported_and_each_once() {
        let request = |number: usize, value: &str| ImportRequest {
            kind: "registry".to_owned(),
            attrs: BTreeMap::from([("ref".to_owned(), format!("{value}{number}"))]),
        };
        let mut imported = Vec::new();
        for number in 0..MAX_IMPORTS {
            assert_eq!(remember(&mut imported, &request(number, "a")), Import::Begin);
        }
        assert_eq!(remember(&mut imported, &request(0, "a")), Import::Known);
        assert_eq!(remember(&mut imported, &request(MAX_IMPORTS, "a")), Import::TooMuch);
        imported.clear();
        let huge = "x".repeat(MAX_IMPORT);
        assert_eq!(remember(&mut imported, &request(0, &huge)), Import::TooMuch);
        assert!(imported.is_empty());
    }
}
