//! Builds by buildpacks: which builds are, and their flags as attributes of the frontend.
//!
//! The attributes and the names in the response are the frontend's. Nothing here decides what is trusted.

mod answers;
mod arguments;
mod attributes;
mod caches;
mod choice;
mod environment;
mod modules;
mod project;
mod volumes;

pub(crate) use arguments::BuildpackArgs;

pub(super) use answers::{extra_metadata, finish, flow_line, is_answer, lifecycle_code};
pub(super) use attributes::{labels, plan};
pub(super) use choice::{Choice, HOW, Surroundings, choose};
pub(crate) use modules::Modules;
pub(super) use project::Project;

/// The frontend that runs buildpacks.
pub(super) const FRONTEND: &str = "buildpacks.v0";
