//! Logging in: the server shows a page, and gives a token when somebody has approved there.

use chrono::{DateTime, Utc};
use cofferdam_wire::depot::cli::v1beta1::{FinishLoginRequest, StartLoginRequest};
use cofferdam_wire::depot::core::v1::ListOrganizationsRequest;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::time;

/// A login that waits for its approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingLogin {
    /// What [`ApiClient::finish_login`] asks with.
    pub id: String,
    /// The page to open in a browser.
    pub approve_url: String,
}

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Organization {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
}

impl ApiClient {
    /// Begins a login.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn start_login(&self) -> Result<PendingLogin, ApiError> {
        let call = self
            .login_service()
            .start_login_with_options(StartLoginRequest::default(), Self::quick())
            .await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        if answer.id.is_empty() || answer.approve_url.is_empty() {
            return Err(ApiError::Incomplete { what: "page to approve the login" });
        }
        Ok(PendingLogin { id: answer.id, approve_url: answer.approve_url })
    }

    /// Waits until somebody has approved; gives the token.
    ///
    /// # Errors
    /// See [`ApiError`]; also when the login was refused or nobody came.
    pub async fn finish_login(&self, id: &str) -> Result<String, ApiError> {
        let request = FinishLoginRequest { id: id.to_owned(), ..FinishLoginRequest::default() };
        let call = self.login_service().finish_login_with_options(request, Self::patient()).await;
        let mut stream = call.map_err(|error| self.failed(error))?;
        let message = stream.message().await.map_err(|error| self.failed(error))?;
        let token = message.map(|message| message.to_owned_message().token).unwrap_or_default();
        if token.is_empty() {
            return Err(ApiError::Incomplete { what: "token" });
        }
        Ok(token)
    }

    /// The organizations the token belongs to.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn organizations(&self) -> Result<Vec<Organization>, ApiError> {
        let call = self
            .organization_service()
            .list_organizations_with_options(ListOrganizationsRequest::default(), Self::quick())
            .await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let organizations = answer.organizations.into_iter().map(|found| Organization {
            created_at: time::read(&found.created_at),
            id: found.org_id,
            name: found.name,
        });
        Ok(organizations.collect())
    }
}
