//! What the end-to-end tests stand on: real registries, real builders, real builds, and readers of what they made.
//!
//! Nothing here knows the inside of the product: the binary is driven as people drive it, registries are spoken to over HTTP,
//! archives are read by other people's code. A helper that cannot do its work panics with what it saw, since a test that cannot
//! go on should stop where it is. Everything started here is ended by its process id when its value is dropped, and with the
//! test process at the latest.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod agent;
pub mod bucket;
mod build;
mod builder;
pub mod buildpacks;
pub mod census;
mod certificates;
mod client;
mod context;
mod disk;
mod docker;
pub mod http;
mod image;
pub mod images;
pub mod leftovers;
pub mod marks;
mod outcome;
mod places;
mod process;
pub mod registry;
mod server;
mod shell;
pub mod strace;
pub mod usage;
pub mod wire;

pub use agent::Agent;
pub use build::{Build, RunningBuild};
pub use builder::{Builder, Home, Options};
pub use census::Census;
pub use client::Client;
pub use context::Context;
pub use disk::Disk;
pub use docker::Docker;
pub use image::{Blob, Entry, Image, digest, entries};
pub use outcome::{Outcome, Step};
pub use places::{is_root, need_root, program, repository, test_client, test_image, test_kernel};
pub use process::Process;
pub use registry::Registry;
pub use server::{Answer, Data, Project, Server};
pub use shell::sh;
