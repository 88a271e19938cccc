//! What the frontend needs from the builder that runs it.
//!
//! The frontend reads image configurations and a few files, and otherwise only writes LLB: it must
//! never open a file, a socket or a store by itself. Everything it learns comes through [`Client`].

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_wire::pb;

/// A request that the builder could not answer.
///
/// The message is what users read; `source` keeps the builder's own error, so that its code and
/// details survive the way through the frontend (`std::error::Error::source` and `downcast_ref`).
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    converted: Option<String>,
}

impl ClientError {
    /// An error with nothing beneath it.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, converted: None }
    }

    /// An error that carries the builder's own one. The message must already say what it says.
    #[must_use]
    pub fn with_source(
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { message: message.into(), source: Some(Box::new(source)), converted: None }
    }

    /// The same error: rules put the source `identifier`, which is no image, in the place of the image that was asked for.
    #[must_use]
    pub fn converted_to(self, identifier: impl Into<String>) -> Self {
        Self { converted: Some(identifier.into()), ..self }
    }

    /// What rules put in the place of the image, when that is no image.
    #[must_use]
    pub fn converted(&self) -> Option<&str> {
        self.converted.as_deref()
    }

    /// The builder's own error, if it gave one.
    #[must_use]
    pub fn inner(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.source.as_deref()
    }
}

/// An image whose reference was looked up.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The reference that was really used: equal to the asked one unless a source policy changed it.
    pub reference: String,
    /// Digest of the manifest or index that the reference names.
    pub digest: Digest,
    /// The image configuration, JSON.
    pub config: Bytes,
}

/// A warning about a line of the Dockerfile, shown by clients next to the vertex it belongs to.
#[derive(Debug, Clone)]
pub struct Warning {
    /// Vertex that loaded the Dockerfile.
    pub vertex: Digest,
    /// 1 for lint warnings.
    pub level: i32,
    /// `<Rule>: <message> (line N)`.
    pub short: String,
    /// Description of the rule.
    pub detail: Vec<String>,
    /// Documentation of the rule, empty if there is none.
    pub url: String,
    /// The Dockerfile.
    pub source: pb::SourceInfo,
    /// Lines it is about, counted from 1.
    pub ranges: Vec<pb::Range>,
}

/// The builder, as the frontend sees it. One value serves one build.
#[async_trait]
pub trait Client: Send + Sync {
    /// Looks up an image (`docker.io/library/alpine:3`, normalised) and reads its configuration for
    /// `platform`. `mode` is `default`, `pull` or `local`; `log_name` names the vertex that clients see.
    async fn resolve_image_config(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        mode: &str,
        log_name: &str,
    ) -> Result<ResolvedImage, ClientError>;

    /// Like [`Client::resolve_image_config`] for an image in an OCI layout of the client's session;
    /// `store` is the store's name there and `reference` ends with the digest of the manifest.
    async fn resolve_layout_config(
        &self,
        reference: &str,
        store: &str,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<ResolvedImage, ClientError>;

    /// Solves `definition` and reads the first `max` bytes of the file `path` in its result.
    /// `None` when there is no such file.
    async fn read_file(
        &self,
        definition: &pb::Definition,
        path: &str,
        max: usize,
    ) -> Result<Option<Bytes>, ClientError>;

    /// The time a git or http source was made, in Unix seconds: the commit's or `Last-Modified`.
    async fn source_time(
        &self,
        source: &pb::SourceOp,
        log_name: &str,
    ) -> Result<Option<i64>, ClientError>;

    /// Definitions that came with the request, by name (`context`, `dockerfile`, `input:` contexts).
    fn inputs(&self) -> &HashMap<String, pb::Definition>;

    /// Id of the client's session.
    fn session_id(&self) -> &str;

    /// Platforms this builder runs, its own first.
    fn worker_platforms(&self) -> &[pb::Platform];

    /// Shows a warning to whoever watches the build.
    async fn warn(&self, warning: Warning);

    /// Runs another frontend, named by a `# syntax=` line, in place of this one.
    ///
    /// # Errors
    /// By default: there is no other frontend.
    async fn solve_frontend(
        &self,
        source: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<crate::Built, ClientError> {
        let _ = attrs;
        Err(ClientError::new(format!(
            "frontend {source} cannot run here: only the built-in Dockerfile frontend is available"
        )))
    }
}
