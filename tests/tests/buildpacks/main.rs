//! Builds by buildpacks, end to end: real builder images, a real registry, and podman to run what came out.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod detection;
mod export;
mod flow;
mod launch;
mod malformed;
mod second;
mod walls;
mod walls_resources;
