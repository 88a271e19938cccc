//! Frontend: an application and a builder image to a build graph, by way of buildpacks.

mod builder_image;
mod builder_toml;
mod client;
mod flow;
mod frontend;
mod image_name;
mod inline;
mod known;
mod locator;
mod order;
mod package_toml;
mod project;
mod text;
mod trust;

pub use builder_image::{BuilderImage, BuilderImageError};
pub use builder_toml::{BuildEnv, BuilderToml, LifecycleSource, ModuleSource, Suffix};
pub use client::{
    Client, ClientError, DockerfileRequest, DockerfileResult, Entry, EntryKind, Image, ImageLayer,
    Pack, Progress, Selection,
};
pub use flow::{DOWNGRADE_WARNING, Decision, Flow, ModuleOrigin, Source, decide};
pub use frontend::{BuildError, Built, build};
pub use image_name::{ImageName, ImageNameError};
pub use inline::{InlineBuildpack, InlineError, InlineFile, Script, inline_buildpack};
pub use known::KNOWN_BUILDERS;
pub use locator::{
    GitLocator, HttpLocator, LocalKind, Located, Locator, LocatorError, Surroundings,
    is_archive_name, parse_module, possible_local_path,
};
pub use order::{Asked, OrderError, OrderItem, effective_order, ignores_pre_and_post};
pub use package_toml::PackageToml;
pub use project::{
    EnvEntry, GroupEntry, GroupModule, ProjectDescriptor, ProjectInfo, Schema, is_for_exec_env,
};
pub use text::env_name_problem;
pub use trust::{Trust, TrustEntry, TrustFile, Verdict};
