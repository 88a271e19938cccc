//! The distribution protocol: resolving, pulling and pushing images.
//!
//! A thin client of the
//! [OCI distribution specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md)
//! with Docker's token authentication. It must never send credentials to a host that is neither
//! the registry it was asked to talk to nor that registry's own token server, never follow `urls`
//! of descriptors, and never hand out a manifest or config whose digest was not verified. Blobs
//! are streamed; whoever stores them verifies their digest.

mod auth;
mod challenge;
mod client;
mod config;
mod credentials;
mod endpoint;
mod error;
mod lookup;
mod pace;
mod pull;
mod push;
mod referrers;
mod retry_after;
mod stream;
mod transport;

pub use client::{Client, Fetched, Repository, Resolved};
pub use config::{ClientConfig, HostConfig, KeyPair, is_loopback};
pub use credentials::{
    Anonymous, Credentials, CredentialsError, Login, Secret, Token, TokenRequest,
};
pub use error::RegistryError;
pub use lookup::{LookupError, SystemNames, lookup};
pub use push::{BlobBody, FileBody, Pushed};
pub use stream::BlobStream;
