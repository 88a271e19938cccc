//! `Secrets`: files and environment variables of the client, by id.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::PathBuf;

use cofferdam_wire::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse, Secrets};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

/// Largest secret, the cap of BuildKit's own client: it travels in one message.
const MAX_SECRET: u64 = 500 << 10;

/// Where a secret comes from; read when a build asks for it.
#[derive(Clone)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// An environment variable of this process.
    Env(String),
    /// These bytes.
    Value(Vec<u8>),
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "File({})", path.display()),
            Self::Env(name) => write!(formatter, "Env({name})"),
            Self::Value(_) => formatter.write_str("Value(..)"),
        }
    }
}

/// A secret that cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum SecretStoreError {
    /// No secret of that id.
    #[error("secret {id} not found")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The environment has no such variable.
    #[error("secret {id}: environment variable {name} is not set")]
    NoVariable {
        /// The id.
        id: String,
        /// The variable.
        name: String,
    },
    /// The file cannot be read.
    #[error("secret {id}: read {}", path.display())]
    File {
        /// The id.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Larger than the protocol's clients allow.
    #[error("secret {id} is larger than 500 KiB")]
    TooLarge {
        /// The id.
        id: String,
    },
}

/// The secrets of one session.
#[derive(Debug, Clone, Default)]
pub struct SecretStore(HashMap<String, SecretSource>);

impl SecretStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a secret after a look at it, so that a wrong path fails before the build starts.
    ///
    /// # Errors
    /// A source that cannot be read now, or is too large.
    pub fn add(
        &mut self,
        id: impl Into<String>,
        source: SecretSource,
    ) -> Result<(), SecretStoreError> {
        let id = id.into();
        read(&id, &source)?;
        self.0.insert(id, source);
        Ok(())
    }

    /// The bytes of secret `id`.
    ///
    /// # Errors
    /// An unknown id, or a source that cannot be read.
    pub fn get(&self, id: &str) -> Result<Vec<u8>, SecretStoreError> {
        let source = self.0.get(id);
        read(id, source.ok_or_else(|| SecretStoreError::NotFound { id: id.to_string() })?)
    }
}

fn read(id: &str, source: &SecretSource) -> Result<Vec<u8>, SecretStoreError> {
    let id = id.to_string();
    let bytes = match source {
        SecretSource::Value(bytes) => bytes.clone(),
        SecretSource::Env(name) => match std::env::var_os(name) {
            Some(value) => value.into_encoded_bytes(),
            None => return Err(SecretStoreError::NoVariable { id, name: name.clone() }),
        },
        SecretSource::File(path) => {
            let mut bytes = Vec::new();
            std::fs::File::open(path)
                .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
                .map_err(|source| SecretStoreError::File {
                    id: id.clone(),
                    path: path.clone(),
                    source,
                })?;
            bytes
        }
    };
    if bytes.len() as u64 > MAX_SECRET {
        return Err(SecretStoreError::TooLarge { id });
    }
    Ok(bytes)
}

pub(super) struct SecretService(SecretStore);

impl SecretService {
    pub(super) const fn new(store: SecretStore) -> Self {
        Self(store)
    }
}

impl Secrets for SecretService {
    async fn get_secret(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetSecretRequest>,
    ) -> ServiceResult<GetSecretResponse> {
        match self.0.get(request.ID) {
            Ok(data) => Response::ok(GetSecretResponse { data, ..GetSecretResponse::default() }),
            Err(error @ SecretStoreError::NotFound { .. }) => {
                Err(ConnectError::not_found(error.to_string()))
            }
            Err(error) => Err(ConnectError::internal(error.to_string())),
        }
    }
}
