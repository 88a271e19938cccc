//! `moby.buildkit.v1.Control`: the API that every BuildKit client speaks first.

mod filter;
mod health;
mod service;
mod solve;
pub(crate) mod status;
mod usage;

pub(crate) use health::HealthService;
pub(crate) use service::ControlService;
