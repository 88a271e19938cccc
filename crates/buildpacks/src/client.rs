//! What the frontend needs from the builder that runs it.
//!
//! The frontend decides and writes LLB; whatever touches a registry, a store or a tenant's files is
//! done by the builder, behind [`Client`]. Sandboxes are reached through LLB alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_wire::pb;

/// A request that the builder could not answer.
///
/// The message is what users read; `source` keeps the builder's own error.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    message: String,
    /// The exit code of the process that failed, if one did.
    pub exit_code: Option<i32>,
    /// What that process had run into: its memory, the disk.
    pub reached: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ClientError {
    /// An error that carries the builder's own one. The message must already say what it says.
    #[must_use]
    pub fn with_source(
        message: impl Into<String>,
        exit_code: Option<i32>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { message: message.into(), exit_code, reached: None, source: Some(Box::new(source)) }
    }

    /// The same error, with what the process that failed had run into.
    #[must_use]
    pub fn having_reached(mut self, reached: Option<String>) -> Self {
        self.reached = reached;
        self
    }

    /// The builder's own error, if it gave one.
    #[must_use]
    pub fn inner(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.source.as_deref()
    }
}

/// A layer that the builder's store has, or that a registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// The image it can be fetched from when the store does not have it: a reference with digest.
    pub origin: Option<String>,
}

/// An image that was looked up in a registry.
#[derive(Debug, Clone)]
pub struct Image {
    /// The reference with the digest of what it names: `registry/repository@sha256:…`.
    pub pinned: String,
    /// Digest of the manifest or index that the reference names.
    pub digest: Digest,
    /// Its configuration, JSON.
    pub config: Bytes,
    /// Its layers, bottom first.
    pub layers: Vec<ImageLayer>,
}

/// A file in a directory that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
}

/// What an entry is; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// Which paths below a packed directory become part of the layer.
#[derive(Debug, Clone, Default)]
pub enum Selection {
    /// All.
    #[default]
    All,
    /// These, relative to the directory, with no others below them.
    Only(BTreeSet<String>),
}

/// A directory that becomes a normalised layer.
#[derive(Debug, Clone)]
pub struct Pack {
    /// The tree.
    pub definition: pb::Definition,
    /// The directory in it.
    pub path: String,
    /// What the directory is called in the layer, absolute.
    pub name: String,
    /// Directories above it that come first: name, owner and mode.
    pub parents: Vec<(String, (u32, u32), u32)>,
    /// Who owns the directory and everything below; `None` keeps owners as they are.
    pub owner: Option<(u32, u32)>,
    /// What is taken.
    pub selection: Selection,
}

/// A Dockerfile of an extension, to be applied to a tree.
#[derive(Debug, Clone)]
pub struct DockerfileRequest {
    /// Attributes for the Dockerfile frontend.
    pub attrs: BTreeMap<String, String>,
    /// Trees by the names that the attributes use.
    pub inputs: HashMap<String, pb::Definition>,
}

/// What a Dockerfile gave.
#[derive(Debug, Clone)]
pub struct DockerfileResult {
    /// The tree; `None` is scratch.
    pub definition: Option<pb::Definition>,
    /// The image configuration, JSON.
    pub config: Vec<u8>,
}

/// A step that the frontend shows while it works itself. Dropping it without an end ends it well.
pub trait Progress: Send + Sync {
    /// Shows a line.
    fn log(&self, line: &str);
    /// Ends it.
    fn done(self: Box<Self>);
    /// Ends it with an error.
    fn failed(self: Box<Self>, message: &str);
}

/// The builder, as the frontend sees it. One value serves one build.
#[async_trait]
pub trait Client: Send + Sync {
    /// Looks an image up for a platform. `None` when it is not there, or not for this client.
    async fn image(
        &self,
        reference: &str,
        platform: &pb::Platform,
        log_name: &str,
    ) -> Result<Option<Image>, ClientError>;

    /// Solves a graph.
    async fn solve(&self, definition: &pb::Definition) -> Result<(), ClientError>;

    /// The first `max` bytes of a regular file of a graph's result; `None` when there is no such file.
    async fn read_file(
        &self,
        definition: &pb::Definition,
        path: &str,
        max: usize,
    ) -> Result<Option<Bytes>, ClientError>;

    /// The entries of a directory of a graph's result, by name; `None` when there is no such directory.
    async fn list(
        &self,
        definition: &pb::Definition,
        path: &str,
    ) -> Result<Option<Vec<Entry>>, ClientError>;

    /// All paths below a directory of a graph's result, relative to it and sorted; directories are
    /// followed by `/`.
    async fn walk(
        &self,
        definition: &pb::Definition,
        path: &str,
    ) -> Result<Vec<String>, ClientError>;

    /// The layers of a graph's result, bottom first, files no later than the time that layers of
    /// buildpacks have.
    async fn layers(&self, definition: &pb::Definition) -> Result<Vec<ImageLayer>, ClientError>;

    /// Packs a directory of a graph's result as a normalised layer.
    async fn pack(&self, pack: Pack) -> Result<ImageLayer, ClientError>;

    /// Keeps a layer's tar that the frontend wrote.
    async fn keep(&self, tar: Vec<u8>) -> Result<ImageLayer, ClientError>;

    /// A source op whose tree is these layers, bottom first.
    async fn compose(&self, layers: Vec<ImageLayer>) -> Result<pb::SourceOp, ClientError>;

    /// Pushes an image made of these layers; gives the digest of its manifest.
    async fn push(
        &self,
        reference: &str,
        layers: Vec<ImageLayer>,
        config: Vec<u8>,
    ) -> Result<Digest, ClientError>;

    /// A value that an earlier build of this project saved.
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, ClientError>;

    /// Saves a value and keeps the layers that it names until it is saved anew.
    async fn save(
        &self,
        key: &str,
        value: Vec<u8>,
        layers: &[ImageLayer],
    ) -> Result<(), ClientError>;

    /// Whether the store has a layer's blob.
    async fn has(&self, layer: &ImageLayer) -> bool;

    /// Runs the Dockerfile frontend.
    async fn dockerfile(&self, request: DockerfileRequest)
    -> Result<DockerfileResult, ClientError>;

    /// Shows a step of the frontend's own.
    fn step(&self, name: &str) -> Box<dyn Progress>;

    /// Id of the client's session.
    fn session_id(&self) -> &str;

    /// Platforms this builder runs, its own first.
    fn worker_platforms(&self) -> &[pb::Platform];

    /// Builders that the operator trusts, and builders that nobody may trust.
    fn operator_trust(&self) -> (Vec<String>, Vec<String>);

    /// The git repository of the operator's buildpack registry.
    fn operator_registry(&self) -> Option<String>;
}
