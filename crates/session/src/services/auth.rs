//! `Auth`: registry credentials from the client's docker configuration.
//!
//! Credentials go to the daemon for the one registry host it was challenged by. They are never
//! logged and never kept here: each question reads the file's content or runs the helper.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_wire::moby::filesync::v1::{
    Auth, CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use serde::Deserialize;

use super::credential_helper::{self, HelperError};
use crate::calls::auth::Credentials;

/// Docker Hub's registry and the name its credentials are stored under.
const HUB_HOST: &str = "registry-1.docker.io";
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Largest configuration file; real ones are a few KiB.
const MAX_CONFIG: u64 = 1 << 20;

/// A docker configuration that cannot be used. None of the messages holds a credential.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is no docker configuration. The parser's message is left out: it may quote.
    #[error("{} is no docker configuration (line {line})", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the error.
        line: usize,
    },
    /// An `auth` entry is not `user:password` in base64.
    #[error("malformed auth entry for {host}")]
    Entry {
        /// Its host.
        host: String,
    },
    /// The credential helper failed.
    #[error("ask credential helper for {host}")]
    Helper {
        /// The host asked for.
        host: String,
        /// Why not.
        #[source]
        source: HelperError,
    },
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// The parts of docker's `config.json` that concern credentials.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct DockerConfig {
    auths: HashMap<String, AuthEntry>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(skip)]
    added: HashMap<String, Credentials>,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DockerConfig")
            .field("hosts", &self.auths.keys())
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// The user's configuration: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`;
    /// empty when there is none.
    ///
    /// # Errors
    /// A file that is there but unusable.
    pub fn from_environment() -> Result<Self, DockerConfigError> {
        let directory = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
        match directory.map(|directory| Self::load(&directory.join("config.json"))) {
            None => Ok(Self::default()),
            Some(Err(DockerConfigError::Read { source, .. }))
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Self::default())
            }
            Some(result) => result,
        }
    }

    /// The configuration in `path`.
    ///
    /// # Errors
    /// An unreadable or malformed file.
    pub fn load(path: &Path) -> Result<Self, DockerConfigError> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut bytes))
            .map_err(|source| DockerConfigError::Read { path: path.to_path_buf(), source })?;
        serde_json::from_slice(&bytes).map_err(|error| DockerConfigError::Syntax {
            path: path.to_path_buf(),
            line: error.line(),
        })
    }

    /// Adds credentials for registry `host` (with its port, if any), which go before everything in the file.
    #[must_use]
    pub fn with(mut self, host: &str, credentials: Credentials) -> Self {
        self.added.insert(host.to_owned(), credentials);
        self
    }

    /// What the configuration knows for registry `host`; anonymous when nothing.
    ///
    /// # Errors
    /// A malformed entry or a failing helper.
    pub async fn credentials(&self, host: &str) -> Result<Credentials, DockerConfigError> {
        if let Some(added) = self.added.get(host) {
            return Ok(added.clone());
        }
        let key = if host == HUB_HOST { HUB_KEY } else { host };
        let helper = self.helpers.get(key).or_else(|| self.helpers.get(host));
        let helper = helper.map_or(self.store.as_str(), String::as_str);
        if !helper.is_empty() {
            match credential_helper::get(helper, key).await {
                Ok(found) if found.is_anonymous() => {}
                Ok(found) => return Ok(found),
                // Public images must not need a helper that is configured but not installed.
                Err(error) if error.is_not_installed() => {
                    tracing::warn!(host, %error, "credential helper is not installed");
                }
                Err(source) => {
                    return Err(DockerConfigError::Helper { host: host.to_string(), source });
                }
            }
        }
        let entry = self.auths.get(key).or_else(|| {
            let same = |stored: &&String| bare_host(stored) == bare_host(key);
            self.auths.keys().find(same).and_then(|stored| self.auths.get(stored))
        });
        entry.map_or_else(|| Ok(Credentials::default()), |entry| decode(host, entry))
    }
}

/// A stored key without scheme and path.
fn bare_host(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn decode(host: &str, entry: &AuthEntry) -> Result<Credentials, DockerConfigError> {
    if !entry.identitytoken.is_empty() {
        return Ok(Credentials { username: String::new(), secret: entry.identitytoken.clone() });
    }
    if entry.auth.is_empty() {
        return Ok(Credentials {
            username: entry.username.clone(),
            secret: entry.password.clone(),
        });
    }
    let malformed = || DockerConfigError::Entry { host: host.to_string() };
    let bytes = STANDARD.decode(entry.auth.trim()).map_err(|_| malformed())?;
    let text = String::from_utf8(bytes).map_err(|_| malformed())?;
    let (username, secret) = text.split_once(':').ok_or_else(malformed)?;
    let secret = secret.trim_end_matches('\0');
    Ok(Credentials { username: username.to_string(), secret: secret.to_string() })
}

pub(super) struct AuthService(DockerConfig);

impl AuthService {
    pub(super) const fn new(config: DockerConfig) -> Self {
        Self(config)
    }
}

/// Tokens are the daemon's to fetch with the credentials.
fn no_tokens() -> ConnectError {
    ConnectError::unimplemented("this client gives credentials, not tokens")
}

impl Auth for AuthService {
    async fn credentials(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CredentialsRequest>,
    ) -> ServiceResult<CredentialsResponse> {
        let found = self.0.credentials(request.Host).await.map_err(|error| {
            let cause = std::error::Error::source(&error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            ConnectError::internal(format!("{error}{cause}"))
        })?;
        Response::ok(CredentialsResponse {
            Username: found.username,
            Secret: found.secret,
            ..CredentialsResponse::default()
        })
    }

    async fn fetch_token(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, FetchTokenRequest>,
    ) -> ServiceResult<FetchTokenResponse> {
        Err(no_tokens())
    }

    async fn get_token_authority(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, GetTokenAuthorityRequest>,
    ) -> ServiceResult<GetTokenAuthorityResponse> {
        Err(no_tokens())
    }

    async fn verify_token_authority(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, VerifyTokenAuthorityRequest>,
    ) -> ServiceResult<VerifyTokenAuthorityResponse> {
        Err(no_tokens())
    }
}
