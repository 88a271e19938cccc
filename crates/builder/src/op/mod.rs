//! Operations: what a vertex does when nothing is cached.
//!
//! One module per operation of LLB. An operation gets its inputs as [`crate::snapshot::Snapshot`]s
//! and returns its outputs; it must never look at other vertices or decide about caching.

pub(crate) mod build;
pub(crate) mod container;
mod container_io;
pub(crate) mod exec;
mod exec_agent;
mod exec_disk;
pub(crate) mod exec_limits;
mod exec_logs;
mod exec_mounts;
pub(crate) mod file;
pub(crate) mod file_op;
pub(crate) mod merge;
mod outputs;
mod past_overlay;
