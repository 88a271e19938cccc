//! Arguments of `cofferdam build`, by the names `docker build` and `docker buildx build` have for them.

#![allow(rustdoc::broken_intra_doc_links, reason = "help texts are plain text")]

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::buildpacks::BuildpackArgs;

/// What was asked for; nothing is read or checked yet that needs more than the text itself.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BuildArgs {
    /// Build context: a directory, the URL of a git repository or archive, or - for an archive or Dockerfile on standard input
    #[arg(value_name = "PATH|URL|-", default_value = ".")]
    pub(crate) context: String,

    /// Dockerfile [default: PATH/Dockerfile]; - reads it from standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,

    /// Name of the image, NAME[:TAG]; may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Vec<String>,

    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    #[command(flatten)]
    pub(crate) inputs: InputArgs,

    #[command(flatten)]
    pub(crate) buildpacks: BuildpackArgs,

    #[command(flatten)]
    pub(crate) steps: StepArgs,

    #[command(flatten)]
    pub(crate) outputs: OutputArgs,

    #[command(flatten)]
    pub(crate) caches: CacheArgs,

    #[command(flatten)]
    pub(crate) display: DisplayArgs,

    #[command(flatten)]
    pub(crate) builder: BuilderChoice,

    #[command(flatten)]
    pub(crate) server: ServerChoice,
}

/// What the build may read besides its context.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Inputs")]
pub(crate) struct InputArgs {
    /// Value of an ARG; KEY alone takes it from the environment; may be repeated
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) build_arg: Vec<String>,

    /// Further context: a directory, docker-image://, oci-layout://, a git or http(s) URL; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) build_context: Vec<String>,

    /// Secret for steps that mount it: id=ID[,src=FILE|,env=NAME]; may be repeated
    #[arg(long, value_name = "SECRET")]
    pub(crate) secret: Vec<String>,

    /// SSH agent or keys for steps that mount them: default or ID[=SOCKET|KEY[,KEY]]; may be repeated
    #[arg(long, value_name = "SSH")]
    pub(crate) ssh: Vec<String>,

    /// Platforms to build for, such as linux/amd64,linux/arm64
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,

    /// Look for newer versions of all images
    #[arg(long)]
    pub(crate) pull: bool,
}

/// How steps run.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Steps")]
pub(crate) struct StepArgs {
    /// Privilege for the build: network.host, security.insecure, device[=NAME]; may be repeated
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,

    /// Line for /etc/hosts, HOST:IP; may be repeated
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,

    /// Network of RUN steps: default, none or host
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,

    /// Size of /dev/shm, such as 64m
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,

    /// Resource limit, NAME=SOFT[:HARD]; may be repeated
    #[arg(long, value_name = "ULIMIT")]
    pub(crate) ulimit: Vec<String>,

    /// Control group that the steps' groups are made in
    #[arg(long, value_name = "GROUP")]
    pub(crate) cgroup_parent: Option<String>,
}

/// Where the result goes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Outputs")]
pub(crate) struct OutputArgs {
    /// Directory, - for a tar on standard output, or type=image|oci|docker|tar|local[,KEY=VALUE]; may be repeated
    #[arg(short, long, value_name = "OUTPUT")]
    pub(crate) output: Vec<String>,

    /// Push the image: type=image,push=true
    #[arg(long, visible_alias = "publish")]
    pub(crate) push: bool,

    /// Load the image into docker or podman: type=docker
    #[arg(long)]
    pub(crate) load: bool,

    /// Label of the image; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,

    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,

    /// Write what the build answered to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Attach a list of what is in the image, made by a scanner: true, false or generator=IMAGE; not by buildpacks
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sbom: Option<String>,

    /// Attach a statement of how the image was built: true, false, mode=min or mode=max[,KEY=VALUE]; not by buildpacks
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) provenance: Option<String>,

    /// Either of both: type=sbom|provenance[,KEY=VALUE]; may be repeated
    #[arg(long, value_name = "ATTESTATION")]
    pub(crate) attest: Vec<String>,

    /// Annotation of the image: [LEVEL[[PLATFORM]]:]KEY=VALUE, where LEVEL is manifest, index, manifest-descriptor or
    /// index-descriptor; may be repeated
    #[arg(long, value_name = "ANNOTATION")]
    pub(crate) annotation: Vec<String>,
}

/// What is reused.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheArgs {
    /// Reuse no results
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Reuse no results of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,

    /// Cache to read: an image name or type=registry|local|s3,KEY=VALUE; may be repeated
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_from: Vec<String>,

    /// Cache to write: inline, an image name or type=registry|local|s3|inline,KEY=VALUE; may be repeated
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_to: Vec<String>,
}

/// What is shown.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Display")]
pub(crate) struct DisplayArgs {
    /// How to show progress
    #[arg(long, value_name = "MODE", value_enum, env = "BUILDKIT_PROGRESS", default_value_t)]
    pub(crate) progress: ProgressMode,

    /// Show no progress; print the image's digest on success
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Show the messages of the builder this command starts
    #[arg(short = 'D', long, action = ArgAction::SetTrue)]
    pub(crate) debug: bool,
}

/// Which builder does it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Builder")]
pub(crate) struct BuilderChoice {
    /// Builder to use, unix://PATH or tcp://HOST:PORT [default: $COFFERDAM_BUILDER, $BUILDKIT_HOST, or one of its own]
    #[arg(long = "addr", alias = "builder-addr", value_name = "ADDR")]
    pub(crate) address: Option<String>,

    /// Least isolation of the build: namespaces, gvisor or vm. A builder that has less is refused, a server gives one that has it,
    /// and one of its own is started with it
    #[arg(long, value_name = "LEVEL")]
    pub(crate) isolation: Option<cofferdam_sandbox::Isolation>,

    /// State of the builder this command starts [default: one for each level of isolation]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// Configuration of the builder this command starts
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Registry or other host that the builder this command starts may reach although it is not public; its steps may not. Places
    /// that other flags name need no such word. May be repeated
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        value_delimiter = ',',
        env = "COFFERDAM_ALLOW_REGISTRY"
    )]
    pub(crate) allow_registry: Vec<String>,
}

/// Which server gives the builder. The environment is looked at when it is known that no builder is named.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerChoice {
    /// Server to build on, http(s)://HOST:PORT [default: $COFFERDAM_SERVER, or with --project or --save the one last logged in to]
    #[arg(long, value_name = "URL", conflicts_with = "address")]
    pub(crate) server: Option<String>,

    /// Token to show it [default: $COFFERDAM_TOKEN, or the one that `cofferdam login` stored]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,

    /// Project to build in [default: $COFFERDAM_PROJECT, the "id" in the nearest depot.json upwards, or the token's only one]
    #[arg(long, value_name = "ID", conflicts_with = "address")]
    pub(crate) project: Option<String>,

    /// Keep the image in the project's registry
    #[arg(long, conflicts_with = "address")]
    pub(crate) save: bool,

    /// Further name of the image there; may be repeated; implies --save
    #[arg(long, value_name = "TAG", conflicts_with = "address")]
    pub(crate) save_tag: Vec<String>,
}

impl ServerChoice {
    /// Whether the image is kept.
    pub(crate) fn saves(&self) -> bool {
        self.save || !self.save_tag.is_empty()
    }
}

/// Ways to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressMode {
    /// tty on a terminal, else plain
    #[default]
    Auto,
    /// A display that is redrawn
    Tty,
    /// Lines of text
    Plain,
    /// The builder's messages, one JSON object a line
    Rawjson,
    /// Nothing
    Quiet,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: BuildArgs,
    }

    fn parse(text: &str) -> Result<BuildArgs, clap::Error> {
        let words = std::iter::once("build").chain(text.split_whitespace());
        Whole::try_parse_from(words).map(|whole| whole.args)
    }

    #[test]
    fn what_people_type() {
        let args = parse(
            "-f docker/Dockerfile -t a -t b:1 --target final --build-arg A=1 --build-arg B --secret id=x,src=y \
             --ssh default --platform linux/amd64,linux/arm64 --no-cache --no-cache-filter one,two -o out \
             --progress plain --cache-to inline --sbom=false --provenance=false -q dir",
        )
        .unwrap();
        assert_eq!(args.context, "dir");
        assert_eq!(args.file.as_deref(), Some("docker/Dockerfile"));
        assert_eq!(args.tag, ["a", "b:1"]);
        assert_eq!(args.inputs.build_arg, ["A=1", "B"]);
        assert_eq!(args.inputs.secret, ["id=x,src=y"], "commas belong to the value");
        assert_eq!(args.inputs.platform, ["linux/amd64", "linux/arm64"]);
        assert_eq!(args.caches.no_cache_filter, ["one", "two"]);
        assert_eq!(args.display.progress, ProgressMode::Plain);
        assert_eq!(args.outputs.sbom.as_deref(), Some("false"));
        assert!(args.display.quiet && args.caches.no_cache);
    }

    #[test]
    fn defaults_and_spellings() {
        assert_eq!(parse("").unwrap().context, ".");
        assert_eq!(parse("-").unwrap().context, "-");
        assert_eq!(parse("-o -").unwrap().outputs.output, ["-"]);
        assert_eq!(parse("-f -").unwrap().file.as_deref(), Some("-"));
        for spelling in ["--addr unix:///x", "--builder-addr=unix:///x"] {
            assert_eq!(parse(spelling).unwrap().builder.address.as_deref(), Some("unix:///x"));
        }
        assert_eq!(parse("--sbom .").unwrap().outputs.sbom.as_deref(), Some("true"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "one two",
            "--progress loud",
            "--target",
            "--unknown",
            "--addr unix:///x --server http://h",
            "--addr unix:///x --save",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
