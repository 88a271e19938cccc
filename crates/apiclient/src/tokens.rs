//! Tokens of a project.

use std::fmt;

use cofferdam_wire::depot::core::v1 as wire;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its identity.
    pub id: String,
    /// What it is for.
    pub description: String,
}

/// A token that was made just now.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct CreatedToken {
    /// Its identity.
    pub id: String,
    /// The secret, which the server shows this once.
    pub secret: String,
}

impl fmt::Debug for CreatedToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CreatedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// The tokens of a project.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn tokens(&self, project: &str) -> Result<Vec<Token>, ApiError> {
        let request =
            wire::ListTokensRequest { project_id: project.to_owned(), ..Default::default() };
        let call = self.project_service().list_tokens_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let tokens = answer
            .tokens
            .into_iter()
            .map(|token| Token { id: token.token_id, description: token.description });
        Ok(tokens.collect())
    }

    /// Makes a token for a project.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn create_token(
        &self,
        project: &str,
        description: &str,
    ) -> Result<CreatedToken, ApiError> {
        let request = wire::CreateTokenRequest {
            project_id: project.to_owned(),
            description: description.to_owned(),
            ..Default::default()
        };
        let call = self.project_service().create_token_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        if answer.secret.is_empty() {
            return Err(ApiError::Incomplete { what: "token" });
        }
        Ok(CreatedToken { id: answer.token_id, secret: answer.secret })
    }

    /// Says anew what a token is for.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn update_token(&self, id: &str, description: &str) -> Result<(), ApiError> {
        let request = wire::UpdateTokenRequest {
            token_id: id.to_owned(),
            description: description.to_owned(),
            ..Default::default()
        };
        let call = self.project_service().update_token_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }

    /// Revokes a token, at once.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn delete_token(&self, id: &str) -> Result<(), ApiError> {
        let request = wire::DeleteTokenRequest { token_id: id.to_owned(), ..Default::default() };
        let call = self.project_service().delete_token_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed_by_accident() {
        let token = CreatedToken { id: "id".into(), secret: "cfd_project_x".into() };
        assert!(!format!("{token:?}").contains("cfd_"));
    }
}
