//! Registry credentials, asked of the client's session for each need and never kept here.

use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_image::registry::{
    Credentials, CredentialsError, Login, Secret, Token, TokenRequest,
};
use cofferdam_session::{AuthError, SessionManager};

/// The credentials of a build's client.
pub(crate) struct SessionCredentials {
    sessions: Arc<SessionManager>,
    ids: Vec<String>,
}

impl SessionCredentials {
    /// Credentials of the sessions `ids`, asked in order.
    pub(crate) fn new(sessions: &Arc<SessionManager>, ids: Vec<String>) -> Arc<Self> {
        Arc::new(Self { sessions: Arc::clone(sessions), ids })
    }

    fn failed(host: &str, error: &AuthError) -> CredentialsError {
        CredentialsError { host: host.to_owned(), reason: crate::failure::chain(error) }
    }
}

#[async_trait]
impl Credentials for SessionCredentials {
    fn identity(&self) -> String {
        self.ids.join(",")
    }

    async fn login(&self, host: &str) -> Result<Option<Login>, CredentialsError> {
        let mut trouble = None;
        for id in &self.ids {
            // A client that left has nothing to give; anonymous access may still do.
            let Some(session) = self.sessions.lookup(id) else { continue };
            match session.credentials(host).await {
                Ok(credentials) if credentials.is_anonymous() => {}
                Ok(credentials) => {
                    return Ok(Some(Login {
                        username: credentials.username.clone(),
                        secret: Secret::new(credentials.secret.clone()),
                    }));
                }
                Err(AuthError::Absent { .. }) => {}
                // It may be about to leave, while another client of the same work stays.
                Err(error) => trouble = Some(Self::failed(host, &error)),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    async fn token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        // Clients that hold a token authority key fetch tokens themselves; ours does not announce
        // one, and those that do also answer for credentials.
        let _ = request;
        Ok(None)
    }
}
