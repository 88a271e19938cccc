//! The build context and the Dockerfile: where they come from and how they are read.
//!
//! A context is a directory of the client, or a tree from git, the web or another graph. The
//! Dockerfile lies in a directory of its own unless the context is such a tree. Only the Dockerfile,
//! ignore files and the first bytes of a download are ever read here, each up to a limit.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_graph::{LoadError, platform_string};
use cofferdam_wire::pb;
use futures::lock::Mutex;

use super::attrs::Options;
use super::git::{GitAddress, GitError};
use super::sources::{self, Local};
use crate::client::{Client, ClientError, ResolvedImage};
use crate::convert::lower::lower;
use crate::convert::plan::{Action, Info, NodeId, Plan, Root, Source, copy_action};
use crate::dockerignore::ignore_patterns;
use crate::parser::MAX_FILE;
use crate::scalar::parse_bool;

/// Largest ignore file that is read.
const MAX_IGNORE: usize = 1 << 20;
/// How much of a downloaded context decides whether it is an archive.
const SNIFF: usize = 1024;

const IGNORE_FILE: &str = ".dockerignore";
const DEFAULT_FILE: &str = "Dockerfile";

/// A context or Dockerfile that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The Dockerfile is there but cannot be read.
    #[error("failed to read dockerfile")]
    Dockerfile(#[source] ClientError),
    /// There is no Dockerfile.
    #[error("failed to read dockerfile: open {0}: no such file or directory")]
    NoDockerfile(String),
    /// The Dockerfile is longer than this product reads.
    #[error("failed to read dockerfile: {0} is larger than 1 MiB")]
    LargeDockerfile(String),
    /// `.dockerignore` cannot be read.
    #[error("failed to read dockerignore patterns")]
    Ignore(#[source] ClientError),
    /// `.dockerignore` is longer than this product reads.
    #[error("failed to read dockerignore patterns: {0} is larger than 1 MiB")]
    LargeIgnore(String),
    /// The context address could not be fetched.
    #[error("failed to read downloaded context")]
    Download(#[source] ClientError),
    /// The context address is wrong.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A graph that came as an input is wrong.
    #[error("failed to read frontend input")]
    Input(#[source] LoadError),
}

/// A tree that does not come from a directory of the client.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    kind: TreeKind,
    /// Only this directory of it.
    subdir: Option<String>,
}

#[derive(Debug, Clone)]
enum TreeKind {
    Source {
        source: Source,
        name: String,
    },
    /// An archive to be unpacked: `filename` in the source.
    Archive {
        source: Source,
        name: String,
        filename: String,
    },
    Definition(Arc<pb::Definition>),
}

impl Tree {
    pub(crate) fn from_source(source: Source, name: String) -> Self {
        Self { kind: TreeKind::Source { source, name }, subdir: None }
    }

    pub(crate) fn from_definition(definition: pb::Definition) -> Self {
        Self { kind: TreeKind::Definition(Arc::new(definition)), subdir: None }
    }

    /// Adds the tree to a plan.
    pub(crate) fn add_to(&self, plan: &mut Plan) -> NodeId {
        let node = match &self.kind {
            TreeKind::Definition(definition) => plan.add(
                crate::convert::plan::Work::Definition(Arc::clone(definition)),
                Info::default(),
            ),
            TreeKind::Source { source, name } => plan.source(source.clone(), Info::named(name)),
            TreeKind::Archive { source, name, filename } => {
                let node = plan.source(source.clone(), Info::named(name));
                let mut copy = copy_action(&crate::paths::join("/", filename), "/");
                copy.attemptUnpackDockerCompatibility = true;
                let unpack = Action { source: Some(node), action: copy.into() };
                plan.file(None, vec![unpack], Info::default())
            }
        };
        let Some(subdir) = &self.subdir else { return node };
        let mut copy = copy_action(&crate::paths::join("/", subdir), "/");
        copy.dirCopyContents = true;
        plan.file(None, vec![Action { source: Some(node), action: copy.into() }], Info::default())
    }

    /// The source op, when the tree is nothing else.
    pub(crate) fn source(&self) -> Option<&Source> {
        match &self.kind {
            TreeKind::Source { source, .. } | TreeKind::Archive { source, .. } => Some(source),
            TreeKind::Definition(_) => None,
        }
    }
}

/// Where the parts of a build come from.
pub(crate) struct Contexts<'a> {
    pub(crate) client: &'a dyn Client,
    pub(crate) options: &'a Options,
    /// `None`: the local directory `local_name`.
    main: Option<Tree>,
    dockerfile: Option<Tree>,
    local_name: String,
    dockerfile_local: String,
    filename: String,
    ignore: Mutex<Option<Arc<Vec<String>>>>,
    images: ImageCache,
}

/// Images that were looked up. Platforms and stages of one build ask for the same ones at the same
/// time, and must agree on what a tag means.
type ImageCache = Mutex<HashMap<String, Arc<Mutex<Option<ResolvedImage>>>>>;

/// The Dockerfile as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Entrypoint {
    pub(crate) text: Bytes,
    /// With the definition that loads it.
    pub(crate) info: pb::SourceInfo,
}

impl<'a> Contexts<'a> {
    /// Finds out what kind of context the request means; may fetch the start of a download.
    pub(crate) async fn open(
        client: &'a dyn Client,
        options: &'a Options,
    ) -> Result<Self, ContextError> {
        let key = options.get("contextkey").unwrap_or("context");
        let mut contexts = Self {
            client,
            options,
            main: None,
            dockerfile: None,
            local_name: "context".to_owned(),
            dockerfile_local: options.get("dockerfilekey").unwrap_or("dockerfile").to_owned(),
            filename: options.filename.clone(),
            ignore: Mutex::new(None),
            images: ImageCache::default(),
        };
        let address = options.get(key).unwrap_or_default();
        if let Some(git) = GitAddress::parse(address) {
            let tree = git_tree(&git?, address, options);
            contexts.main = Some(tree.clone());
            contexts.dockerfile = Some(tree);
        } else if address.starts_with("http://") || address.starts_with("https://") {
            contexts.open_download(address).await?;
        } else {
            contexts.open_inputs();
        }
        if let (Some(tree), Some(subdir)) = (&mut contexts.main, options.get("contextsubdir")) {
            tree.subdir = Some(subdir.to_owned());
        }
        Ok(contexts)
    }

    async fn open_download(&mut self, address: &str) -> Result<(), ContextError> {
        let filename = "context".to_owned();
        let source = sources::http(address, &filename, None);
        let name = "[internal] load remote build context".to_owned();
        let tree = Tree::from_source(source.clone(), name.clone());
        let definition = self.definition(&tree)?;
        let start = self.client.read_file(&definition, &filename, SNIFF).await;
        let start = start.map_err(ContextError::Download)?.unwrap_or_default();
        let tree = if is_archive(&start) {
            Tree { kind: TreeKind::Archive { source, name, filename }, subdir: None }
        } else {
            self.filename = filename;
            tree
        };
        self.main = Some(tree.clone());
        self.dockerfile = Some(tree);
        Ok(())
    }

    fn open_inputs(&mut self) {
        let input = |name: &str| self.client.inputs().get(name).cloned().map(Tree::from_definition);
        let (main, dockerfile) = (input("context"), input(&self.dockerfile_local));
        self.main = main;
        self.dockerfile = dockerfile;
    }

    fn definition(&self, tree: &Tree) -> Result<pb::Definition, ContextError> {
        let mut plan = Plan::default();
        let node = tree.add_to(&mut plan);
        write(&plan, Some(node))
    }

    /// Session that shares the local directory `name`.
    pub(crate) fn session_of(&self, name: &str) -> String {
        let key = format!("local-sessionid:{name}");
        self.options.get(&key).unwrap_or_else(|| self.client.session_id()).to_owned()
    }

    /// Reads the Dockerfile and, if there is one, the ignore file next to it.
    pub(crate) async fn read_entrypoint(&self) -> Result<Entrypoint, ContextError> {
        let forced = self.options.get("dockerfilekey").is_some();
        let definition = match &self.dockerfile {
            Some(tree) if !forced => self.definition(tree)?,
            _ => self.local_dockerfile()?,
        };
        let text = self.read_dockerfile(&definition).await?;
        let ignore_name = format!("{}{IGNORE_FILE}", self.filename);
        let found = self.client.read_file(&definition, &ignore_name, MAX_IGNORE + 1).await;
        if let Ok(Some(ignore)) = found {
            *self.ignore.lock().await = Some(Arc::new(parse_ignore(&ignore_name, &ignore)?));
        }
        let info = pb::SourceInfo {
            filename: self.filename.clone(),
            data: shown(&text),
            definition: buffa::MessageField::some(definition),
            language: "Dockerfile".to_owned(),
            ..Default::default()
        };
        Ok(Entrypoint { text, info })
    }

    fn local_dockerfile(&self) -> Result<pb::Definition, ContextError> {
        let mut follow = vec![self.filename.clone(), format!("{}{IGNORE_FILE}", self.filename)];
        follow.extend(self.lower_case_name());
        let local = Local {
            session: self.session_of(&self.dockerfile_local),
            name: self.dockerfile_local.clone(),
            key_hint: self.dockerfile_local.clone(),
            fresh: true,
            ..Local::default()
        };
        let name = format!("load build definition from {}", self.filename);
        let mut plan = Plan::default();
        let node = plan.source(local.source(&follow), Info::internal(&name));
        write(&plan, Some(node))
    }

    /// `dockerfile` stands in for a missing `Dockerfile`.
    fn lower_case_name(&self) -> Option<String> {
        let directory = self.filename.strip_suffix(DEFAULT_FILE)?;
        (directory.is_empty() || directory.ends_with('/'))
            .then(|| format!("{directory}{}", DEFAULT_FILE.to_lowercase()))
    }

    async fn read_dockerfile(&self, definition: &pb::Definition) -> Result<Bytes, ContextError> {
        let names = std::iter::once(self.filename.clone()).chain(self.lower_case_name());
        for name in names {
            let read = self.client.read_file(definition, &name, MAX_FILE + 1).await;
            let Some(text) = read.map_err(ContextError::Dockerfile)? else { continue };
            if text.len() > MAX_FILE {
                return Err(ContextError::LargeDockerfile(name));
            }
            return Ok(text);
        }
        Err(ContextError::NoDockerfile(self.filename.clone()))
    }

    /// The patterns that keep files of the local context out; none when it is not local.
    pub(crate) async fn ignore_patterns(&self) -> Result<Arc<Vec<String>>, ContextError> {
        if self.main.is_some() {
            return Ok(Arc::default());
        }
        let mut known = self.ignore.lock().await;
        if let Some(patterns) = known.as_ref() {
            return Ok(Arc::clone(patterns));
        }
        let local = Local {
            session: self.session_of(&self.local_name),
            name: self.local_name.clone(),
            key_hint: format!("{}-{IGNORE_FILE}", self.local_name),
            fresh: true,
            ..Local::default()
        };
        let name = format!("[internal] load {IGNORE_FILE}");
        let patterns = Arc::new(read_ignore(self.client, &local, name).await?);
        *known = Some(Arc::clone(&patterns));
        Ok(patterns)
    }

    /// Looks up an image once per platform.
    pub(crate) async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<ResolvedImage, ClientError> {
        let mode = self.options.resolve_mode.text();
        let place = platform.map(platform_string).unwrap_or_default();
        let slot =
            Arc::clone(self.images.lock().await.entry(format!("{place} {reference}")).or_default());
        let mut known = slot.lock().await;
        if let Some(image) = known.as_ref() {
            return Ok(image.clone());
        }
        let image = self.client.resolve_image_config(reference, platform, mode, log_name).await?;
        Ok(known.insert(image).clone())
    }

    /// Adds the main context to a plan, limited to `follow` when it is local.
    pub(crate) fn add_main(
        &self,
        plan: &mut Plan,
        follow: &[String],
        excludes: &[String],
    ) -> NodeId {
        if let Some(tree) = &self.main {
            return tree.add_to(plan);
        }
        let local = Local {
            session: self.session_of(&self.local_name),
            name: self.local_name.clone(),
            excludes: excludes.to_vec(),
            key_hint: self.local_name.clone(),
            fresh: false,
        };
        plan.source(local.source(follow), Info::internal("load build context"))
    }

    /// The main context's source op, unless it is local or a graph.
    pub(crate) fn main_source(&self) -> Option<&Source> {
        self.main.as_ref()?.source()
    }
}

/// Reads the ignore file of a local directory; a missing one has no patterns.
pub(crate) async fn read_ignore(
    client: &dyn Client,
    local: &Local,
    name: String,
) -> Result<Vec<String>, ContextError> {
    let mut plan = Plan::default();
    let node = plan.source(local.source(&[IGNORE_FILE.to_owned()]), Info::named(name));
    let definition = write(&plan, Some(node))?;
    let text = client.read_file(&definition, IGNORE_FILE, MAX_IGNORE + 1).await;
    let text = text.map_err(ContextError::Ignore)?.unwrap_or_default();
    parse_ignore(IGNORE_FILE, &text)
}

fn parse_ignore(name: &str, text: &[u8]) -> Result<Vec<String>, ContextError> {
    if text.len() > MAX_IGNORE {
        return Err(ContextError::LargeIgnore(name.to_owned()));
    }
    Ok(ignore_patterns(text))
}

/// The text as errors quote it: whoever reads them need not see what somebody wrote into a URL.
fn shown(text: &[u8]) -> Vec<u8> {
    std::str::from_utf8(text).map_or_else(
        |_| text.to_vec(),
        |text| cofferdam_graph::without_credentials(text).into_owned().into_bytes(),
    )
}

fn write(plan: &Plan, root: Root) -> Result<pb::Definition, ContextError> {
    Ok(lower(plan, root, None).map_err(ContextError::Input)?.unwrap_or_default())
}

fn git_tree(address: &GitAddress, text: &str, options: &Options) -> Tree {
    let mut address = address.clone();
    let epoch = options.build_args.get("SOURCE_DATE_EPOCH");
    if address.mtime.is_empty() && epoch.is_some_and(|value| !value.is_empty()) {
        "commit".clone_into(&mut address.mtime);
    }
    let asked = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    let keep = asked.and_then(|value| parse_bool(value)) == Some(true)
        || address.keep_git_dir == Some(true);
    let source = sources::git(&address, keep, &address.checksum);
    Tree::from_source(source, format!("[internal] load git source {text}"))
}

/// Whether bytes start a tar archive or one of the compressions it comes in.
fn is_archive(start: &[u8]) -> bool {
    const MAGIC: [&[u8]; 3] = [b"BZh", &[0x1f, 0x8b, 0x08], &[0xfd, b'7', b'z', b'X', b'Z', 0]];
    MAGIC.iter().any(|magic| start.starts_with(magic)) || is_tar(start)
}

/// A tar header carries the sum of its bytes, its own field counted as spaces.
fn is_tar(start: &[u8]) -> bool {
    let Some(header) = start.get(..512) else { return false };
    let field = &header[148..156];
    let digits: String = field
        .iter()
        .map(|byte| char::from(*byte))
        .filter(|char| !matches!(char, ' ' | '\0'))
        .collect();
    let Ok(expected) = u32::from_str_radix(&digits, 8) else { return false };
    let outside = header.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let inside = field.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    outside - inside + 8 * 32 == expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_recognised() {
        assert!(is_archive(&[0x1f, 0x8b, 0x08, 0]));
        assert!(is_archive(b"BZh9"));
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(&[0; 512]));
        let mut header = [0_u8; 512];
        header[..4].copy_from_slice(b"file");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 256;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_archive(&header));
        header[0] = b'g';
        assert!(!is_archive(&header));
    }
}
