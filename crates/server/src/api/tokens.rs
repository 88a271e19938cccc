//! Tokens of a project. A secret leaves the server once, in the answer that makes it.

use cofferdam_access::{Action, Resource, TokenKind, mint};
use cofferdam_records::NewToken;
use cofferdam_wire::depot::core::v1 as wire;
use connectrpc::{ConnectError, RequestContext, Response, ServiceResult};

use super::{Api, failed};

/// Longest description.
const MAX_DESCRIPTION: usize = 500;

impl Api {
    pub(super) async fn list_tokens(
        &self,
        context: &RequestContext,
        project: &str,
    ) -> ServiceResult<wire::ListTokensResponse> {
        self.authorize(context, Action::ManageTokens, Resource::Project(project)).await?;
        let tokens = self.records.project_tokens(project).await.map_err(failed)?;
        let tokens = tokens.into_iter().map(|token| wire::list_tokens_response::Token {
            token_id: token.id,
            description: token.description,
            ..Default::default()
        });
        Response::ok(wire::ListTokensResponse { tokens: tokens.collect(), ..Default::default() })
    }

    pub(super) async fn create_token(
        &self,
        context: &RequestContext,
        request: wire::CreateTokenRequest,
    ) -> ServiceResult<wire::CreateTokenResponse> {
        let project = &request.project_id;
        let resource = Resource::Project(project);
        let grant = self.authorize(context, Action::ManageTokens, resource).await?;
        let (secret, hash) = mint(TokenKind::Project);
        let token = NewToken {
            kind: TokenKind::Project,
            organization: grant.organization,
            project: Some(project.clone()),
            build: None,
            parent: None,
            description: description(&request.description)?,
            hash,
            expires_at: None,
        };
        let token = self.records.create_token(token).await.map_err(failed)?;
        tracing::info!(project, token = token.id, "a project token was created");
        Response::ok(wire::CreateTokenResponse { token_id: token.id, secret, ..Default::default() })
    }

    pub(super) async fn update_token(
        &self,
        context: &RequestContext,
        request: wire::UpdateTokenRequest,
    ) -> ServiceResult<wire::UpdateTokenResponse> {
        let id = &request.token_id;
        self.authorize(context, Action::ManageTokens, Resource::Token(id)).await?;
        let description = description(&request.description)?;
        self.records.update_token(id, &description).await.map_err(failed)?;
        Response::ok(wire::UpdateTokenResponse::default())
    }

    pub(super) async fn delete_token(
        &self,
        context: &RequestContext,
        id: &str,
    ) -> ServiceResult<wire::DeleteTokenResponse> {
        self.authorize(context, Action::ManageTokens, Resource::Token(id)).await?;
        let gone = self.records.delete_token(id).await.map_err(failed)?;
        self.access.revocations().revoke(&gone);
        tracing::info!(token = id, "a token was revoked");
        Response::ok(wire::DeleteTokenResponse::default())
    }
}

fn description(text: &str) -> Result<String, ConnectError> {
    if text.len() > MAX_DESCRIPTION || text.chars().any(char::is_control) {
        return Err(ConnectError::invalid_argument(format!(
            "description: expected at most {MAX_DESCRIPTION} bytes without control characters"
        )));
    }
    Ok(text.to_owned())
}
