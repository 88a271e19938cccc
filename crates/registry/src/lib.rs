//! The image registry: the OCI distribution API below `/v2/`, one namespace per project.
//!
//! Repositories are `<project>` and `<project>/<more…>`. Manifests, tags and who refers to what
//! are records; blobs and the manifests' bytes are files, by digest, per project. Follows the
//! [distribution specification 1.1](https://github.com/opencontainers/distribution-spec/blob/main/spec.md).
//!
//! This crate must never decide who may do what (an [`Authorize`] does), look into a layer, or
//! let one project's content be seen through another's name.

mod api;
mod auth;
mod body;
mod collect;
mod digest;
mod error;
mod exercise;
mod images;
mod limits;
mod manifest;
mod measure;
mod name;
mod push;
mod range;
mod registry;
mod route;
mod tree;
mod upload;
mod verify;

pub use auth::{Authorize, Operation, Permit, Refusal};
pub use collect::{CollectError, Collected};
pub use exercise::{exercise_manifest, exercise_names, exercise_ranges};
pub use images::{DeleteImageError, ImageName, ParseImageNameError};
pub use limits::Limits;
pub use registry::{OpenRegistryError, Registry, RegistryOptions, RemoveProjectError};
pub use verify::Trouble;
