//! One build as frontends see it: graphs go in, opaque references come out, and files of their
//! results can be read.
//!
//! The built-in frontend and clients that drive the build themselves use the same bridge.
//! Results are lazy: a graph is loaded and checked when it arrives and solved when somebody
//! looks at it. References belong to this build alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_dockerfile::Built;
use cofferdam_graph::{Edge, Graph, Limits};
use cofferdam_solver::{Job, Warning};
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::pb;
use tokio::sync::{OnceCell, watch};

use super::entitlements::Granted;
use crate::cache::import::{ImportRequest, ImportedCache};
use crate::context::Context;
use crate::error_details;
use crate::export::{Output, Refs};
use crate::failure::Failure;
use crate::runtime::OpRuntime;
use crate::snapshot::Snapshot;

/// References one build may hold; each holds its graph.
const MAX_REFERENCES: usize = 10_000;

/// A result that may not have been solved yet.
pub(crate) struct Reference {
    /// What the build calls it.
    pub(crate) id: String,
    /// The graph as it arrived, for clients that build upon it.
    pub(crate) definition: pb::Definition,
    graph: Graph,
    result: OnceCell<Snapshot>,
}

/// A frontend's answer: references instead of files.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    /// References by platform, or the only one.
    pub(crate) refs: AnswerRefs,
    /// Metadata.
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
}

/// The references of an answer.
#[derive(Clone)]
pub(crate) enum AnswerRefs {
    /// One; `None` is scratch.
    Single(Option<Arc<Reference>>),
    /// One per platform id.
    Map(Vec<(String, Option<Arc<Reference>>)>),
}

impl Default for AnswerRefs {
    fn default() -> Self {
        Self::Single(None)
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

/// One build's bridge.
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
    pub(crate) inputs: HashMap<String, pb::Definition>,
    granted: Granted,
    references: Mutex<HashMap<String, Arc<Reference>>>,
    verdict: watch::Sender<Verdict>,
    solved: Mutex<Vec<Edge>>,
    imported: Mutex<Vec<ImportRequest>>,
}

impl Bridge {
    /// A bridge for a job.
    pub(crate) fn new(
        context: Arc<Context>,
        job: Arc<Job<OpRuntime>>,
        session: String,
        sessions: Vec<String>,
        platforms: Vec<pb::Platform>,
        inputs: HashMap<String, pb::Definition>,
        granted: Granted,
    ) -> Arc<Self> {
        Arc::new(Self {
            context,
            job,
            session,
            sessions,
            platforms,
            inputs,
            granted,
            references: Mutex::default(),
            verdict: watch::Sender::new(Verdict::Pending),
            solved: Mutex::default(),
            imported: Mutex::default(),
        })
    }

    /// Loads a graph, checks what it asks for, and names it.
    pub(crate) fn reference(&self, definition: pb::Definition) -> Result<Arc<Reference>, Failure> {
        let graph = cofferdam_graph::load(&definition, &Limits::default()).map_err(|error| {
            Failure::invalid(crate::failure::chain(&error)).during("failed to load LLB")
        })?;
        self.granted.check(&graph)?;
        let reference = Arc::new(Reference {
            id: crate::worker::random_id()?,
            definition,
            graph,
            result: OnceCell::new(),
        });
        let mut references = self.references.lock().unwrap_or_else(PoisonError::into_inner);
        if references.len() >= MAX_REFERENCES {
            return Err(Failure::invalid("the build holds too many references"));
        }
        references.insert(reference.id.clone(), Arc::clone(&reference));
        Ok(reference)
    }

    /// The reference a client calls `id`; the empty id is scratch.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Arc<Reference>>, Failure> {
        if id.is_empty() {
            return Ok(None);
        }
        let references = self.references.lock().unwrap_or_else(PoisonError::into_inner);
        match references.get(id) {
            Some(reference) => Ok(Some(Arc::clone(reference))),
            None => Err(Failure::not_found(format!("no such ref: {id}"))),
        }
    }

    /// Solves a reference, once.
    pub(crate) async fn evaluate(&self, reference: &Reference) -> Result<Snapshot, Failure> {
        let solve = || async {
            let Some(edge) = reference.graph.target() else { return Ok(Snapshot::scratch()) };
            let snapshot = self
                .job
                .solve(edge)
                .await
                .map_err(|error| error_details::of_solve(&error, &reference.graph))?;
            self.solved.lock().unwrap_or_else(PoisonError::into_inner).push(edge.clone());
            Ok(snapshot)
        };
        reference.result.get_or_try_init(solve).await.cloned()
    }

    /// Every vertex whose result this build has asked for, with what lies below.
    pub(crate) fn solved(&self) -> Vec<Edge> {
        self.solved.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        Ok(Output { refs, metadata: answer.metadata.clone() })
    }

    /// Makes caches available to everything solved from now on; trouble is shown, not fatal.
    pub(crate) async fn import(&self, requests: Vec<ImportRequest>) {
        let sessions = self.sessions.clone();
        for request in requests {
            {
                let mut imported = self.imported.lock().unwrap_or_else(PoisonError::into_inner);
                if imported.contains(&request) {
                    continue;
                }
                imported.push(request.clone());
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

    /// Runs a built-in frontend.
    pub(crate) async fn frontend(
        self: &Arc<Self>,
        name: &str,
        attrs: BTreeMap<String, String>,
        inputs: HashMap<String, pb::Definition>,
    ) -> Result<Answer, Failure> {
        match name {
            "dockerfile.v0" => self.dockerfile(&attrs, inputs).await,
            "buildpacks.v0" => self.buildpacks(&attrs).await,
            "gateway.v0" => {
                let source = attrs.get("source").map_or("", String::as_str);
                if is_builtin(source) {
                    self.dockerfile(&attrs, inputs).await
                } else {
                    Err(Failure::new(
                        connectrpc::ErrorCode::Unimplemented,
                        format!(
                            "frontend image {source:?} cannot run here: only docker/dockerfile, \
                             which is built in, is available"
                        ),
                    ))
                }
            }
            other => Err(Failure::invalid(format!("invalid frontend: {other}"))),
        }
    }

    async fn dockerfile(
        self: &Arc<Self>,
        attrs: &BTreeMap<String, String>,
        inputs: HashMap<String, pb::Definition>,
    ) -> Result<Answer, Failure> {
        let client = super::dockerfile::FrontendClient::new(Arc::clone(self), inputs);
        // A large Dockerfile's conversion must not starve other builds of their threads.
        let built = cofferdam_dockerfile::build(&client, attrs).await;
        let built = built.map_err(|error| error_details::of_frontend(&error))?;
        self.answer(built)
    }

    async fn buildpacks(
        self: &Arc<Self>,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Answer, Failure> {
        // Boxed: extensions run the Dockerfile frontend, which comes through here again.
        let built = Box::pin(crate::buildpacks::build(self, attrs)).await?;
        let reference = self.reference(built.definition)?;
        let refs = AnswerRefs::Single(Some(reference));
        Ok(Answer { refs, metadata: built.metadata })
    }

    fn answer(&self, built: Built) -> Result<Answer, Failure> {
        let mut refs = Vec::with_capacity(built.refs.len());
        for built in built.refs {
            let reference = match built.definition {
                Some(definition) => Some(self.reference(definition)?),
                None => None,
            };
            refs.push((built.platform, reference));
        }
        let refs = if built.single {
            AnswerRefs::Single(refs.pop().and_then(|(_, reference)| reference))
        } else {
            AnswerRefs::Map(refs)
        };
        Ok(Answer { refs, metadata: built.metadata })
    }

    /// Settles the build of a client that drives it itself.
    pub(crate) fn settle(&self, verdict: Verdict) {
        self.verdict.send_replace(verdict);
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

/// The answer on the wire.
pub(crate) fn to_wire(answer: &Answer) -> wire::FrontendResult {
    use wire::__buffa::oneof::frontend_result::Result as Kind;
    let reference = |reference: &Option<Arc<Reference>>| match reference {
        Some(reference) => wire::Ref {
            id: reference.id.clone(),
            def: buffa::MessageField::some(reference.definition.clone()),
            ..wire::Ref::default()
        },
        None => wire::Ref::default(),
    };
    let result = match &answer.refs {
        AnswerRefs::Single(single) => Kind::from(reference(single)),
        AnswerRefs::Map(map) => {
            let refs = map.iter().map(|(id, single)| (id.clone(), reference(single))).collect();
            Kind::from(wire::RefMap { refs, ..wire::RefMap::default() })
        }
    };
    wire::FrontendResult {
        result: Some(result),
        metadata: answer.metadata.clone().into_iter().collect(),
        ..wire::FrontendResult::default()
    }
}

impl Bridge {
    /// The answer a client returned.
    pub(crate) fn accept(&self, result: wire::FrontendResult) -> Result<Answer, Failure> {
        use wire::__buffa::oneof::frontend_result::Result as Kind;
        let refs = match result.result {
            None => AnswerRefs::Single(None),
            Some(Kind::RefDeprecated(id)) => AnswerRefs::Single(self.find(&id)?),
            Some(Kind::Ref(reference)) => AnswerRefs::Single(self.find(&reference.id)?),
            Some(Kind::RefsDeprecated(map)) => AnswerRefs::Map(
                map.refs
                    .iter()
                    .map(|(key, id)| Ok((key.clone(), self.find(id)?)))
                    .collect::<Result<_, Failure>>()?,
            ),
            Some(Kind::Refs(map)) => AnswerRefs::Map(
                map.refs
                    .iter()
                    .map(|(key, reference)| Ok((key.clone(), self.find(&reference.id)?)))
                    .collect::<Result<_, Failure>>()?,
            ),
        };
        Ok(Answer { refs, metadata: result.metadata.into_iter().collect() })
    }
}
