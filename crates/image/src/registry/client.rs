//! The client, and one repository seen through it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, StatusCode};
use reqwest::Response;

use super::auth::{Grant, Tokens};
use super::challenge::Challenge;
use super::config::ClientConfig;
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::transport::{Request, Transport};
use crate::reference::is_target;
use crate::{Descriptor, Document, Manifest, Reference};

/// How long a mirror that could not be reached is left out.
const REST: Duration = Duration::from_secs(30);
/// A cached token may be stale and its replacement too narrow; more challenges than this are a loop.
const MAX_CHALLENGES: usize = 2;

/// Talks to registries. One for the whole process: it keeps connections and tokens.
pub struct Client {
    pub(super) transport: Transport,
    tokens: Tokens,
    resting: Mutex<HashMap<String, Instant>>,
}

/// A manifest or index as it was fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Names the bytes.
    pub descriptor: Descriptor,
    /// The bytes, verified.
    pub bytes: Bytes,
    /// The bytes, parsed.
    pub document: Document,
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the reference names: an index or the manifest itself.
    pub root: Fetched,
    /// Names the manifest.
    pub descriptor: Descriptor,
    /// The manifest's bytes, verified.
    pub manifest_bytes: Bytes,
    /// The manifest.
    pub manifest: Manifest,
}

/// One repository, seen with one set of credentials. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(super) client: Arc<Client>,
    pub(super) name: Reference,
    pub(super) credentials: Arc<dyn Credentials>,
}

/// What is done with the repository, for scopes and for the choice of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

impl Client {
    /// A client with the given settings. Connections are made when first needed.
    ///
    /// # Errors
    /// A configured host or mirror has a name that is not valid in a URL.
    pub fn new(config: ClientConfig) -> Result<Arc<Self>, RegistryError> {
        for host in config.hosts.keys() {
            Endpoint::origin(&config, host)?;
            Endpoint::mirrors(&config, host)?;
        }
        Ok(Arc::new(Self {
            transport: Transport::new(config),
            tokens: Tokens::default(),
            resting: Mutex::new(HashMap::new()),
        }))
    }

    /// The repository of `reference` (its tag and digest do not matter), with the eyes of `credentials`.
    #[must_use]
    pub fn repository(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: Arc<dyn Credentials>,
    ) -> Repository {
        Repository { client: Arc::clone(self), name: reference.without_target(), credentials }
    }

    fn is_resting(&self, endpoint: &Endpoint) -> bool {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.get(endpoint.base.as_str()).is_some_and(|since| since.elapsed() < REST)
    }

    fn rest(&self, endpoint: &Endpoint) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|_, since| since.elapsed() < REST);
        resting.insert(endpoint.base.to_string(), Instant::now());
    }
}

impl Repository {
    /// The repository's name, without tag and digest.
    #[must_use]
    pub const fn name(&self) -> &Reference {
        &self.name
    }

    /// Where to send requests, in order. Mirrors serve pulls only; one that could not be reached a
    /// moment ago is left out.
    pub(super) fn endpoints(&self, access: Access) -> Result<Vec<Endpoint>, RegistryError> {
        let config = &self.client.transport.config;
        let mut endpoints = match access {
            Access::Pull => Endpoint::mirrors(config, self.name.domain())?,
            Access::Push => Vec::new(),
        };
        endpoints.retain(|endpoint| !self.client.is_resting(endpoint));
        endpoints.extend(Endpoint::origin(config, self.name.domain())?);
        Ok(endpoints)
    }

    /// Whether `error` from `endpoint`, which is not the last, sends us to the next one.
    pub(super) fn try_next(
        &self,
        endpoint: &Endpoint,
        access: Access,
        error: &RegistryError,
    ) -> bool {
        let connect = error.is_connect();
        if connect && endpoint.namespace.is_some() {
            self.client.rest(endpoint);
        }
        if endpoint.namespace.is_some() && access == Access::Pull {
            tracing::debug!(mirror = endpoint.host, %error, "mirror cannot serve this");
            return true;
        }
        connect
    }

    /// Sends a request, answering challenges. The final answer is `Ok` whatever its status.
    pub(super) async fn call(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        scopes: &[String],
    ) -> Result<Response, RegistryError> {
        let grant = Grant { endpoint, credentials: &*self.credentials, scopes };
        let (transport, tokens) = (&self.client.transport, &self.client.tokens);
        let mut authorization: Option<HeaderValue> = tokens.known(&grant).await;
        for _ in 0..MAX_CHALLENGES {
            let response = transport.send(endpoint, request, authorization.as_ref()).await?;
            // Only the endpoint itself may ask for its credentials, not where it sent us.
            if response.status() != StatusCode::UNAUTHORIZED || !endpoint.owns(response.url()) {
                return Ok(response);
            }
            let Some(challenge) = Challenge::pick(response.headers()) else { return Ok(response) };
            match tokens.answer(transport, &grant, &challenge, authorization.as_ref()).await? {
                Some(header) => authorization = Some(header),
                None => return Ok(response),
            }
        }
        transport.send(endpoint, request, authorization.as_ref()).await
    }

    /// The scopes for this repository at `endpoint`.
    pub(super) fn scopes(&self, endpoint: &Endpoint, access: Access) -> Vec<String> {
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        vec![format!("repository:{}{}:{actions}", endpoint.prefix, self.name.path())]
    }

    /// A request for the manifest `target`, which must be a tag or digest: it becomes part of a path.
    pub(super) fn manifest_request(
        &self,
        endpoint: &Endpoint,
        method: Method,
        target: &str,
    ) -> Result<Request<'static>, RegistryError> {
        if !is_target(target) {
            return Err(RegistryError::Protocol {
                url: self.what(target),
                reason: "not a tag or digest",
            });
        }
        Ok(self.request(endpoint, method, &format!("manifests/{target}")))
    }

    /// A request for `rest` beneath this repository.
    pub(super) fn request(
        &self,
        endpoint: &Endpoint,
        method: Method,
        rest: &str,
    ) -> Request<'static> {
        Request::new(method, endpoint.url(self.name.path(), rest))
    }
}
