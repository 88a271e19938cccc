//! The client's services inside the tunnel, one module per service.
//!
//! Section 3 of the protocol from the other end: [`Services`] collects what a build may ask for
//! and becomes the dispatcher that [`crate::serve`] answers with. A build gets exactly what was
//! put in here, by name: no directory, secret or agent is found by path.

// The generated traits return `impl Encodable`; the plain message types are what is meant.
#![allow(refining_impl_trait, reason = "handlers return owned messages")]

mod agent_gate;
pub(crate) mod auth;
pub(crate) mod content;
mod credential_helper;
pub(crate) mod file_send;
mod file_sync;
mod health;
pub(crate) mod secrets;
pub(crate) mod ssh;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{Chain, Router};
use http::{HeaderMap, HeaderName, HeaderValue};

use self::auth::{AuthService, DockerConfig};
use self::content::{ContentService, ContentStore};
use self::file_send::{FileSendService, OutputTarget};
use self::file_sync::FileSyncService;
use self::health::HealthService;
use self::secrets::{SecretService, SecretStore};
use self::ssh::{AgentService, AgentSource};
use self::upload::UploadService;
use crate::metadata::{self, headers};

pub use self::upload::UploadSource;

/// What [`crate::serve`] takes.
pub type Dispatch = Chain<FileSendService, Router>;

/// A directory of the client that builds may read.
#[derive(Debug, Clone)]
pub struct LocalDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// Whether entries keep their owner; otherwise all belong to root, as images expect.
    pub keep_owner: bool,
}

/// Everything one session offers to a build.
#[derive(Default)]
pub struct Services {
    directories: HashMap<String, LocalDirectory>,
    outputs: BTreeMap<usize, OutputTarget>,
    credentials: Option<DockerConfig>,
    secrets: Option<SecretStore>,
    agents: HashMap<String, AgentSource>,
    uploads: HashMap<String, UploadSource>,
    stores: HashMap<String, ContentStore>,
}

impl Services {
    /// Nothing but health.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a directory under `name`, its owners replaced by root.
    #[must_use]
    pub fn directory(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let directory = LocalDirectory { path: path.into(), keep_owner: false };
        self.directories.insert(name.into(), directory);
        self
    }

    /// Takes the output of exporter `index`.
    #[must_use]
    pub fn output(mut self, index: usize, target: OutputTarget) -> Self {
        self.outputs.insert(index, target);
        self
    }

    /// Answers for registries from a docker configuration.
    #[must_use]
    pub fn credentials(mut self, config: DockerConfig) -> Self {
        self.credentials = Some(config);
        self
    }

    /// Offers secrets.
    #[must_use]
    pub fn secrets(mut self, store: SecretStore) -> Self {
        self.secrets = Some(store);
        self
    }

    /// Forwards an agent under `id`.
    #[must_use]
    pub fn agent(mut self, id: impl Into<String>, source: AgentSource) -> Self {
        self.agents.insert(id.into(), source);
        self
    }

    /// Offers a stream, once, under the last component of its URL path.
    #[must_use]
    pub fn upload(mut self, id: impl Into<String>, source: UploadSource) -> Self {
        self.uploads.insert(id.into(), source);
        self
    }

    /// Offers a content store under `id` (section 3.6 of the protocol).
    #[must_use]
    pub fn content_store(mut self, id: impl Into<String>, store: ContentStore) -> Self {
        self.stores.insert(id.into(), store);
        self
    }

    /// The dispatcher that answers for all of it.
    #[must_use]
    pub fn into_dispatch(self) -> Dispatch {
        let mut router = Router::new().add_service(Arc::new(HealthService));
        if !self.directories.is_empty() {
            router = router.add_service(Arc::new(FileSyncService::new(self.directories)));
        }
        if let Some(config) = self.credentials {
            router = router.add_service(Arc::new(AuthService::new(config)));
        }
        if let Some(store) = self.secrets {
            router = router.add_service(Arc::new(SecretService::new(store)));
        }
        if !self.agents.is_empty() {
            router = router.add_service(Arc::new(AgentService::new(self.agents)));
        }
        if !self.uploads.is_empty() {
            router = router.add_service(Arc::new(UploadService::new(self.uploads)));
        }
        if !self.stores.is_empty() {
            router = router.add_service(Arc::new(ContentService::new(self.stores)));
        }
        Chain(FileSendService::new(self.outputs), router)
    }
}

/// The headers of a `Control.Session` call for `dispatch`.
#[must_use]
pub fn session_headers(id: &str, shared_key: &str, dispatch: &Dispatch) -> HeaderMap {
    let mut map = HeaderMap::new();
    metadata::append(&mut map, headers::SESSION_ID, &[id.to_string()]);
    if !shared_key.is_empty() {
        metadata::append(&mut map, headers::SHARED_KEY, &[shared_key.to_string()]);
    }
    let served = dispatch.0.method().into_iter().chain(dispatch.1.methods().map(String::from));
    for method in served {
        if let Ok(value) = HeaderValue::try_from(format!("/{}", method.trim_start_matches('/'))) {
            map.append(HeaderName::from_static(headers::METHOD), value);
        }
    }
    map
}
