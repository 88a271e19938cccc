//! Who we are to a registry. Secrets print masked and live in memory only.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

/// A secret that never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// Name and password; an empty name makes the secret an identity (refresh) token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password or token.
    pub secret: Secret,
}

/// A bearer token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub secret: Secret,
    /// How long it is valid from now on; `None` means a minute.
    pub expires_in: Option<Duration>,
}

/// What a token is wanted for.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// The registry's host and port.
    pub host: String,
    /// URL of the token server.
    pub realm: String,
    /// Service named by the registry.
    pub service: String,
    /// Scopes: `repository:<name>:pull,push`.
    pub scopes: Vec<String>,
}

/// The holder of credentials failed.
#[derive(Debug, thiserror::Error)]
#[error("credentials for {host} are not available: {reason}")]
pub struct CredentialsError {
    /// The registry.
    pub host: String,
    /// What the holder said.
    pub reason: String,
}

/// Gives out credentials, usually by asking the client that started the build.
///
/// Hosts are those of the registry's URL: `registry-1.docker.io` for Docker Hub, with a port where
/// there is one.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Names the person or session behind these credentials: tokens are shared between equal
    /// identities and never across different ones.
    fn identity(&self) -> String;

    /// Name and password for `host`; `None` for anonymous.
    async fn login(&self, host: &str) -> Result<Option<Login>, CredentialsError>;

    /// A token fetched by the holder itself; `None` leaves it to us, with [`Credentials::login`].
    async fn token(&self, _request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        Ok(None)
    }
}

/// No credentials at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    fn identity(&self) -> String {
        String::new()
    }

    async fn login(&self, _host: &str) -> Result<Option<Login>, CredentialsError> {
        Ok(None)
    }
}
