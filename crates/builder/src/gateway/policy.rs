//! Source policies of a build: rules that came with it, and a client that decides for itself.
//!
//! Every source is asked about before anything of it is looked up: in each graph, and for each image that is resolved by name. What
//! cannot be asked about is not used. A source is judged by the one name that it has however it is written, and from then on is
//! written so: what is fetched is what was judged. What a client is told on its way to a decision is what it could find out itself.
//! Nothing here may show or keep the user and password of a URL.

mod rules;

use std::collections::HashMap;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_graph::{Graph, Limits, default_platform, with_sources};
use cofferdam_image::Reference as ImageReference;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::moby::buildkit::v1::sourcepolicy as policy;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::op::Op;
use futures::stream::{StreamExt, TryStreamExt};
use policy::policysession::__buffa::oneof::check_policy_response::Result as Answer;
use policy::policysession::{CheckPolicyRequest, DecisionResponse};

pub(crate) use self::rules::Rules;
use self::rules::{IMAGE, forget_moved, is_same};
use super::bridge::Bridge;
use crate::failure::Failure;
use crate::source::git_bundle::BUNDLE;

/// How often a client may be asked about one source.
const MAX_QUESTIONS: usize = 10;
/// Sources that are asked about at the same time.
const AT_ONCE: usize = 16;
/// Typed detail of a decision.
const DECISION: &str = "github.com/moby/buildkit/policysession.DecisionResponse+json";

/// A source as the client is asked about it.
#[derive(Clone, Copy)]
struct Judged<'a> {
    source: &'a pb::SourceOp,
    private: Option<&'a str>,
}

impl Judged<'_> {
    /// The source as it is fetched.
    fn used(self) -> pb::SourceOp {
        let mut source = self.source.clone();
        if let Some(url) = self.private {
            url.clone_into(&mut source.identifier);
        }
        source
    }
}

impl Bridge {
    /// The same bridge under more rules.
    pub(super) async fn governed_by(
        self: &Arc<Self>,
        more: Vec<policy::Policy>,
    ) -> Result<Arc<Self>, Failure> {
        if more.is_empty() {
            return Ok(Arc::clone(self));
        }
        let rules = Rules::clone(self.rules()).and(more).await?;
        Ok(self.under(rules))
    }

    /// A definition with the sources that its build may use, and its graph.
    pub(super) async fn govern_graph(
        &self,
        definition: pb::Definition,
        graph: Graph,
    ) -> Result<(pb::Definition, Graph), Failure> {
        if self.rules().is_empty() {
            return Ok((definition, graph));
        }
        // Its result is shared with builds under other rules, and its sources are not known yet.
        if graph.vertices().any(|vertex| matches!(vertex.op.op, Some(Op::Build(_)))) {
            return Err(Failure::invalid("a build op cannot be used under source policies"));
        }
        let sources: Vec<(Digest, pb::SourceOp, pb::Platform)> = graph
            .vertices()
            .filter_map(|vertex| match &vertex.op.op {
                Some(Op::Source(source)) => {
                    Some((vertex.digest, (**source).clone(), vertex.effective_platform()))
                }
                _ => None,
            })
            .collect();
        let asked = sources.into_iter().map(|(digest, mut source, platform)| async move {
            let changed = self
                .govern(&mut source, &platform)
                .await
                .map_err(|failure| failure.during("error evaluating the source policy"))?;
            Ok::<_, Failure>((digest, changed.then_some(source)))
        });
        let asked: Vec<_> = futures::stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        let changed: HashMap<Digest, pb::SourceOp> =
            asked.into_iter().filter_map(|(digest, source)| Some((digest, source?))).collect();
        if changed.is_empty() {
            return Ok((definition, graph));
        }
        let definition = with_sources(&graph, &definition, &changed);
        let graph = cofferdam_graph::load(&definition, &Limits::default()).map_err(|error| {
            Failure::invalid(crate::failure::chain(&error)).during("failed to load LLB")
        })?;
        Ok((definition, graph))
    }

    /// The image to use where `reference` is named.
    pub(crate) async fn govern_image(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
    ) -> Result<String, Failure> {
        self.govern_reference(reference, platform).await?.map_err(|identifier| {
            Failure::invalid(format!("policy converts image {reference} to {identifier}"))
        })
    }

    /// The image to use where `reference` is named, or as an error the source that is none and that the rules put in its place.
    pub(super) async fn govern_reference(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
    ) -> Result<Result<String, String>, Failure> {
        if self.rules().is_empty() {
            return Ok(Ok(reference.to_owned()));
        }
        let mut source =
            pb::SourceOp { identifier: format!("{IMAGE}{reference}"), ..Default::default() };
        let platform = platform.cloned().unwrap_or_else(default_platform);
        let known = ImageReference::parse(reference).map(|reference| format!("{IMAGE}{reference}"));
        self.govern(&mut source, &platform).await?;
        if known.is_ok_and(|known| known == source.identifier) {
            return Ok(Ok(reference.to_owned()));
        }
        let image = source.identifier.strip_prefix(IMAGE).map(str::to_owned);
        Ok(image.ok_or(source.identifier))
    }

    /// Applies the rules to a source, which from then on is written in the one way that was judged, and to the bundle that it is
    /// taken from, which is a source as well. Returns whether anything changed.
    pub(super) async fn govern(
        &self,
        source: &mut pb::SourceOp,
        platform: &pb::Platform,
    ) -> Result<bool, Failure> {
        let mut changed = self.govern_one(source, platform).await?;
        if let Some(bundle) = bundle_of(source) {
            let mut used = bundle.clone();
            changed |= self.govern_one(&mut used, platform).await?;
            if used.attrs != bundle.attrs {
                let identifier = &bundle.identifier;
                return Err(Failure::invalid(format!("policy adds attributes to {identifier}")));
            }
            source.attrs.insert(BUNDLE.to_owned(), used.identifier);
        }
        Ok(changed)
    }

    async fn govern_one(
        &self,
        source: &mut pb::SourceOp,
        platform: &pb::Platform,
    ) -> Result<bool, Failure> {
        let rules = Arc::clone(self.rules());
        if rules.is_empty() {
            return Ok(false);
        }
        let original = source.clone();
        let mut left = MAX_QUESTIONS;
        loop {
            let private = rules.judge(source).await?;
            let answer = match &rules.session {
                Some(session) => {
                    let judged = Judged { source, private: private.as_deref() };
                    self.ask(session, judged, platform, &mut left).await?
                }
                None => None,
            };
            let decided = answer.is_none();
            if let Some(update) = answer {
                let before = std::mem::replace(source, update);
                forget_moved(&before, source);
                if source.identifier != before.identifier {
                    continue;
                }
            }
            // What the name leaves out belongs to the source for as long as it has that name.
            if let Some(url) = private {
                source.identifier = url;
            }
            if decided {
                return Ok(!is_same(source, &original));
            }
        }
    }

    /// Asks the client until it decides. `Some` is the source to use in place of this one.
    async fn ask(
        &self,
        session: &str,
        judged: Judged<'_>,
        platform: &pb::Platform,
        left: &mut usize,
    ) -> Result<Option<pb::SourceOp>, Failure> {
        let source = judged.source;
        let session = self.context.sessions.get(session).await.map_err(Failure::of)?;
        let mut known = wire::ResolveSourceMetaResponse {
            Source: buffa::MessageField::some(source.clone()),
            ..Default::default()
        };
        loop {
            *left =
                left.checked_sub(1).ok_or_else(|| Failure::unknown("too many policy requests"))?;
            let request = CheckPolicyRequest {
                Platform: buffa::MessageField::some(platform.clone()),
                Source: buffa::MessageField::some(known),
                ..Default::default()
            };
            let answer = session
                .check_policy(request)
                .await
                .map_err(|error| Failure::from(error.status().clone()))?;
            match answer.result {
                Some(Answer::Request(request)) => {
                    let wanted = request.Source.as_option();
                    if !wanted.is_some_and(|wanted| is_same(wanted, source)) {
                        return Err(Failure::invalid("policy requested a different source"));
                    }
                    let mut request = *request;
                    request.Source = buffa::MessageField::some(judged.used());
                    let found = self.source_metadata(request).await;
                    known = found.map_err(|failure| {
                        failure.during("error resolving source metadata from policy request")
                    })?;
                    known.Source = buffa::MessageField::some(source.clone());
                }
                Some(Answer::Decision(decision)) => return decided(source, *decision),
                None => return Err(Failure::invalid("no decision in policy response")),
            }
        }
    }
}

/// The bundle that a repository is taken from, as a source of its own.
fn bundle_of(source: &pb::SourceOp) -> Option<pb::SourceOp> {
    let identifier = source.attrs.get(BUNDLE).filter(|bundle| !bundle.is_empty())?.clone();
    let place = |key: &&str| source.attrs.contains_key(*key);
    let attrs = ["oci.session", "oci.store"].into_iter().filter(place);
    let attrs = attrs.map(|key| (key.to_owned(), source.attrs[key].clone())).collect();
    Some(pb::SourceOp { identifier, attrs, ..Default::default() })
}

fn decided(
    source: &pb::SourceOp,
    decision: DecisionResponse,
) -> Result<Option<pb::SourceOp>, Failure> {
    let name = match decision.action.as_known() {
        Some(policy::PolicyAction::ALLOW) => return Ok(None),
        Some(policy::PolicyAction::CONVERT) => {
            let update = decision.update.into_option();
            return update
                .map(Some)
                .ok_or_else(|| Failure::invalid("convert action requires updated source"));
        }
        Some(policy::PolicyAction::DENY) => "DENY".to_owned(),
        None => decision.action.to_i32().to_string(),
    };
    let identifier = &source.identifier;
    let failure =
        Failure::unknown(format!("source {identifier:?} not allowed by policy: action {name}"));
    if decision.denyMessages.is_empty() {
        return Err(failure);
    }
    // As Go writes the message: enums as numbers.
    let messages: Vec<_> = decision
        .denyMessages
        .iter()
        .map(|message| serde_json::json!({ "message": message.message }))
        .collect();
    let detail = serde_json::json!({ "action": 1, "denyMessages": messages }).to_string();
    Err(failure.with_detail(DECISION, detail))
}
