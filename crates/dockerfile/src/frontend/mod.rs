//! The frontend: a build request to graphs and image configurations.
//!
//! Takes the attributes clients send to `dockerfile.v0`, reads the Dockerfile through the builder, and
//! converts it once per platform. It emits LLB and metadata and nothing else: what the graphs do is
//! for the solver, what becomes of results is for the exporters.

pub(crate) mod attrs;
pub(crate) mod context;
mod error;
pub(crate) mod git;
mod json;
mod limits;
pub(crate) mod named;
pub(crate) mod reference;
mod report;
pub(crate) mod sources;
mod subrequest;

use std::collections::BTreeMap;

use cofferdam_digest::Digest;
use cofferdam_graph::{default_platform, normalize_platform, platform_id};
use cofferdam_wire::pb;
use futures::future::try_join_all;

pub use attrs::AttrError;
pub use context::ContextError;
pub use error::{BuildError, BuildErrorKind};
pub use git::{GitError, git_fragment};
pub use named::NamedContextError;
pub use reference::ReferenceError;

use attrs::Options;
use context::{Contexts, Entrypoint};

use crate::client::{Client, Warning};
use crate::convert::{Converted, Request, Scan, convert};
use crate::lint::{LintConfig, Warnings};
use crate::parser::{check_directive, syntax_directive};

/// Frontend capabilities that requests may ask for.
const CAPABILITIES: [&str; 4] = [
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
];

/// Images that contain this same frontend: their `# syntax=` lines are served here.
const OWN_SYNTAX: [&str; 3] = ["docker/dockerfile", "docker/dockerfile-upstream", "dockerfile.v0"];

/// Findings that are shown. More than a person reads, and few enough for a progress display.
const MAX_WARNINGS: usize = 1_000;
/// Bytes that shown findings may take in all; each carries the whole Dockerfile.
const MAX_WARNING_BYTES: usize = 32 << 20;

/// What a build gives.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// Graphs, one per platform; none for requests that only ask for information.
    pub refs: Vec<BuiltRef>,
    /// The result is the only graph itself, not a map by platform.
    pub single: bool,
    /// What is to be scanned for bills of materials, one for each platform.
    pub scans: Vec<Scan>,
    /// Image configurations and the like, by the names exporters know them by.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

/// The graph for one platform.
#[derive(Debug, Clone)]
pub struct BuiltRef {
    /// `linux/arm64`.
    pub platform: String,
    /// `None` is an empty tree.
    pub definition: Option<pb::Definition>,
}

/// Answers a build request.
///
/// # Errors
/// See [`BuildErrorKind`]; the error knows the lines of the Dockerfile it is about.
pub async fn build(
    client: &dyn Client,
    attrs: &BTreeMap<String, String>,
) -> Result<Built, BuildError> {
    let lacking = check_capabilities(attrs.get("frontend.caps").map_or("", String::as_str));
    if let Some((capability, false)) = &lacking {
        return Err(BuildErrorKind::UnsupportedCapability(capability.clone()).into());
    }
    let options = Options::parse(attrs)?;
    let contexts = Contexts::open(client, &options).await?;
    let entry = contexts.read_entrypoint().await?;
    if let Some(built) = forward(client, attrs, &entry).await? {
        return Ok(built);
    }
    if let Some((capability, _)) = lacking {
        return Err(BuildErrorKind::UnsupportedCapability(capability).into());
    }
    let frontend = Frontend { contexts, entry };
    if let Some(request) = attrs.get("requestid") {
        return frontend.answer(request).await;
    }
    frontend.build().await
}

/// A capability this frontend lacks, and whether another frontend may be asked for it.
fn check_capabilities(list: &str) -> Option<(String, bool)> {
    let mut lacking: Option<(String, bool)> = None;
    for item in list.split(',').filter(|item| !item.is_empty()) {
        let (name, flags) = item.split_once('+').unwrap_or((item, ""));
        if !CAPABILITIES.contains(&name) {
            let forward = flags.contains("forward");
            if !forward {
                return Some((name.to_owned(), false));
            }
            lacking = Some((name.to_owned(), true));
        }
    }
    lacking
}

/// Hands the request to the frontend that the Dockerfile or the request names, unless that is this one.
async fn forward(
    client: &dyn Client,
    attrs: &BTreeMap<String, String>,
    entry: &Entrypoint,
) -> Result<Option<Built>, BuildError> {
    if attrs.contains_key("cmdline") {
        return Ok(None);
    }
    let (source, line, lines) = match attrs.get("build-arg:BUILDKIT_SYNTAX") {
        Some(text) => {
            let text = text.trim();
            (text.split(' ').next().unwrap_or_default().to_owned(), text.to_owned(), None)
        }
        None => match syntax_directive(&entry.text) {
            Some(directive) => (directive.value, directive.full, Some(directive.lines)),
            None => return Ok(None),
        },
    };
    if is_own(&source) {
        return Ok(None);
    }
    let mut attrs = attrs.clone();
    attrs.insert("cmdline".to_owned(), line);
    attrs.insert("source".to_owned(), source.clone());
    match client.solve_frontend(&source, &attrs).await {
        Ok(built) => Ok(Some(built)),
        Err(error) => {
            let error = BuildError::from(error);
            Err(match lines {
                Some(lines) => error.at(&entry.info, lines),
                None => error,
            })
        }
    }
}

fn is_own(source: &str) -> bool {
    let Ok(reference) = reference::Reference::parse(source) else { return false };
    let familiar = reference.familiar();
    let name = familiar.split(['@', ':']).next().unwrap_or_default();
    OWN_SYNTAX.contains(&name)
}

struct Frontend<'a> {
    contexts: Contexts<'a>,
    entry: Entrypoint,
}

impl Frontend<'_> {
    async fn build(&self) -> Result<Built, BuildError> {
        let platforms = &self.contexts.options.platforms;
        let mut targets: Vec<Option<&pb::Platform>> = platforms.iter().map(Some).collect();
        if targets.is_empty() {
            targets.push(None);
        }
        let converted = targets.iter().enumerate().map(|(index, platform)| async move {
            let request = self.request(*platform);
            let mut warnings = self.warnings()?;
            let result = convert(request, &mut warnings).await;
            // The same file gives the same findings for every platform.
            if index == 0 {
                self.warn(&warnings).await;
            }
            result.map_err(|error| BuildError::located(error, &self.entry.info))
        });
        let converted = try_join_all(converted).await?;
        let mut built = Built { single: !self.contexts.options.multi_platform, ..Built::default() };
        let mut exported = Vec::with_capacity(targets.len());
        for (platform, converted) in targets.into_iter().zip(converted) {
            let platform = normalize_platform(&platform.cloned().unwrap_or_else(default_platform));
            let id = platform_id(&platform);
            exported.push(serde_json::json!({ "ID": id, "Platform": json::platform(&platform) }));
            add_metadata(&mut built, &id, &converted)?;
            built.scans.push(Scan { platform: id.clone(), ..converted.scan });
            built.refs.push(BuiltRef { platform: id, definition: converted.definition });
        }
        let platforms = serde_json::json!({ "Platforms": exported }).to_string();
        built.metadata.insert("refs.platforms".to_owned(), platforms.into_bytes());
        Ok(built)
    }

    fn request<'a>(&'a self, platform: Option<&'a pb::Platform>) -> Request<'a> {
        Request {
            contexts: &self.contexts,
            text: &self.entry.text,
            info: &self.entry.info,
            platform,
            all_stages: false,
        }
    }

    /// A collector of findings as the request or the Dockerfile configures it.
    fn warnings(&self) -> Result<Warnings, BuildError> {
        if let Some(config) = &self.contexts.options.lint {
            return Ok(Warnings::new(config.clone()));
        }
        let text = check_directive(&self.entry.text).map(|directive| directive.full);
        let config = LintConfig::parse(text.as_deref().unwrap_or_default());
        Ok(Warnings::new(config.map_err(BuildErrorKind::Check)?))
    }

    async fn warn(&self, warnings: &Warnings) {
        let info = &self.entry.info;
        let Some(vertex) = info.definition.as_option().and_then(head) else { return };
        let most = (MAX_WARNING_BYTES / self.entry.text.len().max(1)).min(MAX_WARNINGS);
        for warning in warnings.kept().iter().take(most) {
            let shown = Warning {
                vertex,
                level: 1,
                short: warning.short(),
                detail: vec![warning.rule.description.to_owned()],
                url: warning.rule.url.to_owned(),
                source: info.clone(),
                ranges: crate::convert::lower::ranges(warning.lines),
            };
            self.contexts.client.warn(shown).await;
        }
    }
}

/// The op whose output a definition stands for.
fn head(definition: &pb::Definition) -> Option<Digest> {
    let last: pb::Op = buffa::Message::decode_from_slice(definition.def.last()?).ok()?;
    Digest::parse(&last.inputs.first()?.digest).ok()
}

fn add_metadata(built: &mut Built, id: &str, converted: &Converted) -> Result<(), BuildError> {
    let suffix = if built.single { String::new() } else { format!("/{id}") };
    let config = serde_json::to_vec(&converted.image).map_err(BuildErrorKind::Write)?;
    built.metadata.insert(format!("containerimage.config{suffix}"), config);
    if let Some(base) = &converted.base_image {
        let config = serde_json::to_vec(base).map_err(BuildErrorKind::Write)?;
        built.metadata.insert(format!("containerimage.base.config{suffix}"), config);
    }
    if let Some(epoch) = converted.epoch {
        let text = epoch.to_string().into_bytes();
        built.metadata.insert(format!("source.date.epoch{suffix}"), text);
    }
    Ok(())
}
