//! The app image: order of layers, config, labels, what is reused, what is cached.
//!
//! Follows Platform API "Exporter" and the specification's OCI image. Must never read a layer:
//! digests are handed over.

mod config;
mod glob;
mod layers;
mod slice;
#[cfg(test)]
mod tests;

use cofferdam_cnb::{
    ApiVersion, FileError, Launcher, LifecycleMetadata, MetadataFile, ModuleRef, RunImageMetadata,
    exit,
};
use serde_json::Value;

use crate::build::BuiltModule;

pub use config::image_config;
pub(crate) use config::kept_history;
pub use layers::{cache_metadata, cached_layers, launch_layers};
pub use slice::slice_paths;

/// 1980-01-01T00:00:01Z: when reproducible images are made.
pub const EPOCH: i64 = 315_532_801;
/// Where the launcher lies in an app image.
pub const LAUNCHER_PATH: &str = "/cnb/lifecycle/launcher";
/// Where an app image has one link to the launcher for each process type.
pub const PROCESS_DIR: &str = "/cnb/process";

/// What a layer of an app image is; the order here is the order in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerKind {
    /// Made by an extension's Dockerfile.
    Extension {
        /// The instruction.
        instruction: String,
        /// The extension's id.
        id: String,
    },
    /// A launch layer.
    Launch {
        /// Its buildpack.
        module: ModuleRef,
        /// Its name.
        name: String,
    },
    /// SBOMs.
    Sbom,
    /// A slice of an app that has several, from 1.
    Slice(usize),
    /// The whole app.
    Application,
    /// The launcher.
    Launcher,
    /// Its config.
    Config,
    /// Process types.
    ProcessTypes,
}

/// A layer on top of the run image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportLayer {
    /// What it is.
    pub kind: LayerKind,
    /// `sha256:…` of the uncompressed tar.
    pub diff_id: String,
}

/// Where a launch layer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchSource {
    /// Its directory.
    Contents,
    /// The previous image's layer of this `sha256:…`.
    Previous(String),
}

/// A launch layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchLayer {
    /// Its buildpack.
    pub module: ModuleRef,
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: LaunchSource,
    /// The digest that the previous image has for it: with contents of the same digest its layer
    /// there can be used as it is.
    pub previous: Option<String>,
}

/// What an app image is made of.
#[derive(Debug, Clone, Copy)]
pub struct ExportRequest<'a> {
    /// Config of the run image (extended, if extensions did), JSON.
    pub run_config: &'a Value,
    /// Layers of `run_config` that extensions made: the last so many. They are not the run image's.
    pub extension_layers: usize,
    /// Layers on top, in order.
    pub layers: &'a [ExportLayer],
    /// What buildpacks built, in group order.
    pub modules: &'a [BuiltModule],
    /// What [`crate::assemble`] made of it.
    pub metadata: &'a MetadataFile,
    /// The run image: exact reference, name and mirrors. `top_layer` is filled in.
    pub run_image: &'a RunImageMetadata,
    /// `project-metadata.toml` as JSON; null when there is none.
    pub project: &'a Value,
    /// The process type that the user asked for.
    pub process_type: Option<&'a str>,
    /// Execution environment.
    pub exec_env: &'a str,
    /// `/workspace`.
    pub app_dir: &'a str,
    /// `/layers`.
    pub layers_dir: &'a str,
    /// Version and source of the launcher.
    pub launcher: &'a Launcher,
    /// When the image is said to be made, unix seconds; [`EPOCH`] unless the user says.
    pub created: i64,
    /// Platform API of this build.
    pub platform_api: ApiVersion,
}

/// An app image.
#[derive(Debug, Clone, PartialEq)]
pub struct AppImage {
    /// Its config, JSON.
    pub config: Vec<u8>,
    /// Its label of layers.
    pub lifecycle: LifecycleMetadata,
    /// The process type it starts, if it starts one.
    pub default_process: Option<String>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// An app image that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The user asked for a process that is not there.
    #[error("default process type {asked:?} is not among the image's: {known}")]
    Process {
        /// What the user asked for.
        asked: String,
        /// What there is.
        known: String,
    },
    /// A launch layer without contents that no previous image has.
    #[error("{module}: layer {name:?} has no contents, and the previous image has no such layer")]
    NoPrevious {
        /// Its buildpack.
        module: ModuleRef,
        /// Its name.
        name: String,
    },
    /// A layer to cache without contents.
    #[error("{module}: layer {name:?} has cache = true and no contents")]
    NoContents {
        /// Its buildpack.
        module: ModuleRef,
        /// Its name.
        name: String,
    },
    /// The run image's config is not of its form.
    #[error("run image config: {key}: {problem}")]
    RunConfig {
        /// The key.
        key: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A slice's glob.
    #[error("launch.toml: slices.paths: {glob:?}: {problem}")]
    Glob {
        /// The glob.
        glob: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// More of something than an image can have.
    #[error("launch.toml: more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
    /// A file or label could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ExportError {
    /// The exit code a lifecycle ends with.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        i32::from(exit::EXPORT)
    }
}

impl LayerKind {
    /// `created_by` of the layer in the image's history.
    #[must_use]
    pub fn created_by(&self) -> String {
        match self {
            Self::Extension { instruction, id } => {
                format!("Layer: '{instruction}', Created by extension: {id}")
            }
            Self::Launch { module, name } => {
                format!("Layer: '{name}', Created by buildpack: {module}")
            }
            Self::Sbom => "Software Bill-of-Materials".to_owned(),
            Self::Slice(number) => format!("Application Slice: {number}"),
            Self::Application => "Application Layer".to_owned(),
            Self::Launcher => "Buildpacks Application Launcher".to_owned(),
            Self::Config => "Buildpacks Launcher Config".to_owned(),
            Self::ProcessTypes => "Buildpacks Process Types".to_owned(),
        }
    }
}

/// Process types in the order of their links in the image.
#[must_use]
pub fn process_types(metadata: &MetadataFile) -> Vec<String> {
    let types = metadata.processes.iter().map(|process| process.kind.clone());
    types.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// `config/metadata.toml`.
///
/// # Errors
/// A value has no TOML form.
pub fn metadata_toml(metadata: &MetadataFile) -> Result<Vec<u8>, ExportError> {
    let text = toml::to_string(metadata).map_err(|error| FileError::Toml {
        file: "metadata.toml".to_owned(),
        message: error.to_string(),
    })?;
    Ok(text.into_bytes())
}

/// `report.toml`.
#[must_use]
pub fn report_toml(tags: &[String], digest: Option<&str>, manifest_size: Option<u64>) -> String {
    let mut image = toml::Table::new();
    image.insert("tags".to_owned(), tags.to_vec().into());
    if let Some(digest) = digest {
        image.insert("digest".to_owned(), digest.into());
    }
    if let Some(size) = manifest_size.and_then(|size| i64::try_from(size).ok()) {
        image.insert("manifest-size".to_owned(), size.into());
    }
    toml::Table::from_iter([("image".to_owned(), toml::Value::Table(image))]).to_string()
}

/// Unix seconds as a config has them: `1980-01-01T00:00:01Z`. Years beyond 9999 become its end.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    const DAY: i64 = 86_400;
    const FIRST: i64 = -62_135_596_800;
    const LAST: i64 = 253_402_300_799;
    let seconds = seconds.clamp(FIRST, LAST);
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
