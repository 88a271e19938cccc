//! OCI values: reference, manifest, config, layer, archive, layout and registry client.
//!
//! Values do not change; reading, writing, packing and transferring are separate verbs:
//!
//! * [`Reference`], [`Platform`], [`Descriptor`], [`Manifest`], [`Index`], [`ImageConfig`]: values;
//! * [`layer`]: layer tar to directory and back;
//! * [`archive`]: what `ADD` unpacks;
//! * [`layout`]: images as one OCI or Docker tar;
//! * [`registry`]: the distribution protocol.
//!
//! Everything read here was written by strangers: sizes, counts and depths are bounded by named
//! constants, and paths are resolved by the kernel beneath a directory descriptor.

pub mod archive;
mod config;
pub mod layer;
pub mod layout;
mod manifest;
pub mod media;
mod platform;
mod reference;
pub mod registry;

pub use config::{
    ConfigError, ContainerConfig, Healthcheck, History, ImageConfig, RootFs, chain_ids,
};
pub use manifest::{Descriptor, Document, DocumentError, Index, MAX_DOCUMENT, Manifest};
pub use platform::{ParsePlatformError, Platform};
pub use reference::{DEFAULT_DOMAIN, ParseReferenceError, Reference};
