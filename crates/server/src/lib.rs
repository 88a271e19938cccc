//! The control plane: API, gateway to builders, life of builds, registry and pages, on one port.
//!
//! The server decides who may do what and keeps the records. It never executes what a tenant wrote and never parses a tenant's
//! archives: bytes of a build pass through the gateway unread, to the builder of that project alone.

// Handlers name their response types; nothing outside this crate implements them differently.
#![allow(refining_impl_trait)]

mod api;
pub mod backup;
mod builds;
mod check;
mod config;
mod daily;
mod gateway;
mod hardware;
pub mod layout;
mod listen;
mod memory;
mod metrics;
mod notify;
mod origin;
mod registry;
mod run;
mod start;
mod walls;
mod web;

pub use check::{CheckError, Checked, check, versions};
pub use config::{Config, ConfigError, Oidc, OidcIssuer, TlsFiles};
pub use memory::{bound_builders_memory, bound_memory, give_back_memory};
pub use notify::notify;
pub use run::{Options, ServerError, run};
pub use start::{FirstToken, create_organization};
