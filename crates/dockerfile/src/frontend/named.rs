//! Named contexts: `context:<name>[::<platform>]` attributes.
//!
//! They stand in for images and stages of that name: an image (`docker-image://`, `oci-layout://`), a
//! directory of the client (`local:`), a repository or download, or a graph that came with the request
//! (`input:`). Finding one only looks at attributes; loading one may ask the builder.

use std::collections::HashMap;

use base64::Engine as _;
use cofferdam_digest::Digest;
use cofferdam_graph::{default_platform, normalize_platform, platform_string};
use cofferdam_wire::pb;

use super::attrs::ResolveMode;
use super::context::{ContextError, Contexts, Tree, read_ignore};
use super::git::{GitAddress, GitError};
use super::reference::{Reference, ReferenceError};
use super::sources::{self, Local};
use crate::client::ClientError;
use crate::image::Image;

/// A named context that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NamedContextError {
    /// The name is no name.
    #[error("invalid context name {0}")]
    Name(String),
    /// Not `kind:rest`.
    #[error("invalid context specifier {text} for {name}")]
    Specifier {
        /// The value.
        text: String,
        /// Which context.
        name: String,
    },
    /// A kind nobody knows.
    #[error("unsupported context source {kind} for {name}")]
    Kind {
        /// The kind.
        kind: String,
        /// Which context.
        name: String,
    },
    /// Not a git address.
    #[error("invalid git context {0}")]
    NotGit(String),
    /// A wrong git address.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A wrong image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// `oci-layout://` without a name.
    #[error("oci-layout reference {0:?} has no name")]
    LayoutName(String),
    /// `oci-layout://` without a digest.
    #[error("oci-layout reference {0:?} has no digest")]
    LayoutDigest(String),
    /// The request brought no such graph.
    #[error("invalid input {input} for {name}")]
    Input {
        /// The graph's name.
        input: String,
        /// Which context.
        name: String,
    },
    /// `input-metadata:` is not a map of texts in base64.
    #[error("failed to parse input metadata for {0}")]
    InputMetadata(String),
    /// An image configuration that is not one.
    #[error("failed to parse image config for {name}")]
    Config {
        /// Which context.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The builder failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Its ignore file cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Rules convert it again and again.
    #[error("source policies convert {0} without end")]
    Endless(String),
}

/// How often rules may put another context in the place of one.
const MAX_CONVERSIONS: usize = 10;

/// A named context that exists but was not loaded yet.
#[derive(Debug, Clone)]
pub(crate) struct NamedContext {
    value: String,
    /// Without the platform.
    name: String,
    /// As it stands in the attribute.
    key: String,
    platform: Option<pb::Platform>,
}

/// What a named context is.
#[derive(Debug)]
pub(crate) struct LoadedContext {
    pub(crate) tree: ContextTree,
    pub(crate) image: Option<Image>,
}

#[derive(Debug)]
pub(crate) enum ContextTree {
    Scratch,
    Tree(Box<Tree>),
    /// Which files it has to transfer is known only at the end.
    Local {
        local: Local,
        name: String,
    },
}

impl LoadedContext {
    fn tree(tree: Tree, image: Option<Image>) -> Self {
        Self { tree: ContextTree::Tree(Box::new(tree)), image }
    }
}

impl Contexts<'_> {
    /// The named context that replaces the image or stage `name`, if there is one.
    pub(crate) fn named(
        &self,
        name: &str,
        platform: Option<&pb::Platform>,
    ) -> Result<Option<NamedContext>, NamedContextError> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        if !self.options.raw.keys().any(|key| key.starts_with("context:")) {
            return Ok(None);
        }
        let reference =
            Reference::parse(name).map_err(|_| NamedContextError::Name(name.to_owned()))?;
        let familiar = reference.familiar();
        let name = familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned();
        let own = platform.cloned().unwrap_or_else(default_platform);
        let with_platform = format!("{name}::{}", platform_string(&normalize_platform(&own)));
        let found = [with_platform, name.clone()].into_iter().find_map(|key| {
            let value = self.options.get(&format!("context:{key}"))?.to_owned();
            Some((key, value))
        });
        Ok(found.map(|(key, value)| NamedContext { value, name, key, platform: platform.cloned() }))
    }

    /// Loads a named context, or what rules put in its place.
    pub(crate) async fn load(
        &self,
        named: &NamedContext,
    ) -> Result<LoadedContext, NamedContextError> {
        let mut named = named.clone();
        for _ in 0..MAX_CONVERSIONS {
            let error = match self.load_as_named(&named).await {
                Err(NamedContextError::Client(error)) => error,
                loaded => return loaded,
            };
            let Some(identifier) = error.converted().map(str::to_owned) else {
                return Err(error.into());
            };
            named.value = specifier(identifier);
        }
        Err(NamedContextError::Endless(named.key))
    }

    async fn load_as_named(
        &self,
        named: &NamedContext,
    ) -> Result<LoadedContext, NamedContextError> {
        let Some((kind, rest)) = named.value.split_once(':') else {
            return Err(NamedContextError::Specifier {
                text: named.value.clone(),
                name: named.key.clone(),
            });
        };
        let plain = rest.strip_prefix("//").unwrap_or(rest);
        match kind {
            "docker-image" => self.load_image(named, plain).await,
            "oci-layout" => self.load_layout(named, plain).await,
            "local" => self.load_local(named, rest).await,
            "input" => self.load_input(named, rest),
            "http" | "https" => load_web(named),
            _ if kind == "git" || kind.starts_with("git@") => match load_git(&named.value)? {
                Some(loaded) => Ok(loaded),
                None => Err(NamedContextError::NotGit(named.value.clone())),
            },
            _ => Err(NamedContextError::Kind { kind: kind.to_owned(), name: named.key.clone() }),
        }
    }

    async fn load_image(
        &self,
        named: &NamedContext,
        text: &str,
    ) -> Result<LoadedContext, NamedContextError> {
        if text == "scratch" {
            return Ok(LoadedContext { tree: ContextTree::Scratch, image: None });
        }
        let reference = Reference::parse(text)?.tagged();
        let log_name = format!("[context {}] load metadata for {text}", named.key);
        let platform = named.platform.as_ref();
        let resolved = self.resolve_image(&reference.to_string(), platform, &log_name).await?;
        let image = parse_config(named, &resolved.config)?;
        let reference = Reference::parse(&resolved.reference)?.tagged();
        let source = sources::image(&reference, platform, ResolveMode::Default);
        let name = format!("[context {}] {text}", named.key);
        Ok(LoadedContext::tree(Tree::from_source(source, name), Some(image)))
    }

    async fn load_layout(
        &self,
        named: &NamedContext,
        text: &str,
    ) -> Result<LoadedContext, NamedContextError> {
        let (store, digest) = split_layout(text)?;
        let reference = Reference::parse(&named.name)?.with_digest(digest);
        let log_name = format!("[context {}] load metadata for {reference}", named.key);
        let platform = named.platform.as_ref();
        let resolved = self
            .client
            .resolve_layout_config(&reference.to_string(), store, platform, &log_name)
            .await?;
        let image = parse_config(named, &resolved.config)?;
        let session = self.client.session_id();
        let source = sources::oci_layout(&reference, session, store, platform);
        let name = format!("[context {}] OCI load from client", named.key);
        Ok(LoadedContext::tree(Tree::from_source(source, name), Some(image)))
    }

    async fn load_local(
        &self,
        named: &NamedContext,
        directory: &str,
    ) -> Result<LoadedContext, NamedContextError> {
        let mut local = Local {
            name: directory.to_owned(),
            session: self.session_of(directory),
            excludes: Vec::new(),
            key_hint: format!("context:{}-.dockerignore", named.key),
            fresh: true,
        };
        let log_name = format!("[context {}] load .dockerignore", named.key);
        local.excludes = read_ignore(self.client, &local, log_name).await?;
        let shared = self.options.get(&format!("sharedkey:localdir:{}", named.key));
        local.key_hint = format!("context:{}-{}", named.key, shared.unwrap_or_default());
        local.fresh = false;
        let name = format!("[context {}] load from client", named.key);
        Ok(LoadedContext { tree: ContextTree::Local { local, name }, image: None })
    }

    fn load_input(
        &self,
        named: &NamedContext,
        input: &str,
    ) -> Result<LoadedContext, NamedContextError> {
        let definition = self.client.inputs().get(input).cloned().ok_or_else(|| {
            NamedContextError::Input { input: input.to_owned(), name: named.key.clone() }
        })?;
        let image = match self.options.get(&format!("input-metadata:{input}")) {
            None => None,
            Some(text) => input_config(named, text)?,
        };
        Ok(LoadedContext::tree(Tree::from_definition(definition), image))
    }
}

fn load_git(address: &str) -> Result<Option<LoadedContext>, NamedContextError> {
    let Some(git) = GitAddress::parse(address) else { return Ok(None) };
    let git = git?;
    let source = sources::git(&git, git.keep_git_dir == Some(true), &git.checksum);
    let name = format!("[internal] load git source {address}");
    Ok(Some(LoadedContext::tree(Tree::from_source(source, name), None)))
}

fn load_web(named: &NamedContext) -> Result<LoadedContext, NamedContextError> {
    if let Some(loaded) = load_git(&named.value)? {
        return Ok(loaded);
    }
    let source = sources::http(&named.value, "context", None);
    let name = format!("[context {}] {}", named.key, named.value);
    Ok(LoadedContext::tree(Tree::from_source(source, name), None))
}

/// A source as attributes name contexts: those have no slashes before the name of a directory.
fn specifier(identifier: String) -> String {
    match identifier.strip_prefix("local://") {
        Some(directory) => format!("local:{directory}"),
        None => identifier,
    }
}

/// `store[:tag]@digest`.
fn split_layout(text: &str) -> Result<(&str, Digest), NamedContextError> {
    let (name, digest) = text.split_once('@').unwrap_or((text, ""));
    let store = match name.rsplit_once(':') {
        Some((store, tag)) if !tag.contains('/') => store,
        _ => name,
    };
    if store.is_empty() {
        return Err(NamedContextError::LayoutName(text.to_owned()));
    }
    let digest =
        Digest::parse(digest).map_err(|_| NamedContextError::LayoutDigest(text.to_owned()))?;
    Ok((store, digest))
}

fn parse_config(named: &NamedContext, json: &[u8]) -> Result<Image, NamedContextError> {
    let mut image = Image::parse(json)
        .map_err(|source| NamedContextError::Config { name: named.key.clone(), source })?;
    image.created = None;
    Ok(image)
}

/// The image configuration in the metadata of an input: a JSON map to base64.
fn input_config(named: &NamedContext, text: &str) -> Result<Option<Image>, NamedContextError> {
    let error = || NamedContextError::InputMetadata(named.key.clone());
    let map: HashMap<String, String> = serde_json::from_str(text).map_err(|_| error())?;
    let Some(encoded) = map.get("containerimage.config") else { return Ok(None) };
    let json = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|_| error())?;
    parse_config(named, &json).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn layouts_need_a_store_and_a_digest() {
        let digest = Digest::of(b"x");
        let text = format!("store:tag@{digest}");
        assert_eq!(split_layout(&text).unwrap(), ("store", digest));
        for text in ["", "store", "store:tag", "@", &format!("@{digest}"), "store@sha256:x"] {
            assert!(split_layout(text).is_err(), "{text:?} was accepted");
        }
    }
}
