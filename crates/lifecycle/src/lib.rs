//! Cloud Native Buildpacks: what the phases of a build decide, as functions of values.
//!
//! Groups and plans of detection, what is restored, what a buildpack's output means, the config of
//! the app image, rebases. Texts and labels come from strangers. This crate must never open a file,
//! start a process or know a builder: whoever calls it does, and hands over values.

mod build;
mod detect;
mod export;
mod extend;
mod programs;
mod rebase;
mod restore;
mod target;
mod value;

pub use build::{
    BuildError, BuildOutput, BuiltLayer, BuiltModule, EnvRequest, LayerOutput, Phase,
    SbomPlacement, apply_build_env, assemble, module_env, plan_for, read_build, start_env,
};
pub use detect::{
    Attempt, DetectError, DetectRequest, Detected, Detector, LookupError, Modules, detect,
};
pub use export::{
    AppImage, EPOCH, ExportError, ExportLayer, ExportRequest, LAUNCHER_PATH, LaunchLayer,
    LaunchSource, LayerKind, PROCESS_DIR, cache_metadata, cached_layers, image_config,
    launch_layers, metadata_toml, process_types, report_toml, rfc3339, slice_paths,
};
pub use extend::{
    BuildArg, ExtendConfig, ExtendError, RunChange, RunDockerfile, check_build_dockerfile,
    check_run_dockerfile, extend_config, run_change,
};
pub use programs::{ATTEMPT, LAUNCHER};
pub use rebase::{RebaseError, RebaseRequest, Rebased, rebase};
pub use restore::{RestoreOptions, RestoredBuildpack, RestoredLayer, restore};
pub use target::{ImageTarget, TargetError, fits, target_of};
