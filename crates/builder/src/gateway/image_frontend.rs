//! Frontends that are images: `gateway.v0` with a `source`, and so what a `# syntax=` line names.
//!
//! The image's program runs in a container like any other, as hostile as a step: the same walls and limits, nothing of the client's
//! inside, and no network unless the build asks for it. Its only way to do anything is the gateway on its standard streams, which is
//! bound to the request it answers. What it returns counts only when it then exits with 0. BuildKit's `gateway.v0`. It must never be
//! given what opens a door: attributes that may hold keys or passwords stay outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cofferdam_digest::Digest;
use cofferdam_graph::{Assembler, Output, default_platform, without_credentials};
use cofferdam_image::{ImageConfig, Reference as ImageReference};
use cofferdam_sandbox::Network;
use cofferdam_wire::moby::buildkit::v1::types::WorkerRecord;
use cofferdam_wire::pb;
use tokio_util::task::AbortOnDropHandle;

use super::bridge::{Answer, Bridge, Verdict};
use super::containers::Place;
use crate::error_details;
use crate::failure::Failure;
use crate::listener;
use crate::op::container::{Blueprint, Container, Input, Launch, Ours, Source, Started, Streams};

/// Attribute that names the image.
const SOURCE: &str = "source";
/// Attribute with which a build lets its frontend reach the network as its steps do; with the value `default`.
const NETWORK: &str = "frontend-network";
/// Attribute and label of what a request needs and an image can do.
const CAPABILITIES: &str = "frontend.caps";
const CAPABILITIES_LABEL: &str = "moby.buildkit.frontend.caps";
/// What an image must be able to do that gets inputs.
const INPUTS: &str = "moby.buildkit.frontend.inputs";
/// Label of images that never need a network.
const OFFLINE_LABEL: &str = "moby.buildkit.frontend.network.none";
/// What is executed in an image that names nothing.
const DEFAULT_COMMAND: &str = "/run";
/// Most bytes of attributes that are handed on: the kernel takes no more than two megabytes of environment.
const MAX_ENVIRONMENT: usize = 1 << 20;
/// Attributes that describe caches, and with them the keys of some. The builder itself imports and exports them.
const CACHES: &[&str] = &["cache-imports", "cache-exports"];
/// Attributes that are addresses of sources, or say which attribute is one.
const CONTEXT: &str = "context";
const CONTEXT_KEY: &str = "contextkey";
/// What is kept of a frontend's complaints, for its error.
const MAX_COMPLAINT: usize = 4 << 10;
/// How long a frontend that has ended is listened to: all that it wrote waits in a pipe already.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a frontend may take to exit once it has answered.
const GRACE: Duration = Duration::from_secs(10);

/// A frontend's image, ready to run.
struct Image {
    name: String,
    config: ImageConfig,
    definition: pb::Definition,
}

/// A frontend's container and its place among those of the build. It is ended even when nobody waits for the answer any more.
struct Lease(Option<(Arc<Container>, Place)>);

impl Lease {
    /// Ends the container and waits for that.
    async fn end(mut self) {
        if let Some(ending) = self.begin_end() {
            let _ = ending.await;
        }
    }

    fn begin_end(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let (container, place) = self.0.take()?;
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        Some(runtime.spawn(async move {
            // What it wrote and how it ended is known by then, or of no use.
            let _ = container.release().await;
            drop(place);
        }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.begin_end();
    }
}

impl Bridge {
    /// Answers this bridge's request by the frontend that the attributes name.
    pub(super) async fn image_frontend(
        self: &Arc<Self>,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Answer, Failure> {
        let source = attrs.get(SOURCE).filter(|source| !source.is_empty());
        let source = source.ok_or_else(|| Failure::invalid("no source specified for gateway"))?;
        if attrs.contains_key("gateway-devel") {
            return Err(Failure::invalid("development gateway is no longer supported"));
        }
        let place = self.containers().place()?;
        let image = self.frontend_image(source).await?;
        self.check_capabilities(&image, attrs)?;
        let meta = self.frontend_command(&image, attrs)?;
        let reference = self.reference(image.definition.clone()).await?;
        let files = self.evaluate(&reference).await?;
        let root = pb::Mount { dest: "/".to_owned(), output: -1, ..pb::Mount::default() };
        let blueprint = Blueprint {
            name: format!("frontend {}", image.name),
            mounts: vec![root],
            inputs: vec![files],
            network: network(&image, attrs),
            hostname: String::new(),
            hosts: Vec::new(),
            windows: false,
        };
        let step = self.job.aside(Digest::of(format!("{}:frontend:{source}", self.job.id())));
        // Whoever asked may stop asking.
        let _ending = step.cancel.clone().drop_guard();
        let container = Container::new(Arc::clone(&self.context), step, blueprint).await?;
        let lease = Lease(Some((Arc::clone(&container), place)));
        let result = self.run_frontend(&container, &image.name, meta).await;
        lease.end().await;
        result
    }

    async fn frontend_image(&self, source: &str) -> Result<Image, Failure> {
        let platform = default_platform();
        let named = ImageReference::parse(source).map_err(Failure::of)?.to_string();
        let (name, found) = self.resolve_image(&named, Some(&platform), "").await?;
        let config = ImageConfig::parse(&found.config).map_err(Failure::of)?;
        let pinned = ImageReference::parse(&name).map_err(Failure::of)?.with_digest(found.root);
        let op = pb::SourceOp {
            identifier: format!("docker-image://{pinned}"),
            ..pb::SourceOp::default()
        };
        let op = pb::Op {
            op: Some(op.into()),
            platform: buffa::MessageField::some(platform),
            ..pb::Op::default()
        };
        let mut assembler = Assembler::new();
        let digest = assembler.add(op, pb::OpMetadata::default(), None);
        Ok(Image { name, config, definition: assembler.finish(&Output::new(digest, 0)) })
    }

    fn check_capabilities(
        &self,
        image: &Image,
        attrs: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let label = image.config.config.labels.get(CAPABILITIES_LABEL);
        let known = capabilities(label);
        let mut needed = capabilities(attrs.get(CAPABILITIES));
        if !self.inputs.is_empty() {
            needed.insert(INPUTS);
        }
        match needed.difference(&known).next() {
            None => Ok(()),
            Some(lacking) => Err(error_details::lacking_capability(lacking)),
        }
    }

    async fn run_frontend(
        self: &Arc<Self>,
        container: &Arc<Container>,
        name: &str,
        meta: pb::Meta,
    ) -> Result<Answer, Failure> {
        let launch = Launch {
            meta,
            streams: Streams { stdin: true, stdout: true, stderr: true },
            ..Launch::default()
        };
        let started = container
            .start(launch)
            .await
            .map_err(|failure| failure.during(&format!("failed to start frontend {name}")))?;
        let Started { streams: Ours { input, outputs, .. }, mut end, .. } = started;
        let Some(Input::Pipe(input)) = input else { return Err(no_streams()) };
        let mut outputs = outputs.into_iter().map(|(_, source)| source);
        let (Some(Source::Pipe(output)), Some(errors)) = (outputs.next(), outputs.next()) else {
            return Err(no_streams());
        };
        let complaint = Arc::new(Mutex::new(Vec::new()));
        let listening = listen(errors, Arc::clone(&complaint));
        let mut listening = AbortOnDropHandle::new(tokio::spawn(listening));
        let stream = tokio::io::join(output, input);
        let served = listener::serve_frontend(stream, Arc::clone(self));
        let served = AbortOnDropHandle::new(tokio::spawn(served));
        let ended = tokio::select! {
            ended = &mut end => Some(ended),
            _ = self.verdict() => tokio::time::timeout(GRACE, &mut end).await.ok(),
        };
        drop(served);
        if ended.is_some() {
            let _ = tokio::time::timeout(LAST_WORDS, &mut listening).await;
        }
        let answer = self.settled();
        match (answer, ended) {
            // Its own words count more than how it ended.
            (Verdict::Failed(failure), _) => Err(failure),
            (_, Some(Ok(Err(failure)))) => {
                let complaint = complaint.lock().unwrap_or_else(PoisonError::into_inner);
                let said = String::from_utf8_lossy(&complaint);
                let failure = failure.during(&format!("frontend {name} failed"));
                Err(if said.trim().is_empty() { failure } else { failure.because(said.trim()) })
            }
            (_, Some(Err(_))) => Err(Failure::canceled()),
            (_, None) => {
                Err(Failure::unknown(format!("frontend {name} goes on after it has answered")))
            }
            (Verdict::Done(answer), Some(Ok(Ok(())))) => Ok(answer),
            (Verdict::Pending, Some(Ok(Ok(())))) => {
                Err(Failure::unknown(format!("frontend {name} ended without an answer")))
            }
        }
    }

    /// The program and what it is told: everything in variables, as BuildKit's frontends expect it.
    fn frontend_command(
        &self,
        image: &Image,
        attrs: &BTreeMap<String, String>,
    ) -> Result<pb::Meta, Failure> {
        let config = &image.config.config;
        let mut env = config.env.clone();
        env.extend(options(attrs)?);
        env.push(format!("BUILDKIT_SESSION_ID={}", self.session));
        env.push(format!("BUILDKIT_WORKERS={}", workers(&self.context.worker())));
        env.push("BUILDKIT_EXPORTEDPRODUCT=cofferdam".to_owned());
        if env.iter().map(String::len).sum::<usize>() > MAX_ENVIRONMENT {
            return Err(Failure::invalid("the attributes are too long for a frontend"));
        }
        let args = config.entrypoint.clone().filter(|args| !args.is_empty());
        Ok(pb::Meta {
            args: args.unwrap_or_else(|| vec![DEFAULT_COMMAND.to_owned()]),
            env,
            cwd: config.working_dir.clone(),
            ..pb::Meta::default()
        })
    }
}

/// The attributes as variables, without those that may open a door.
fn options(attrs: &BTreeMap<String, String>) -> Result<Vec<String>, Failure> {
    let named = attrs.get(CONTEXT_KEY).map_or(CONTEXT, String::as_str);
    let mut variables = Vec::with_capacity(attrs.len());
    for (key, value) in attrs.iter().filter(|(key, _)| !CACHES.contains(&key.as_str())) {
        let address = key == CONTEXT || key == named || key.starts_with("context:");
        if address && (without_credentials(value) != value.as_str() || is_odd(value)) {
            // Without them the frontend would ask for a source that it cannot have, and nobody would see why.
            return Err(Failure::invalid(format!(
                "the address in {key:?} has a user or password in it, which a frontend that is an image is not given: use the secret GIT_AUTH_TOKEN"
            )));
        }
        // Where the files came from is told and never fetched.
        let value = match key.strip_prefix("vcs:") {
            Some(_) => without_credentials(value),
            None => value.into(),
        };
        variables.push(format!("BUILDKIT_FRONTEND_OPT_{}={key}={value}", variables.len()));
    }
    Ok(variables)
}

/// Refuses to tell a frontend that is an image of a source with a user or password in it that it did not name itself: a rule may
/// put one in place of what was asked for, and with it the rule's own credentials.
pub(super) fn check_told(
    asked: Option<&pb::SourceOp>,
    told: Option<&pb::SourceOp>,
) -> Result<(), Failure> {
    let Some(told) = told.filter(|_| asked != told) else { return Ok(()) };
    let opens = |text: &str| without_credentials(text) != text;
    if opens(&told.identifier) || told.attrs.values().any(|value| opens(value)) {
        return Err(Failure::invalid(
            "a source policy puts an address with a user or password in place of this source, which a frontend that is an image is not told",
        ));
    }
    Ok(())
}

/// Whether an address has before its path what ends an address inside of a text, so that nobody sees a user in it.
fn is_odd(address: &str) -> bool {
    address.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.contains('@') && authority.contains(|c: char| c == '"' || c.is_whitespace())
    })
}

fn no_streams() -> Failure {
    Failure::unknown("the frontend has no standard streams")
}

/// Keeps the end of what a frontend complains about.
async fn listen(mut errors: Source, complaint: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; MAX_COMPLAINT];
    while let Ok(length @ 1..) = errors.read(&mut buffer).await {
        let mut kept = complaint.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let surplus = kept.len().saturating_sub(MAX_COMPLAINT);
        kept.drain(..surplus);
    }
}

/// None, unless the build asks and the image does not say that it needs none.
fn network(image: &Image, attrs: &BTreeMap<String, String>) -> Network {
    let offline = image.config.config.labels.get(OFFLINE_LABEL);
    let offline = offline.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true"));
    match attrs.get(NETWORK).map(String::as_str) {
        Some("default") if !offline => Network::Gate,
        _ => Network::None,
    }
}

fn capabilities(list: Option<&String>) -> BTreeSet<&str> {
    let items = list.map_or("", String::as_str).split(',').map(str::trim);
    items
        .map(|item| item.split('+').next().unwrap_or(item))
        .filter(|item| !item.is_empty())
        .collect()
}

/// Workers as Go's clients read them.
fn workers(record: &WorkerRecord) -> String {
    let platforms: Vec<_> = record
        .platforms
        .iter()
        .map(|platform| {
            let mut value = serde_json::json!({
                "architecture": platform.Architecture,
                "os": platform.OS,
            });
            if !platform.Variant.is_empty() {
                value["variant"] = platform.Variant.clone().into();
            }
            value
        })
        .collect();
    let labels: BTreeMap<&String, &String> = record.Labels.iter().collect();
    serde_json::json!([{
        "ID": record.ID,
        "Labels": labels,
        "Platforms": platforms,
        "GCPolicy": null,
    }])
    .to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn attrs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_opens_a_cache_is_not_among_the_variables() {
        let keys = r#"[{"Type":"s3","Attrs":{"secret_access_key":"k"}}]"#;
        let given = options(&attrs(&[
            ("build-arg:A", "1"),
            ("cache-exports", keys),
            ("cache-imports", keys),
            ("filename", "D"),
        ]));
        let expected =
            ["BUILDKIT_FRONTEND_OPT_0=build-arg:A=1", "BUILDKIT_FRONTEND_OPT_1=filename=D"];
        assert_eq!(given.unwrap(), expected);
    }

    #[test]
    fn what_a_rule_knows_stays_with_it() {
        let source = |identifier: &str, attrs: &[(&str, &str)]| pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..pb::SourceOp::default()
        };
        let asked = source("https://h/x", &[]);
        let moved = source("https://mirror/x", &[]);
        assert!(check_told(Some(&asked), Some(&moved)).is_ok());
        for told in [
            source("https://u:hidden@mirror/x", &[]),
            source("git://mirror/r.git", &[("git.fullurl", "https://hidden@mirror/r.git")]),
        ] {
            let refused = check_told(Some(&asked), Some(&told)).unwrap_err();
            assert!(!refused.message().contains("hidden"), "{refused}");
            assert!(check_told(Some(&told), Some(&told)).is_ok(), "it said so itself");
        }
    }

    #[test]
    fn addresses_with_passwords_are_refused() {
        for (key, value) in [
            ("context", "https://u:hidden@h/x.git"),
            ("context:other", "https://hidden@h/x.git"),
            ("context:other", "ssh://u:hidden@h/x.git"),
            ("context", "https://u:it's-hidden@h/x.git"),
            ("context", "https://u:\"hidden@h/x.git"),
        ] {
            let refused = options(&attrs(&[(key, value)])).unwrap_err();
            assert!(refused.message().contains(key), "{refused}");
            assert!(!refused.message().contains("hidden"), "{refused}");
        }
        let from = options(&attrs(&[("vcs:source", "https://hidden@h/x.git")])).unwrap();
        assert_eq!(from, ["BUILDKIT_FRONTEND_OPT_0=vcs:source=https://xxxxx@h/x.git"]);
        let elsewhere = [("contextkey", "mine"), ("mine", "https://u:hidden@h/x.git")];
        assert!(options(&attrs(&elsewhere)).is_err());
        for (key, value) in [
            ("context", "https://h/x.git"),
            ("context", "ssh://git@h/x.git"),
            ("context", "git@h:x"),
            ("context:base", "docker-image://h/x@sha256:0"),
        ] {
            assert_eq!(options(&attrs(&[(key, value)])).unwrap().len(), 1, "{key}={value}");
        }
    }
}
