//! What was asked for: a frontend, its arguments, and the requests that made its inputs.

use std::collections::BTreeMap;

use cofferdam_graph::without_credentials;
use serde::Serialize;

use crate::sources::Sources;

/// Arguments that say something about a machine and nothing about what is built.
const HOST_ARGUMENTS: [&str; 4] =
    ["cgroup-parent", "image-resolve-mode", "platform", "cache-imports"];
/// Requests that made inputs of requests are followed this deep.
pub(crate) const MAX_DEPTH: usize = 16;
/// Inputs of one request that are told, how deep inputs of inputs are, and about how many bytes all of them take: what builds
/// make of each other doubles with every step otherwise.
const MAX_INPUTS: usize = 100;
const MAX_LEVELS: usize = 4;
const MAX_INPUT_BYTES: usize = 1 << 20;
/// What an entry takes besides its text.
const OVERHEAD: usize = 64;

/// A secret or an agent by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedUse {
    /// The id, which is not what it opens.
    pub id: String,
    /// The step runs without it.
    #[serde(skip_serializing_if = "is_false")]
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Local {
    pub(crate) name: String,
}

/// A request's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// The frontend; none for a graph that a client made.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub frontend: String,
    /// Its arguments.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Secrets that steps may have had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<NamedUse>,
    /// Agents that steps may have asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<NamedUse>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) locals: Vec<Local>,
    /// Requests that made the inputs of this one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, RequestProvenance>,
    /// What the client asked for, when a frontend asked for this in its turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Box<RequestProvenance>>,
    /// Newest behaviour of builders that was asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub compatibility_version: i64,
    /// Something was asked for that is not told, here or in a request that made an input.
    #[serde(skip)]
    pub incomplete: bool,
}

/// One request and what it was about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestProvenance {
    /// What it was about.
    pub config_source: ConfigSource,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Parameters>,
}

/// Where the description of a build comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConfigSource {
    /// A remote context.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// What it was.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// The file in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The arguments of a frontend that belong into provenance, with credentials of URLs hidden.
#[must_use]
pub fn filter_args(args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    args.iter()
        .filter(|(key, _)| !HOST_ARGUMENTS.contains(&key.as_str()) && !key.starts_with("attest:"))
        .map(|(key, value)| (key.clone(), without_credentials(value).into_owned()))
        .collect()
}

/// A request as it is told. `git` splits an address: without and with the directory in it.
#[must_use]
pub fn request_provenance(
    frontend: &str,
    mut args: BTreeMap<String, String>,
    sources: &Sources,
    git: &dyn Fn(&str) -> Option<(String, String)>,
) -> RequestProvenance {
    let filled = |key: &str| args.get(key).filter(|value| !value.is_empty()).cloned();
    let key = match filled("contextkey") {
        Some(key) => key,
        None if filled("input:context").is_some() => "input:context".to_owned(),
        None => "context".to_owned(),
    };
    let mut config_source = ConfigSource::default();
    if let Some(uri) = filled(&key) {
        args.remove(&key);
        config_source = material(sources, &uri, git);
    }
    if let Some(path) = args.get("filename").filter(|path| !path.is_empty()).cloned() {
        args.remove("filename");
        config_source.path = path;
    }
    let request = Parameters { frontend: frontend.to_owned(), args, ..Parameters::default() };
    RequestProvenance { config_source, request: Some(request) }
}

/// What `uri` was, as far as a source says.
fn material(
    sources: &Sources,
    uri: &str,
    git: &dyn Fn(&str) -> Option<(String, String)>,
) -> ConfigSource {
    let uri = without_credentials(uri).into_owned();
    let (plain, with_directory) = git(&uri).unwrap_or_else(|| (uri.clone(), uri.clone()));
    let found = |uri: String, digest| ConfigSource { uri, digest, ..ConfigSource::default() };
    if let Some(source) = sources.git.iter().find(|source| source.url == plain) {
        return found(with_directory, commit_digest(&source.commit));
    }
    if let Some(source) = sources.http.iter().find(|source| source.url == uri) {
        return found(uri, sha256(&source.digest));
    }
    found(uri, BTreeMap::new())
}

pub(crate) fn sha256(digest: &cofferdam_digest::Digest) -> BTreeMap<String, String> {
    BTreeMap::from([("sha256".to_owned(), digest.hex())])
}

/// A commit by the algorithm that its length tells.
pub(crate) fn commit_digest(commit: &str) -> BTreeMap<String, String> {
    let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
    BTreeMap::from([(algorithm.to_owned(), commit.to_owned())])
}

impl RequestProvenance {
    /// About how many bytes it takes.
    fn size(&self) -> usize {
        let source = &self.config_source;
        let digest = source.digest.iter().map(|(kind, hex)| kind.len() + hex.len());
        let own = digest.fold(source.uri.len() + source.path.len(), usize::saturating_add);
        own.saturating_add(self.request.as_ref().map_or(0, Parameters::size))
    }

    /// Leaves out what lies deeper than `levels`; true when anything is missing, now or before.
    fn prune(&mut self, levels: usize) -> bool {
        let Some(request) = &mut self.request else { return false };
        match levels.checked_sub(1) {
            Some(below) => {
                for input in request.inputs.values_mut() {
                    request.incomplete |= input.prune(below);
                }
            }
            None => {
                request.incomplete |= !request.inputs.is_empty();
                request.inputs.clear();
            }
        }
        request.incomplete
    }
}

impl Parameters {
    /// Whether there is anything to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontend.is_empty() && self.args.is_empty() && self.inputs.is_empty()
    }

    /// Adds the request that made an input, as far as there is room; what is left out is noted.
    pub fn add_input(&mut self, name: &str, made: &RequestProvenance) {
        let size = name.len().saturating_add(OVERHEAD).saturating_add(made.size());
        let room = MAX_INPUT_BYTES.saturating_sub(self.size_of_inputs());
        if self.inputs.len() >= MAX_INPUTS || size > room {
            self.incomplete = true;
            return;
        }
        let mut made = made.clone();
        self.incomplete |= made.prune(MAX_LEVELS - 1);
        self.inputs.insert(name.to_owned(), made);
    }

    fn size_of_inputs(&self) -> usize {
        let size = |(name, made): (&String, &RequestProvenance)| {
            name.len().saturating_add(OVERHEAD).saturating_add(made.size())
        };
        self.inputs.iter().map(size).fold(0, usize::saturating_add)
    }

    fn size(&self) -> usize {
        let args = self.args.iter().map(|(key, value)| key.len() + value.len() + OVERHEAD);
        let args = args.fold(self.frontend.len(), usize::saturating_add);
        let uses = self.secrets.iter().chain(&self.ssh).map(|named| named.id.len() + OVERHEAD);
        let root = self.root.as_ref().map_or(0, |root| root.size());
        uses.fold(args, usize::saturating_add)
            .saturating_add(self.size_of_inputs())
            .saturating_add(root)
    }

    /// Takes out what may be private; true when something was.
    pub(crate) fn scrub(&mut self) -> bool {
        self.scrub_within(MAX_DEPTH)
    }

    fn scrub_within(&mut self, depth: usize) -> bool {
        let before = self.args.len();
        self.args.retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
        let mut scrubbed = self.args.len() != before;
        self.secrets.clear();
        self.ssh.clear();
        let Some(depth) = depth.checked_sub(1) else {
            self.inputs.clear();
            self.root = None;
            return true;
        };
        let inputs = self.inputs.values_mut();
        for below in inputs.chain(self.root.as_deref_mut()) {
            if let Some(request) = &mut below.request {
                scrubbed |= request.scrub_within(depth);
            }
        }
        scrubbed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sources::GitSource;

    fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn arguments_of_machines_and_credentials_stay_out() {
        let filtered = filter_args(&args(&[
            ("platform", "linux/arm64"),
            ("attest:provenance", ""),
            ("context:x", "https://u:p@h/x"),
            ("build-arg:A", "b"),
        ]));
        let expected = [("build-arg:A", "b"), ("context:x", "https://xxxxx:xxxxx@h/x")];
        assert_eq!(filtered, args(&expected));
    }

    #[test]
    fn a_remote_context_is_the_source_of_the_request() {
        let commit = "0123456789012345678901234567890123456789".to_owned();
        let url = "https://xxxxx:xxxxx@h/r.git#v1".to_owned();
        let git = GitSource { url, commit: commit.clone(), bundle: None };
        let sources = Sources { git: vec![git], ..Sources::default() };
        let split = |text: &str| Some((text.trim_end_matches(":dir").to_owned(), text.to_owned()));
        let args = args(&[("context", "https://u:p@h/r.git#v1:dir"), ("filename", "D")]);
        let told = request_provenance("f", args, &sources, &split);
        assert_eq!(told.config_source.uri, "https://xxxxx:xxxxx@h/r.git#v1:dir");
        assert_eq!(told.config_source.path, "D");
        assert_eq!(told.config_source.digest["sha1"], commit);
        assert!(told.request.unwrap().args.is_empty());
    }

    #[test]
    fn min_leaves_out_what_may_be_private() {
        let inner =
            Parameters { args: args(&[("label:x", "y"), ("target", "t")]), ..Default::default() };
        let below = RequestProvenance { request: Some(inner), ..Default::default() };
        let mut outer = Parameters {
            secrets: vec![NamedUse { id: "s".into(), optional: true }],
            ..Default::default()
        };
        outer.inputs.insert("i".to_owned(), below);
        assert!(outer.scrub());
        assert!(outer.secrets.is_empty());
        let inner = outer.inputs["i"].request.as_ref().unwrap();
        assert_eq!(inner.args, args(&[("target", "t")]));
    }

    fn with_input(made: &RequestProvenance) -> RequestProvenance {
        let mut request = Parameters { frontend: "f".to_owned(), ..Default::default() };
        request.add_input("a", made);
        request.add_input("b", made);
        RequestProvenance { request: Some(request), ..Default::default() }
    }

    #[test]
    fn inputs_of_inputs_do_not_grow_without_bound() {
        let mut made = RequestProvenance::default();
        for _ in 0..MAX_LEVELS {
            made = with_input(&made);
        }
        assert!(!made.request.as_ref().unwrap().incomplete);
        let size = with_input(&made).size();
        for _ in 0..100 {
            made = with_input(&made);
        }
        assert!(made.size() <= size, "{} bytes", made.size());
        assert!(made.request.unwrap().incomplete);
    }

    #[test]
    fn there_is_room_for_some_inputs_only() {
        let small = RequestProvenance::default();
        let mut request = Parameters::default();
        for number in 0..MAX_INPUTS {
            request.add_input(&number.to_string(), &small);
        }
        assert!(!request.incomplete);
        request.add_input("more", &small);
        assert!(request.incomplete && request.inputs.len() == MAX_INPUTS);

        let mut large = RequestProvenance::default();
        large.config_source.uri = "x".repeat(MAX_INPUT_BYTES / 2);
        let mut request = Parameters::default();
        request.add_input("first", &large);
        assert!(!request.incomplete);
        request.add_input("second", &large);
        assert!(request.incomplete && request.inputs.len() == 1);
    }
}
