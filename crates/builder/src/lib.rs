//! The data plane: control API, sessions, sources, operations, exporters.
//!
//! A builder owns one project's store and serves BuildKit's API over it. It wires the rooms
//! below: frontends turn sources into graphs, the solver schedules them, the sandbox runs their
//! steps, the store keeps what they made. It runs inside an enclosure, without privilege on the
//! host, and knows of no other project.

// Handlers name their response types; nothing outside this crate implements them differently.
#![allow(refining_impl_trait)]
// Frontends may ask for other frontends, so futures of builds are nested deeply; the compiler counts the levels.
#![recursion_limit = "256"]

mod admission;
mod attest;
mod blocking;
mod builder;
mod buildpacks;
mod cache;
mod collect;
mod config;
mod content_digest;
mod context;
mod control;
mod credentials;
mod debug;
mod devices;
mod error_details;
mod export;
mod failure;
mod filters;
mod gateway;
mod history;
mod listener;
mod network_record;
mod online;
mod op;
mod pieces;
mod provenance;
mod registries;
mod remains;
mod rooted;
mod run;
mod runtime;
mod serving;
mod snapshot;
mod source;
mod tls;
mod turns;
mod user;
mod wire_time;
mod worker;
mod xattrs;

pub use config::{
    Accelerator, BuildLimits, Cdi, Config, ConfigError, DiskSpace, Dns, GcPolicy, Grpc, History,
    Hypervisor, Isolation, KeyPair, Landlock, Limits, Log, Otel, OtelProtocol, Registry, Span,
    StepLimits, Tls, TlsPem, UnknownProtocol, Vm as VmConfig, Worker as WorkerConfig, Workers,
};
pub use listener::Listener;
pub use run::{Parts, RunError, run};
