//! The gateway: `LLBBridge`, through which frontends and clients drive a build.

mod answer;
mod attestations;
pub(crate) mod bridge;
mod capabilities;
mod containers;
mod dockerfile;
pub(crate) mod entitlements;
pub(crate) mod files;
mod image_frontend;
mod metadata;
pub(crate) mod platforms;
pub(crate) mod policy;
mod processes;
mod remains;
mod service;

pub(crate) use service::GatewayService;
