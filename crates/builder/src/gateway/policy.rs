//! Source policies of a build: rules that came with it, and a client that decides for itself.
//!
//! Every source is asked about before anything of it is looked up: in each graph, and for each image that is resolved by name. What
//! cannot be asked about is not used. Fact sheet 3.7. What a client is told on its way to a decision is what it could find out itself.

use std::collections::HashMap;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_graph::{Graph, Limits, default_platform, with_sources};
use cofferdam_image::Reference as ImageReference;
use cofferdam_sourcepolicy::Policies;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::moby::buildkit::v1::sourcepolicy as policy;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::op::Op;
use futures::stream::{StreamExt, TryStreamExt};
use policy::policysession::__buffa::oneof::check_policy_response::Result as Answer;
use policy::policysession::{CheckPolicyRequest, DecisionResponse};

use super::bridge::Bridge;
use crate::failure::Failure;

/// Scheme of images in registries.
const IMAGE: &str = "docker-image://";
/// Attribute with the address that a repository is fetched from.
const GIT_URL: &str = "git.fullurl";
/// How often a client may be asked about one source.
const MAX_QUESTIONS: usize = 10;
/// Sources that are asked about at the same time.
const AT_ONCE: usize = 16;
/// Policies that one request of a frontend may bring.
const MAX_POLICIES: usize = 100;
/// Typed detail of a decision.
const DECISION: &str = "github.com/moby/buildkit/policysession.DecisionResponse+json";

/// The rules of a build, or of one request within it.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    given: Vec<policy::Policy>,
    compiled: Policies,
    /// The session whose client decides, as it is called in this builder.
    session: Option<String>,
}

impl Rules {
    /// Rules that come with a build.
    pub(crate) fn new(
        given: Option<policy::Policy>,
        session: Option<String>,
    ) -> Result<Self, Failure> {
        Self { session, ..Self::default() }.and(given.into_iter().collect())
    }

    /// The same rules and then others.
    fn and(mut self, more: Vec<policy::Policy>) -> Result<Self, Failure> {
        if more.len() > MAX_POLICIES {
            return Err(Failure::invalid(format!("more than {MAX_POLICIES} source policies")));
        }
        self.given.extend(more);
        let compiled = Policies::new(&self.given);
        self.compiled = compiled.map_err(|error| Failure::invalid(error.to_string()))?;
        Ok(self)
    }

    fn is_empty(&self) -> bool {
        self.compiled.is_empty() && self.session.is_none()
    }
}

/// A source by the name that rules are written for.
fn normalize(source: &mut pb::SourceOp) {
    if let Some(name) = source.identifier.strip_prefix(IMAGE) {
        if let Ok(reference) = ImageReference::parse(name) {
            source.identifier = format!("{IMAGE}{reference}");
        }
    } else if let Some(rest) = source.identifier.strip_prefix("git://") {
        let (plain, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        // What is fetched counts, not what it is called.
        let full = source.attrs.get(GIT_URL).filter(|url| !url.is_empty());
        let repository = repository(full.map_or(plain, String::as_str));
        let (commit, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let directory = crate::rooted::clean(directory);
        let directory = directory.trim_start_matches('/');
        let mut name = format!("git://{repository}");
        if !commit.is_empty() || !directory.is_empty() {
            name.push_str(&format!("#{commit}"));
        }
        if !directory.is_empty() {
            name.push_str(&format!(":{directory}"));
        }
        source.identifier = name;
    }
}

/// Host and path of a repository, however its address is written.
fn repository(address: &str) -> String {
    if let Some((_, rest)) = address.split_once("://") {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        return format!("{host}{}", crate::rooted::clean(path));
    }
    match address.split_once('@').and_then(|(_, rest)| rest.split_once(':')) {
        Some((host, path)) => format!("{host}{}", crate::rooted::clean(path)),
        None => address.to_owned(),
    }
}

impl Bridge {
    /// The same bridge under more rules.
    pub(super) fn governed_by(
        self: &Arc<Self>,
        more: Vec<policy::Policy>,
    ) -> Result<Arc<Self>, Failure> {
        if more.is_empty() {
            return Ok(Arc::clone(self));
        }
        let rules = Rules::clone(self.rules()).and(more)?;
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
        if self.rules().is_empty() {
            return Ok(reference.to_owned());
        }
        let mut source =
            pb::SourceOp { identifier: format!("{IMAGE}{reference}"), ..Default::default() };
        let platform = platform.cloned().unwrap_or_else(default_platform);
        if !self.govern(&mut source, &platform).await? {
            return Ok(reference.to_owned());
        }
        source.identifier.strip_prefix(IMAGE).map(str::to_owned).ok_or_else(|| {
            let identifier = &source.identifier;
            Failure::invalid(format!("policy converts image {reference} to {identifier}"))
        })
    }

    /// Applies the rules to a source. Returns whether it was converted.
    pub(super) async fn govern(
        &self,
        source: &mut pb::SourceOp,
        platform: &pb::Platform,
    ) -> Result<bool, Failure> {
        let rules = Arc::clone(self.rules());
        if rules.is_empty() {
            return Ok(false);
        }
        let mut left = MAX_QUESTIONS;
        let mut converted = false;
        loop {
            normalize(source);
            let before = source.clone();
            let changed = rules.compiled.apply(source);
            if changed.map_err(|error| Failure::unknown(error.to_string()))? {
                converted = true;
                // The address of the repository that is not wanted any more.
                let kept = source.attrs.get(GIT_URL) == before.attrs.get(GIT_URL);
                if kept && source.identifier != before.identifier {
                    source.attrs.remove(GIT_URL);
                }
            }
            let Some(session) = &rules.session else { return Ok(converted) };
            match self.ask(session, source, platform, &mut left).await? {
                None => return Ok(converted),
                Some(update) => {
                    source.identifier = update.identifier;
                    source.attrs = update.attrs;
                    converted = true;
                }
            }
        }
    }

    /// Asks the client until it decides. `Some` is the source to use in place of this one.
    async fn ask(
        &self,
        session: &str,
        source: &pb::SourceOp,
        platform: &pb::Platform,
        left: &mut usize,
    ) -> Result<Option<pb::SourceOp>, Failure> {
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
                    if !wanted.is_some_and(|wanted| {
                        wanted.identifier == source.identifier && wanted.attrs == source.attrs
                    }) {
                        return Err(Failure::invalid("policy requested a different source"));
                    }
                    let found = self.source_metadata(*request).await;
                    known = found.map_err(|failure| {
                        failure.during("error resolving source metadata from policy request")
                    })?;
                }
                Some(Answer::Decision(decision)) => return decided(source, *decision),
                None => return Err(Failure::invalid("no decision in policy response")),
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(identifier: &str) -> String {
        let mut source = pb::SourceOp { identifier: identifier.to_owned(), ..Default::default() };
        normalize(&mut source);
        source.identifier
    }

    #[test]
    fn sources_have_one_name_each() {
        let busybox = "docker-image://docker.io/library/busybox:latest";
        for name in ["docker-image://busybox", "docker-image://docker.io/busybox:latest", busybox] {
            assert_eq!(normal(name), busybox);
        }
        assert_eq!(normal("git://host/r.git#main:../a/./b"), "git://host/r.git#main:a/b");
        assert_eq!(normal("git://host/r.git#main:/"), "git://host/r.git#main");
        assert_eq!(normal("https://host/../x"), "https://host/../x");
        for address in ["https://user@real/r.git", "ssh://git@real/r.git", "git@real:r.git"] {
            let mut source =
                pb::SourceOp { identifier: "git://nice/r.git#v1".into(), ..Default::default() };
            source.attrs.insert(GIT_URL.to_owned(), address.to_owned());
            normalize(&mut source);
            assert_eq!(source.identifier, "git://real/r.git#v1");
        }
    }
}
