//! `moby.buildkit.v1.Control`: the API that every BuildKit client speaks first.

mod content;
mod exporting;
mod health;
mod history;
mod service;
mod solve;
pub(crate) mod status;
mod traces;
pub(crate) mod usage;

pub(crate) use content::ContentService;
pub(crate) use health::HealthService;
pub(crate) use service::ControlService;
pub(crate) use traces::TraceService;
