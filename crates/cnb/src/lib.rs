//! Cloud Native Buildpacks: the formats that builders, buildpacks, lifecycle and images share.
//!
//! Values in, values out: TOML and JSON of the specification (Buildpack API 0.7 to 0.12, Platform
//! API 0.7 to 0.15, Distribution 0.3), parsed with bounds and written as other lifecycles write
//! them. The texts come from strangers. This crate must never open a file or know a builder.

mod api;
mod descriptor;
mod env;
pub mod exit;
mod image;
mod label;
mod layer;
mod layer_tar;
mod module;
mod order;
mod plan;
mod process;
mod sbom;
mod text;
mod untrusted;

pub use api::{ApiError, ApiVersion, BUILDPACK_APIS, PLATFORM_API, PLATFORM_APIS};
pub use descriptor::{Descriptor, DescriptorError, Info, License, Stack, Target, TargetDistro};
pub use env::{Env, EnvDefault, Phase, apply_env_dir, apply_layer_roots, platform_env};
pub use image::{
    ApiRange, ApiRanges, BuildMetadata, BuilderMetadata, BuildpackLayers, BuildpackageMetadata,
    CacheMetadata, CreatedBy, GitSource, ImageBuildpack, Launcher, LauncherSource, LayerMetadata,
    LayerSha, LifecycleApis, LifecycleInfo, LifecycleMetadata, ModuleInfo, ModuleLayer,
    ModuleLayers, ProcessValue, RunImage, RunImageMetadata, StackMetadata, StoreMetadata,
    SystemModules, SystemOrder,
};
pub use label::{
    BASE_LABEL_PREFIX, BUILD_METADATA, BUILDER_METADATA, BUILDPACK_LAYERS, BUILDPACK_ORDER,
    BUILDPACKAGE_METADATA, CACHE_METADATA, DISTRO_NAME, DISTRO_VERSION, EXEC_ENV, EXTENSION_LAYERS,
    LIFECYCLE_METADATA, ORDER_EXTENSIONS, PROJECT_METADATA, REBASABLE, STACK_ID,
    STACK_LABEL_PREFIX, STACK_MIXINS, SYSTEM,
};
pub use layer::{LayerFile, LayerNameError, LayerTypes, StoreFile, layer_name};
pub use layer_tar::{Device, LAYER_TIME, LayerTar, LayerTarError};
pub use module::{Id, IdError, Kind, ModuleRef, Version, escape};
pub use order::{Group, GroupElement, Order, OrderFile};
pub use plan::{BuildPlan, PlanEntry, PlanFile, Provide, Require, UnmetFile};
pub use process::{Label, LaunchFile, MetadataFile, MetadataModule, Process, Slice};
pub use sbom::SbomFormat;
pub use text::{FileError, MAX_FILE, parse_json, parse_toml};
pub use untrusted::exercise;
