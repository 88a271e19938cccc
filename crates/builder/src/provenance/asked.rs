//! Who asked for what during one build: the client, and each frontend in its turn.
//!
//! A tree: the client's own requests at the top, below it one node for each frontend that was run,
//! with the graphs and images it asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use cofferdam_dockerfile::git_fragment;
use cofferdam_provenance::{
    ImageSource, Parameters, RequestProvenance, Sources, filter_args, request_provenance,
};
use cofferdam_wire::pb;

use super::Produced;
use crate::failure::Failure;
use crate::gateway::bridge::Reference;

/// Frontends that run frontends, at most.
const MAX_DEPTH: usize = 16;
/// Frontends that one frontend may run.
const MAX_BELOW: usize = 1_000;
/// Images one frontend may look up; the provenance is marked incomplete above.
const MAX_IMAGES: usize = 10_000;

/// A request to a frontend.
pub(crate) struct FrontendRequest {
    name: String,
    attrs: BTreeMap<String, String>,
    /// Definitions that came with the request.
    pub(crate) inputs: Arc<HashMap<String, pb::Definition>>,
}

impl FrontendRequest {
    /// A request to frontend `name`.
    pub(crate) fn new(
        name: &str,
        attrs: &BTreeMap<String, String>,
        inputs: HashMap<String, pb::Definition>,
    ) -> Self {
        Self { name: name.to_owned(), attrs: attrs.clone(), inputs: Arc::new(inputs) }
    }

    fn is_empty(&self) -> bool {
        self.name.is_empty() && self.attrs.is_empty() && self.inputs.is_empty()
    }
}

/// What one frontend, or the client itself, asked for.
pub(crate) struct Asked {
    /// `None` for the client, which is not asked by anybody.
    request: Option<Arc<FrontendRequest>>,
    /// What the client asked for in the first place.
    root: Arc<FrontendRequest>,
    depth: usize,
    beginning: Beginning,
    /// Names of the builds that may know of this one begin with it.
    scope: String,
    produced: Arc<Produced>,
    seen: Mutex<Seen>,
}

/// When the build began, and what it is called among all builds of all builders.
#[derive(Clone)]
struct Beginning {
    invocation: String,
    time: DateTime<Utc>,
}

#[derive(Default)]
struct Seen {
    images: Vec<ImageSource>,
    references: Vec<Arc<Reference>>,
    below: Vec<Arc<Asked>>,
    /// Keeps what was made known while this lives.
    known: Vec<Arc<RequestProvenance>>,
}

impl Asked {
    /// The top: what a client asked for.
    pub(crate) fn by_client(
        root: FrontendRequest,
        scope: String,
        produced: Arc<Produced>,
    ) -> Result<Arc<Self>, Failure> {
        let (root, seen) = (Arc::new(root), Mutex::default());
        let beginning = Beginning { invocation: crate::worker::random_id()?, time: Utc::now() };
        Ok(Arc::new(Self { request: None, root, depth: 0, beginning, scope, produced, seen }))
    }

    /// What the build is called among all, and when it began.
    pub(super) fn beginning(&self) -> (String, DateTime<Utc>) {
        (self.beginning.invocation.clone(), self.beginning.time)
    }

    /// Definitions that came with the client's request.
    pub(crate) fn inputs(&self) -> Arc<HashMap<String, pb::Definition>> {
        Arc::clone(&self.root.inputs)
    }

    /// A frontend begins to answer `request`.
    pub(crate) fn begin(&self, request: FrontendRequest) -> Result<Arc<Self>, Failure> {
        let root = match &self.request {
            Some(request) if self.root.is_empty() => Arc::clone(request),
            _ => Arc::clone(&self.root),
        };
        let begun = Arc::new(Self {
            request: Some(Arc::new(request)),
            root,
            depth: self.depth + 1,
            beginning: self.beginning.clone(),
            scope: self.scope.clone(),
            produced: Arc::clone(&self.produced),
            seen: Mutex::default(),
        });
        let mut seen = self.seen();
        if self.depth >= MAX_DEPTH || seen.below.len() >= MAX_BELOW {
            return Err(Failure::invalid("the build runs too many frontends"));
        }
        seen.below.push(Arc::clone(&begun));
        Ok(begun)
    }

    /// A graph was asked for.
    pub(crate) fn made(&self, reference: &Arc<Reference>) {
        self.seen().references.push(Arc::clone(reference));
    }

    /// An image was looked up.
    pub(crate) fn looked_up(&self, image: ImageSource) {
        let mut seen = self.seen();
        if seen.images.len() < MAX_IMAGES && !seen.images.contains(&image) {
            seen.images.push(image);
        }
    }

    /// What a frontend answered may be an input of other requests.
    pub(crate) fn answered(self: &Arc<Self>, results: impl Iterator<Item = Arc<Reference>>) {
        for reference in results {
            let Some(target) = reference.graph().target() else { continue };
            let Some(maker) = self.maker(&reference) else { continue };
            let Some(request) = maker.told(&Sources::default()) else { continue };
            let known = self.produced.add(&self.scope, target.vertex.digest, request);
            self.seen().known.push(known);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self) -> Vec<Arc<Self>> {
        self.seen().below.clone()
    }

    /// The innermost request that made `reference`.
    pub(super) fn maker(self: &Arc<Self>, reference: &Arc<Reference>) -> Option<Arc<Self>> {
        if let Some(found) = self.below().iter().find_map(|below| below.maker(reference)) {
            return Some(found);
        }
        let made = self.seen().references.iter().any(|made| Arc::ptr_eq(made, reference));
        made.then(|| Arc::clone(self))
    }

    /// Every graph that was asked for here and below.
    pub(super) fn references(&self) -> Vec<Arc<Reference>> {
        let mut all = self.seen().references.clone();
        for below in self.below() {
            all.extend(below.references());
        }
        all
    }

    /// Every image that was looked up here and below.
    pub(super) fn images(&self) -> Vec<ImageSource> {
        let mut all = self.seen().images.clone();
        for below in self.below() {
            all.extend(below.images());
        }
        all
    }

    /// The parameters of this request; empty for what a client asks for itself.
    pub(super) fn parameters(&self, sources: &Sources) -> Parameters {
        let Some(request) = &self.request else { return Parameters::default() };
        // Clients' directories are the crate's to fill in.
        let mut parameters = Parameters::default();
        parameters.frontend.clone_from(&request.name);
        parameters.args = filter_args(&request.attrs);
        parameters.inputs = self.inputs_of(request);
        parameters.root = self.root_of(sources).map(Box::new);
        parameters
    }

    /// This request as it is told of in others.
    fn told(&self, sources: &Sources) -> Option<RequestProvenance> {
        let request = self.request.as_ref()?;
        let mut told = self.tell(request, sources);
        if let Some(parameters) = &mut told.request {
            parameters.root = self.root_of(sources).map(Box::new);
        }
        Some(told)
    }

    fn tell(&self, request: &FrontendRequest, sources: &Sources) -> RequestProvenance {
        let args = filter_args(&request.attrs);
        let mut told = request_provenance(&request.name, args, sources, &git_fragment);
        if let Some(parameters) = &mut told.request {
            parameters.inputs = self.inputs_of(request);
        }
        told
    }

    /// What the client asked for, unless that is this.
    fn root_of(&self, sources: &Sources) -> Option<RequestProvenance> {
        let root = self.tell(&self.root, sources);
        let own = self.request.as_ref().map(|own| self.tell(own, sources));
        let says_something = root.request.as_ref().is_some_and(|request| !request.is_empty());
        (says_something && Some(&root) != own.as_ref()).then_some(root)
    }

    fn inputs_of(&self, request: &FrontendRequest) -> BTreeMap<String, RequestProvenance> {
        let find = |(name, definition): (&String, &pb::Definition)| {
            Some((name.clone(), self.produced.find(&self.scope, definition)?))
        };
        request.inputs.iter().filter_map(find).collect()
    }
}
