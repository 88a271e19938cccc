//! Values of the labels of builders, buildpackages, app images and cache images.
//!
//! Names of JSON keys are the ones that other lifecycles and pack write and read. Reading is
//! tolerant (`default` everywhere): such labels come from other people's images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::descriptor::{License, Stack, Target};
use crate::order::{GroupElement, Order};

/// `io.buildpacks.builder.metadata`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuilderMetadata {
    /// What the builder is for.
    pub description: String,
    /// Its buildpacks.
    pub buildpacks: Vec<ModuleInfo>,
    /// Its extensions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<ModuleInfo>,
    /// Its run image, in the deprecated form.
    pub stack: StackMetadata,
    /// The lifecycle in it.
    pub lifecycle: LifecycleInfo,
    /// Who made it.
    #[serde(rename = "createdBy")]
    pub created_by: CreatedBy,
    /// Its run images.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<RunImage>,
}

/// A module as a builder lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleInfo {
    /// Its id.
    pub id: String,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where to read about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub homepage: String,
    /// Words to find it by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
    /// Licenses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub licenses: Vec<License>,
}

/// A run image and where else it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunImage {
    /// Its reference.
    pub image: String,
    /// Other references of the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
}

/// `stack`: the run image in the deprecated form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StackMetadata {
    /// The run image.
    #[serde(rename = "runImage")]
    pub run_image: RunImage,
}

/// The lifecycle of a builder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LifecycleInfo {
    /// Its version.
    pub version: String,
    /// Deprecated: one API of each kind.
    pub api: LifecycleApis,
    /// APIs it speaks.
    pub apis: ApiRanges,
}

/// One API of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LifecycleApis {
    /// Buildpack API.
    pub buildpack: String,
    /// Platform API.
    pub platform: String,
}

/// APIs of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiRanges {
    /// Buildpack APIs.
    pub buildpack: ApiRange,
    /// Platform APIs.
    pub platform: ApiRange,
}

/// APIs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiRange {
    /// With a warning.
    pub deprecated: Option<Vec<String>>,
    /// Without.
    pub supported: Option<Vec<String>>,
}

/// Who made a builder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreatedBy {
    /// Program.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// `io.buildpacks.buildpack.layers`: by id, then by version.
pub type ModuleLayers = BTreeMap<String, BTreeMap<String, ModuleLayer>>;

/// A module and the layer it is in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleLayer {
    /// Its Buildpack API.
    pub api: String,
    /// Deprecated stacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<Stack>,
    /// What it runs on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// The order of a composite.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order: Order,
    /// Digest of the uncompressed layer.
    #[serde(rename = "layerDiffID")]
    pub layer_diff_id: String,
    /// Where to read about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub homepage: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// `io.buildpacks.buildpack.system`, and `[system]` of `system.toml` and `builder.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemOrder {
    /// Before every group.
    pub pre: SystemModules,
    /// After every group.
    pub post: SystemModules,
}

/// System buildpacks of one side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemModules {
    /// The buildpacks.
    pub buildpacks: Vec<GroupElement>,
}

/// `io.buildpacks.buildpackage.metadata`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildpackageMetadata {
    /// The root module.
    #[serde(flatten)]
    pub module: ModuleInfo,
    /// Stacks that all its modules run on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<Stack>,
}

/// `io.buildpacks.lifecycle.metadata`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LifecycleMetadata {
    /// Layers of the app. Other forms, in very old images, are kept as they are.
    pub app: serde_json::Value,
    /// The SBOM layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sbom: Option<LayerSha>,
    /// Layers of buildpacks.
    pub buildpacks: Vec<BuildpackLayers>,
    /// The layer of the launcher's config.
    pub config: LayerSha,
    /// The layer of the launcher.
    pub launcher: LayerSha,
    /// The layer of process types.
    #[serde(rename = "process-types")]
    pub process_types: LayerSha,
    /// The run image beneath.
    #[serde(rename = "runImage")]
    pub run_image: RunImageMetadata,
    /// The run image in the deprecated form.
    pub stack: StackMetadata,
}

/// A layer by the digest of its uncompressed tar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerSha {
    /// `sha256:…`.
    pub sha: String,
}

/// Layers of one buildpack.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildpackLayers {
    /// Its id.
    pub key: String,
    /// Its version.
    pub version: String,
    /// By name.
    pub layers: BTreeMap<String, LayerMetadata>,
    /// `store.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreMetadata>,
}

/// One layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerMetadata {
    /// `sha256:…` of its uncompressed tar.
    pub sha: String,
    /// `[metadata]` of `<layer>.toml`.
    pub data: serde_json::Value,
    /// Whether buildpacks that build later see it.
    pub build: bool,
    /// Whether it is in the image.
    pub launch: bool,
    /// Whether it is cached.
    pub cache: bool,
}

/// `store.toml` in a label.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreMetadata {
    /// Free form.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// The run image beneath an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunImageMetadata {
    /// Digest of its last layer, uncompressed.
    #[serde(rename = "topLayer")]
    pub top_layer: String,
    /// Its exact reference, with digest.
    pub reference: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Other names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
}

/// `io.buildpacks.lifecycle.cache.metadata`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheMetadata {
    /// The SBOM layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sbom: Option<LayerSha>,
    /// Layers of buildpacks.
    pub buildpacks: Vec<BuildpackLayers>,
}

/// `io.buildpacks.build.metadata`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildMetadata {
    /// Buildpacks that took part.
    pub buildpacks: Vec<ImageBuildpack>,
    /// Extensions that took part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<ImageBuildpack>,
    /// The launcher.
    pub launcher: Launcher,
    /// Processes.
    pub processes: Vec<ProcessValue>,
    /// The default one, as a buildpack said.
    #[serde(rename = "buildpack-default-process-type", skip_serializing_if = "String::is_empty")]
    pub default_process: String,
}

/// A buildpack that took part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageBuildpack {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Where to read about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub homepage: String,
}

/// The launcher of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Launcher {
    /// Its version.
    pub version: String,
    /// Where it was made from.
    pub source: LauncherSource,
}

/// Where a launcher was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LauncherSource {
    /// In a repository.
    pub git: GitSource,
}

/// A commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GitSource {
    /// The repository.
    pub repository: String,
    /// The commit.
    pub commit: String,
}

/// A process in a label. Readers accept a `command` that is a string (Platform API before 0.10).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessValue {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Program and fixed arguments.
    #[serde(deserialize_with = "crate::process::one_or_many")]
    pub command: Vec<String>,
    /// Arguments that users can replace.
    pub args: Vec<String>,
    /// Without a shell.
    pub direct: bool,
    /// The buildpack it comes from.
    #[serde(rename = "buildpackID")]
    pub buildpack_id: String,
    /// Where it starts.
    #[serde(rename = "working-dir", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Execution environments.
    #[serde(rename = "exec-env", skip_serializing_if = "Vec::is_empty")]
    pub exec_env: Vec<String>,
}
