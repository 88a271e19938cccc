//! Who asked for what during one build: the client, and each frontend in its turn.
//!
//! A tree: the client's own requests at the top, below it one node for each frontend that was run,
//! with the graphs and images it asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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

/// The frontend that is an image, and the attribute with which a build lets it reach the network.
const IMAGE_FRONTEND: &str = "gateway.v0";
const NETWORK: (&str, &str) = ("frontend-network", "default");

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

    fn has_network(&self) -> bool {
        let wanted = self.attrs.get(NETWORK.0).is_some_and(|value| value == NETWORK.1);
        wanted && self.name == IMAGE_FRONTEND
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
    /// This as requests tell of it whose inputs were made here; one for all that was made.
    told: OnceLock<Option<Arc<RequestProvenance>>>,
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
    /// More images were looked up than are kept.
    lost: bool,
    references: Vec<Arc<Reference>>,
    below: Vec<Arc<Asked>>,
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
        let told = OnceLock::new();
        Ok(Arc::new(Self { request: None, root, depth: 0, beginning, scope, produced, seen, told }))
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
            told: OnceLock::new(),
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
        if seen.images.contains(&image) {
            return;
        }
        if seen.images.len() < MAX_IMAGES {
            seen.images.push(image);
        } else {
            seen.lost = true;
        }
    }

    /// What a frontend answered may be an input of other requests.
    pub(crate) fn answered(self: &Arc<Self>, results: impl Iterator<Item = Arc<Reference>>) {
        for reference in results {
            let Some(target) = reference.graph().target() else { continue };
            let Some(maker) = self.maker(&reference) else { continue };
            let Some(request) = maker.told() else { continue };
            self.produced.add(&self.scope, target.vertex.digest, request);
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

    /// Whether not every image that was looked up here and below is known.
    pub(super) fn is_incomplete(&self) -> bool {
        let lost = self.seen().lost;
        lost || self.below().iter().any(|below| below.is_incomplete())
    }

    /// Whether a frontend here or below could reach a network: what it answers may depend on that.
    pub(super) fn had_network(&self) -> bool {
        let own = self.request.as_ref().is_some_and(|request| request.has_network());
        own || self.below().iter().any(|below| below.had_network())
    }

    /// The parameters of this request; empty for what a client asks for itself.
    pub(super) fn parameters(&self, sources: &Sources) -> Parameters {
        let Some(request) = &self.request else { return Parameters::default() };
        // Clients' directories are the crate's to fill in.
        let mut parameters = Parameters::default();
        parameters.frontend.clone_from(&request.name);
        parameters.args = filter_args(&request.attrs);
        self.add_inputs(request, &mut parameters);
        let root = self.root_of(sources);
        parameters.incomplete |= root
            .as_ref()
            .and_then(|root| root.request.as_ref())
            .is_some_and(|request| request.incomplete);
        parameters.root = root.map(Box::new);
        parameters
    }

    /// This request as it is told of in others.
    fn told(&self) -> Option<&Arc<RequestProvenance>> {
        let tell = || {
            let request = self.request.as_ref()?;
            Some(Arc::new(self.tell(request, &Sources::default())))
        };
        self.told.get_or_init(tell).as_ref()
    }

    fn tell(&self, request: &FrontendRequest, sources: &Sources) -> RequestProvenance {
        let args = filter_args(&request.attrs);
        let mut told = request_provenance(&request.name, args, sources, &git_fragment);
        if let Some(parameters) = &mut told.request {
            self.add_inputs(request, parameters);
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

    /// Adds the requests that made the inputs of `request`, always in one order: there may not be room for all.
    fn add_inputs(&self, request: &FrontendRequest, parameters: &mut Parameters) {
        let mut inputs: Vec<(&String, &pb::Definition)> = request.inputs.iter().collect();
        inputs.sort_by(|a, b| a.0.cmp(b.0));
        for (name, definition) in inputs {
            if let Some(made) = self.produced.find(&self.scope, definition) {
                parameters.add_input(name, &made);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(name: &str, attrs: &[(&str, &str)]) -> FrontendRequest {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        FrontendRequest::new(name, &attrs.collect(), HashMap::new())
    }

    fn client() -> Arc<Asked> {
        Asked::by_client(request("", &[]), "scope".to_owned(), Arc::default()).unwrap()
    }

    #[test]
    fn frontends_with_network_are_known() {
        let asked = client();
        let with = [("frontend-network", "default")];
        let dockerfile = asked.begin(request("dockerfile.v0", &with)).unwrap();
        dockerfile.begin(request(IMAGE_FRONTEND, &[("frontend-network", "none")])).unwrap();
        assert!(!asked.had_network());
        dockerfile.begin(request(IMAGE_FRONTEND, &with)).unwrap();
        assert!(asked.had_network());
    }

    #[test]
    fn images_that_are_left_out_are_noted() {
        let asked = client();
        let below = asked.begin(request("dockerfile.v0", &[])).unwrap();
        let image = |number: usize| ImageSource {
            reference: number.to_string(),
            platform: None,
            digest: None,
            local: false,
        };
        below.seen().images = (0..MAX_IMAGES).map(image).collect();
        below.looked_up(image(0));
        assert!(!asked.is_incomplete());
        below.looked_up(image(MAX_IMAGES));
        assert!(asked.is_incomplete());
    }
}
