//! The control plane: API, gateway to builders, life of builds, registry and pages, on one port.
//!
//! The server decides who may do what and keeps the records. It never executes what a tenant wrote and never parses a tenant's
//! archives: bytes of a build pass through the gateway unread, to the builder of that project alone.

// Handlers name their response types; nothing outside this crate implements them differently.
#![allow(refining_impl_trait)]

mod api;
mod builds;
mod config;
mod daily;
mod gateway;
mod hardware;
mod listen;
mod metrics;
mod origin;
mod registry;
mod run;
mod start;
mod walls;
mod web;

pub use config::{Config, ConfigError, Oidc, OidcIssuer, TlsFiles};
pub use run::{Options, ServerError, run};
pub use start::{FirstToken, create_organization};
