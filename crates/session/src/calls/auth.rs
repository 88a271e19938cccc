//! `Auth`: registry credentials and tokens, asked for when a registry challenges.
//!
//! Section 3.4 of the protocol. Values are redacted in `Debug` output.

use std::fmt;
use std::time::Duration;

use cofferdam_wire::moby::filesync::v1::{
    AuthClient, CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest,
    VerifyTokenAuthorityRequest,
};
use connectrpc::client::CallOptions;

use crate::session::{RpcError, Session};

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
const AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
const VERIFY: &str = "/moby.filesync.v1.Auth/VerifyTokenAuthority";

/// A client may have to run a credential helper, which may ask its user.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a client knows for one registry host.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Empty together with a secret: the secret is an identity token.
    pub username: String,
    /// Password or identity token; empty means anonymous.
    pub secret: String,
}

impl Credentials {
    /// Whether the client knows nothing for the host.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.username.is_empty() && self.secret.is_empty()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What a registry's bearer challenge asks for.
#[derive(Debug, Clone, Default)]
pub struct TokenRequest {
    /// How the daemon names itself to the token server.
    pub client_id: String,
    /// Registry host, with its port.
    pub host: String,
    /// Token server.
    pub realm: String,
    /// Service from the challenge.
    pub service: String,
    /// `repository:<name>:<actions>` and the like.
    pub scopes: Vec<String>,
}

/// A bearer token the client fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// Seconds it lasts; 0 when unknown.
    pub expires_in: i64,
    /// Unix seconds it was issued; 0 when unknown.
    pub issued_at: i64,
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Token")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// Credentials that could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The client does not serve the call: use what is left (credentials, then anonymous).
    #[error("client offers no {what}")]
    Absent {
        /// The method's subject.
        what: &'static str,
    },
    /// The call failed.
    #[error(transparent)]
    Rpc(RpcError),
}

impl Session {
    /// The client's credentials for `host`; anonymous when it has none or serves no such call.
    ///
    /// # Errors
    /// The client failed to look.
    pub async fn credentials(&self, host: &str) -> Result<Credentials, AuthError> {
        if !self.supports(CREDENTIALS) {
            return Ok(Credentials::default());
        }
        let request =
            CredentialsRequest { Host: host.to_string(), ..CredentialsRequest::default() };
        match self.auth().credentials_with_options(request, auth_options()).await {
            Ok(response) => {
                let response = response.into_owned();
                Ok(Credentials { username: response.Username, secret: response.Secret })
            }
            Err(error) => {
                let error = RpcError::new(CREDENTIALS, error);
                if error.is_absent() {
                    Ok(Credentials::default())
                } else {
                    Err(AuthError::Rpc(error))
                }
            }
        }
    }

    /// Has the client fetch a bearer token.
    ///
    /// # Errors
    /// [`AuthError::Absent`] when the client does not fetch tokens; otherwise its failure.
    pub async fn fetch_token(&self, request: TokenRequest) -> Result<Token, AuthError> {
        let absent = AuthError::Absent { what: "token fetching" };
        if !self.supports(FETCH_TOKEN) {
            return Err(absent);
        }
        let request = FetchTokenRequest {
            ClientID: request.client_id,
            Host: request.host,
            Realm: request.realm,
            Service: request.service,
            Scopes: request.scopes,
            ..FetchTokenRequest::default()
        };
        match self.auth().fetch_token_with_options(request, auth_options()).await {
            Ok(response) => {
                let response = response.into_owned();
                Ok(Token {
                    token: response.Token,
                    expires_in: response.ExpiresIn,
                    issued_at: response.IssuedAt,
                })
            }
            Err(error) => {
                let error = RpcError::new(FETCH_TOKEN, error);
                Err(if error.is_absent() { absent } else { AuthError::Rpc(error) })
            }
        }
    }

    /// The ed25519 key under which several sessions of one user share tokens for `host`;
    /// `None` when the client keeps no such key.
    ///
    /// # Errors
    /// The client failed to look.
    pub async fn token_authority(
        &self,
        host: &str,
        salt: &[u8],
    ) -> Result<Option<[u8; 32]>, AuthError> {
        if !self.supports(AUTHORITY) {
            return Ok(None);
        }
        let request = GetTokenAuthorityRequest {
            Host: host.to_string(),
            Salt: salt.to_vec(),
            ..GetTokenAuthorityRequest::default()
        };
        match self.auth().get_token_authority_with_options(request, auth_options()).await {
            Ok(response) => Ok(response.into_owned().PublicKey.try_into().ok()),
            Err(error) => {
                let error = RpcError::new(AUTHORITY, error);
                if error.is_absent() { Ok(None) } else { Err(AuthError::Rpc(error)) }
            }
        }
    }

    /// Has the client sign `payload` with the key of [`Session::token_authority`].
    ///
    /// # Errors
    /// [`AuthError::Absent`] when the client keeps no key; otherwise its failure.
    pub async fn verify_token_authority(
        &self,
        host: &str,
        payload: &[u8],
        salt: &[u8],
    ) -> Result<Vec<u8>, AuthError> {
        let absent = AuthError::Absent { what: "token authority" };
        if !self.supports(VERIFY) {
            return Err(absent);
        }
        let request = VerifyTokenAuthorityRequest {
            Host: host.to_string(),
            Payload: payload.to_vec(),
            Salt: salt.to_vec(),
            ..VerifyTokenAuthorityRequest::default()
        };
        match self.auth().verify_token_authority_with_options(request, auth_options()).await {
            Ok(response) => Ok(response.into_owned().Signed),
            Err(error) => {
                let error = RpcError::new(VERIFY, error);
                Err(if error.is_absent() { absent } else { AuthError::Rpc(error) })
            }
        }
    }

    fn auth(&self) -> AuthClient<crate::tunnel::Transport> {
        AuthClient::new(self.transport().clone(), self.config())
    }
}

fn auth_options() -> CallOptions {
    Session::options().with_timeout(TIMEOUT)
}
