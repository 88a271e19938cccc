//! The wire: every message, server trait and client that crosses a process boundary,
//! generated from `proto/`.
//!
//! Module paths follow the proto packages: `wire::moby::buildkit::v1`, `wire::pb`,
//! `wire::fsutil::types` and so on. This crate must never hold behaviour: parsing rules,
//! limits and meanings belong to the crates that use the messages.

#[allow(warnings, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub use generated::*;
