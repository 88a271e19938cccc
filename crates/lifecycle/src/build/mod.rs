//! What a buildpack gets for `bin/build`, and what its output means.
//!
//! Follows Buildpack API "Phase #3: Build" and "Environment", Platform API "Builder". What a
//! buildpack wrote is hostile: names become directories of an image. Must never touch files.

mod assemble;
mod env;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cofferdam_cnb::{
    ApiVersion, FileError, Label, LayerNameError, LayerTypes, ModuleRef, PlanEntry, PlanFile,
    Process, Slice, exit,
};

pub use assemble::assemble;
pub use env::{EnvRequest, Phase, apply_build_env, module_env, start_env};
pub use read::read_build;

/// What `bin/build` left in its layers directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOutput {
    /// `launch.toml`.
    pub launch: Option<Vec<u8>>,
    /// `build.toml`.
    pub build: Option<Vec<u8>>,
    /// `store.toml`.
    pub store: Option<Vec<u8>>,
    /// Every other `<name>.toml`, and every directory, by name.
    pub layers: BTreeMap<String, LayerOutput>,
    /// Names of files that end in `.sbom.{cdx,spdx,syft}.json`.
    pub sboms: Vec<String>,
}

/// What is there of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerOutput {
    /// `<name>.toml`.
    pub toml: Option<Vec<u8>>,
    /// Whether `<name>` is a directory.
    pub exists: bool,
    /// Which of `bin`, `lib`, `include`, `pkgconfig` are directories in it.
    pub roots: Vec<String>,
    /// Files of `env`.
    pub env: BTreeMap<String, Vec<u8>>,
    /// Files of `env.build`.
    pub env_build: BTreeMap<String, Vec<u8>>,
}

/// What one buildpack built.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltModule {
    /// Which one.
    pub module: ModuleRef,
    /// Its Buildpack API.
    pub api: ApiVersion,
    /// Layers that have a `<name>.toml`, by name.
    pub layers: BTreeMap<String, BuiltLayer>,
    /// Processes; `direct` is always said, `default` only by those that are.
    pub processes: Vec<Process>,
    /// Labels of the image.
    pub labels: Vec<Label>,
    /// Slices of the app.
    pub slices: Vec<Slice>,
    /// Names of the plan that it met.
    pub met: Vec<String>,
    /// `[metadata]` of `store.toml`.
    pub store: Option<toml::Table>,
    /// Where its SBOMs go.
    pub sboms: Vec<SbomPlacement>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// One layer of a buildpack.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BuiltLayer {
    /// What it is for. All false: it is ignored.
    pub types: LayerTypes,
    /// Free form.
    pub metadata: toml::Table,
    /// Whether it has contents.
    pub exists: bool,
    /// Which of `bin`, `lib`, `include`, `pkgconfig` it has.
    pub roots: Vec<String>,
    /// Files of `env`.
    pub env: BTreeMap<String, Vec<u8>>,
    /// Files of `env.build`.
    pub env_build: BTreeMap<String, Vec<u8>>,
}

impl BuiltLayer {
    /// Whether nothing is done with it, for it has no type.
    #[must_use]
    pub fn is_ignored(&self) -> bool {
        !(self.types.launch || self.types.build || self.types.cache)
    }
}

/// Where one SBOM file goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SbomPlacement {
    /// Its file name in the buildpack's layers directory.
    pub from: String,
    /// Path below `<layers>/sbom`: `launch/<buildpack>/<layer>/sbom.cdx.json`.
    pub to: String,
}

/// A buildpack's output that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file is not of its form.
    #[error("{module}: {source}")]
    File {
        /// Which buildpack.
        module: String,
        /// What is wrong.
        source: FileError,
    },
    /// A layer is called what no layer can be called.
    #[error("{module}: {source}")]
    LayerName {
        /// Which buildpack.
        module: String,
        /// What is wrong.
        source: LayerNameError,
    },
    /// More of something than a build can have.
    #[error("{module}: more than {limit} {what}")]
    Limit {
        /// Which buildpack.
        module: String,
        /// What was counted.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
}

impl BuildError {
    /// The exit code a lifecycle ends with.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        i32::from(exit::BUILD)
    }
}

/// The plan of one buildpack: needs of the names it provides, without those that earlier ones met.
#[must_use]
pub fn plan_for(plan: &[PlanEntry], module: &ModuleRef, met: &[String]) -> PlanFile {
    let is_own =
        |entry: &&PlanEntry| entry.providers.contains(module) && !met.contains(&entry.name);
    PlanFile {
        entries: plan.iter().filter(is_own).flat_map(|entry| entry.requires.clone()).collect(),
    }
}
