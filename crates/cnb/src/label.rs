//! Names of the labels that images of buildpacks carry.
//!
//! The names are the specification's; their values are in `image`.

/// On an app image: layers and run image ([`crate::LifecycleMetadata`]).
pub const LIFECYCLE_METADATA: &str = "io.buildpacks.lifecycle.metadata";
/// On an app image: buildpacks, processes, launcher ([`crate::BuildMetadata`]).
pub const BUILD_METADATA: &str = "io.buildpacks.build.metadata";
/// On an app image: the source, free form.
pub const PROJECT_METADATA: &str = "io.buildpacks.project.metadata";
/// On an app image: the execution environment it was built for.
pub const EXEC_ENV: &str = "io.buildpacks.exec-env";
/// On a run or app image: `false` forbids a rebase.
pub const REBASABLE: &str = "io.buildpacks.rebasable";
/// On a cache image ([`crate::CacheMetadata`]).
pub const CACHE_METADATA: &str = "io.buildpacks.lifecycle.cache.metadata";
/// On a builder ([`crate::BuilderMetadata`]).
pub const BUILDER_METADATA: &str = "io.buildpacks.builder.metadata";
/// On a builder or buildpackage ([`crate::ModuleLayers`]).
pub const BUILDPACK_LAYERS: &str = "io.buildpacks.buildpack.layers";
/// The same for extensions.
pub const EXTENSION_LAYERS: &str = "io.buildpacks.extension.layers";
/// On a builder: its order of buildpacks ([`crate::Order`]).
pub const BUILDPACK_ORDER: &str = "io.buildpacks.buildpack.order";
/// On a builder: its order of extensions.
pub const ORDER_EXTENSIONS: &str = "io.buildpacks.buildpack.order-extensions";
/// On a builder: system buildpacks ([`crate::SystemOrder`]).
pub const SYSTEM: &str = "io.buildpacks.buildpack.system";
/// On a buildpackage: its root module ([`crate::BuildpackageMetadata`]).
pub const BUILDPACKAGE_METADATA: &str = "io.buildpacks.buildpackage.metadata";
/// On build and run images of the deprecated stacks.
pub const STACK_ID: &str = "io.buildpacks.stack.id";
/// Packages of a stack image, a JSON list.
pub const STACK_MIXINS: &str = "io.buildpacks.stack.mixins";
/// Labels a rebase takes over from the new run image.
pub const STACK_LABEL_PREFIX: &str = "io.buildpacks.stack.";
/// Labels a rebase takes over from the new run image, Platform API 0.12 and later.
pub const BASE_LABEL_PREFIX: &str = "io.buildpacks.base.";
/// The base image's distribution.
pub const DISTRO_NAME: &str = "io.buildpacks.base.distro.name";
/// The version of the base image's distribution.
pub const DISTRO_VERSION: &str = "io.buildpacks.base.distro.version";
