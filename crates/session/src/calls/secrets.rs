//! `Secrets.GetSecret`: one secret, for the one step that mounts it.

use cofferdam_wire::moby::buildkit::secrets::v1::{GetSecretRequest, SecretsClient};
use connectrpc::ErrorCode;

use crate::session::{RpcError, Session};

const METHOD: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";

/// A secret that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No session knows it; optional mounts go on without.
    #[error("secret {id}: not found")]
    NotFound {
        /// The id asked for.
        id: String,
    },
    /// The call failed.
    #[error("read secret {id}")]
    Rpc {
        /// The id asked for.
        id: String,
        /// What went wrong.
        #[source]
        source: RpcError,
    },
}

impl Session {
    /// The bytes of secret `id`. The caller keeps them only for the step that asked.
    ///
    /// # Errors
    /// [`SecretError::NotFound`] when the client has no secrets or not this one.
    pub async fn get_secret(&self, id: &str) -> Result<Vec<u8>, SecretError> {
        let missing = || SecretError::NotFound { id: id.to_string() };
        if !self.supports(METHOD) {
            return Err(missing());
        }
        let client = SecretsClient::new(self.transport().clone(), self.config());
        let request = GetSecretRequest { ID: id.to_string(), ..GetSecretRequest::default() };
        match client.get_secret_with_options(request, Self::options()).await {
            Ok(response) => Ok(response.into_owned().data),
            Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Unimplemented) => {
                Err(missing())
            }
            Err(error) => {
                Err(SecretError::Rpc { id: id.to_string(), source: RpcError::new(METHOD, error) })
            }
        }
    }
}
