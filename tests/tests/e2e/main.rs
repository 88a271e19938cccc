//! Builds end to end: the real program, real registries, real sandboxes, and clients that are not ours.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod add;
mod attestations;
mod bundles;
mod cache_transfer;
mod caching;
mod content;
mod control;
mod copy;
mod credentials;
mod egress;
mod failures;
mod gateway;
mod gvisor;
mod history;
mod image_frontend;
mod images;
mod interruption;
mod lazy;
mod levels;
mod limits;
mod mounts;
mod nested;
mod network;
mod outputs;
mod program;
mod quota;
mod reproducible;
mod run;
mod secrets;
mod settings;
mod sources;
mod stages;
mod tls;
mod users;
mod variables;
mod walls;
