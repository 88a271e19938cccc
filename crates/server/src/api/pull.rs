//! Pull tokens: short-lived, for the registry alone, handed to container engines.

use chrono::{TimeDelta, Utc};
use cofferdam_access::{Grant, TokenKind, mint};
use cofferdam_records::NewToken;
use connectrpc::ConnectError;

use super::{Api, failed};

/// How long a pull token is accepted.
const LIFE: TimeDelta = TimeDelta::hours(1);

impl Api {
    /// A new pull token for a project that the grant allows one for. What revokes the caller's token revokes it.
    pub(super) async fn pull_token(
        &self,
        grant: &Grant,
        project: &str,
    ) -> Result<String, ConnectError> {
        let (secret, hash) = mint(TokenKind::Pull);
        self.records
            .create_token(NewToken {
                kind: TokenKind::Pull,
                organization: grant.organization.clone(),
                project: Some(project.to_owned()),
                build: None,
                parent: grant.token.as_ref().map(|token| token.id.clone()),
                description: "pull".to_owned(),
                hash,
                expires_at: Some(Utc::now() + LIFE),
            })
            .await
            .map_err(failed)?;
        Ok(secret)
    }
}
