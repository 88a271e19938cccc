//! Builds by buildpacks, end to end: real builder images, a real registry, and podman to run what came out.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod clients;
mod commands;
mod detection;
mod export;
mod extensions;
mod flags;
mod flow;
mod hostile_images;
mod launch;
mod malformed;
mod packages;
mod project;
mod rebase;
mod second;
mod served;
mod shells;
mod sources;
mod system;
mod walls;
