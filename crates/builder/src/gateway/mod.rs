//! The gateway: `LLBBridge`, through which frontends and clients drive a build.

pub(crate) mod bridge;
mod capabilities;
mod dockerfile;
pub(crate) mod entitlements;
pub(crate) mod files;
mod service;

pub(crate) use service::GatewayService;
