//! The session tunnel and the protocols inside it, both halves.
//!
//! A BuildKit client opens `Control.Session` and, inside its byte stream, serves gRPC to the
//! daemon: local directories, credentials, secrets, agents, outputs. [`SessionManager`] is the
//! daemon's end of that tunnel and [`Session`] its calls; [`Services`] and [`serve`] are the
//! client's end. [`fsutil`] is the directory protocol both ends speak, [`patterns`] the
//! `.dockerignore` language.
//!
//! This crate must never hold a secret or credential longer than the call that asked for it,
//! never write one to a log, and never follow a path from the other end outside the directory
//! it was given.

mod calls;
pub mod fsutil;
mod manager;
mod metadata;
pub mod patterns;
mod services;
mod session;
mod tunnel;

pub use calls::auth::{AuthError, Credentials, Token, TokenRequest};
pub use calls::content::{ContentError, ContentInfo, ContentWriter};
pub use calls::export::{BlockingWriter, ExportError, ExportTarget, FileSender};
pub use calls::exporter::WantedExporter;
pub use calls::local::{LocalError, LocalRequest};
pub use calls::secrets::SecretError;
pub use calls::ssh::{AgentError, DEFAULT_AGENT};
pub use calls::upload::{UploadError, UploadStream};
pub use manager::{LookupError, OpenError, SessionManager};
pub use metadata::headers;
pub use services::auth::{DockerConfig, DockerConfigError};
pub use services::content::{ContentStore, ContentStoreError};
pub use services::file_send::{FileSendService, FileTarget, OutputMetadata, OutputTarget};
pub use services::secrets::{SecretSource, SecretStore, SecretStoreError};
pub use services::ssh::{AgentSource, AgentSourceError};
pub use services::{Dispatch, LocalDirectory, Services, UploadSource, session_headers};
pub use session::{RpcError, Session};
pub use tunnel::{MAX_MESSAGE, Transport, TunnelIo, connect, serve};
