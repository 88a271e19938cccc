//! Arguments of builds by buildpacks, by the names `pack build` has for them.

#![allow(rustdoc::broken_intra_doc_links, reason = "help texts are plain text")]

use std::path::PathBuf;

use clap::Args;

/// What only a build by buildpacks takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Buildpacks")]
pub(crate) struct BuildpackArgs {
    /// Builder image: build with its buildpacks, not with a Dockerfile
    #[arg(short = 'B', long = "builder", id = "builder_image", value_name = "IMAGE")]
    pub(crate) builder: Option<String>,

    /// Directory of the app, instead of PATH
    #[arg(short = 'p', long, value_name = "DIR", conflicts_with = "context")]
    pub(crate) path: Option<String>,

    /// Project descriptor [default: project.toml in PATH]
    #[arg(short = 'd', long, value_name = "FILE")]
    pub(crate) descriptor: Option<String>,

    /// Buildpack to use instead of the builder's order: an id, directory, archive, image, URL or urn:cnb name; may be repeated
    #[arg(short = 'b', long, value_name = "BUILDPACK", value_delimiter = ',')]
    pub(crate) buildpack: Vec<String>,

    /// Buildpack to put before every group of the order; may be repeated
    #[arg(long, value_name = "BUILDPACK", value_delimiter = ',')]
    pub(crate) pre_buildpack: Vec<String>,

    /// Buildpack to put after every group of the order; may be repeated
    #[arg(long, value_name = "BUILDPACK", value_delimiter = ',')]
    pub(crate) post_buildpack: Vec<String>,

    /// Image extension to use; may be repeated
    #[arg(long, value_name = "EXTENSION", value_delimiter = ',')]
    pub(crate) extension: Vec<String>,

    /// Variable for buildpacks; NAME alone takes it from the environment; may be repeated
    #[arg(short = 'e', long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// File of such variables, one a line; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Execution environment the image is for [default: production]
    #[arg(long, value_name = "NAME")]
    pub(crate) exec_env: Option<String>,

    /// Process the image starts by default
    #[arg(long, value_name = "TYPE")]
    pub(crate) default_process: Option<String>,

    /// Run image [default: the builder's]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) run_image: Option<String>,

    /// Image to take unchanged layers from [default: what the first --tag names now]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) previous_image: Option<String>,

    /// Where the cache is kept: type=build;format=volume or type=build;format=image;name=IMAGE
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache: Vec<String>,

    /// Image to keep the cache in, in a registry; needs --push
    #[arg(long, value_name = "IMAGE")]
    pub(crate) cache_image: Option<String>,

    /// Start with an empty cache
    #[arg(long)]
    pub(crate) clear_cache: bool,

    /// Directory to write the buildpacks' SBOMs to
    #[arg(long, value_name = "DIR")]
    pub(crate) sbom_output_dir: Option<PathBuf>,

    /// Directory to write report.toml to
    #[arg(long, value_name = "DIR")]
    pub(crate) report_output_dir: Option<PathBuf>,

    /// Creation time of the image: seconds since 1970, or now [default: $SOURCE_DATE_EPOCH, or 1980]
    #[arg(long, value_name = "TIME")]
    pub(crate) creation_time: Option<String>,

    /// Directory of this machine, or named cache, to mount where buildpacks run: SOURCE:TARGET[:ro|rw]; may be repeated
    #[arg(long, value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,

    /// Where the app is while it is built and in the image [default: /workspace]
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<String>,

    /// Trust the builder, in this build
    #[arg(long)]
    pub(crate) trust_builder: bool,

    /// Trust added buildpacks, in this build
    #[arg(long)]
    pub(crate) trust_extra_buildpacks: bool,

    /// Leave the builder's system buildpacks out
    #[arg(long)]
    pub(crate) disable_system_buildpacks: bool,

    /// Give detection the network that the build has
    #[arg(long)]
    pub(crate) detect_network: bool,

    /// User id of the app's files [default: the builder's]
    #[arg(long, value_name = "ID")]
    pub(crate) uid: Option<u32>,

    /// Group id of the app's files [default: the builder's]
    #[arg(long, value_name = "ID")]
    pub(crate) gid: Option<u32>,
}

impl BuildpackArgs {
    /// Flags that were given and mean nothing to a Dockerfile; `--builder` and `--path` are not among them.
    pub(super) fn used(&self) -> Vec<&'static str> {
        let flags = [
            ("--descriptor", self.descriptor.is_some()),
            ("--buildpack", !self.buildpack.is_empty()),
            ("--pre-buildpack", !self.pre_buildpack.is_empty()),
            ("--post-buildpack", !self.post_buildpack.is_empty()),
            ("--extension", !self.extension.is_empty()),
            ("--env", !self.env.is_empty()),
            ("--env-file", !self.env_file.is_empty()),
            ("--exec-env", self.exec_env.is_some()),
            ("--default-process", self.default_process.is_some()),
            ("--run-image", self.run_image.is_some()),
            ("--previous-image", self.previous_image.is_some()),
            ("--cache", !self.cache.is_empty()),
            ("--cache-image", self.cache_image.is_some()),
            ("--clear-cache", self.clear_cache),
            ("--sbom-output-dir", self.sbom_output_dir.is_some()),
            ("--report-output-dir", self.report_output_dir.is_some()),
            ("--creation-time", self.creation_time.is_some()),
            ("--volume", !self.volume.is_empty()),
            ("--workspace", self.workspace.is_some()),
            ("--trust-builder", self.trust_builder),
            ("--trust-extra-buildpacks", self.trust_extra_buildpacks),
            ("--disable-system-buildpacks", self.disable_system_buildpacks),
            ("--detect-network", self.detect_network),
            ("--uid", self.uid.is_some()),
            ("--gid", self.gid.is_some()),
        ];
        flags.into_iter().filter(|(_, used)| *used).map(|(flag, _)| flag).collect()
    }
}
