//! `cofferdam builder-image`: makes images that build apps, and tells what is in them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::build::{Operation, OutputArgs, PlaceArgs, run_operation};
use super::inspect::{self, Wanted};

/// What to do with builder images.
#[derive(Debug, Args)]
pub(crate) struct BuilderImageArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a builder image
    Create(Box<CreateArgs>),
    /// Show what a builder image is made of
    Inspect(InspectArgs),
}

/// What a builder image is made of and where it goes.
#[derive(Debug, Clone, Default, Args)]
struct CreateArgs {
    /// Name of the image.
    #[arg(help = "Name of the image, NAME[:TAG]")]
    name: String,

    /// What it is made of: a builder.toml
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    #[command(flatten)]
    image: ImageArgs,

    #[command(flatten)]
    place: PlaceArgs,
}

/// Where an image goes that is not an app's.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Outputs")]
pub(super) struct ImageArgs {
    /// Further name of the image; may be repeated
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<String>,

    /// Platform it is for, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Label of the image; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,

    /// Directory, - for a tar on standard output, or type=image|oci|docker|tar|local[,KEY=VALUE]; may be repeated
    #[arg(short, long, value_name = "OUTPUT")]
    pub(super) output: Vec<String>,

    /// Push the image: type=image,push=true
    #[arg(long, visible_alias = "publish")]
    pub(super) push: bool,

    /// Load the image into docker or podman: type=docker
    #[arg(long)]
    pub(super) load: bool,

    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,

    /// Write what the build answered to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,

    /// Reuse no results
    #[arg(long)]
    no_cache: bool,
}

impl ImageArgs {
    /// Runs an operation whose image has this name and goes there.
    pub(super) fn run(
        self,
        name: Option<String>,
        mut operation: Operation,
        place: PlaceArgs,
    ) -> anyhow::Result<ExitCode> {
        let mut args = place.into_build();
        operation.labels(&self.label)?;
        if self.no_cache {
            operation.set("no-cache", "");
        }
        args.tag = name.into_iter().chain(self.tag).collect();
        args.inputs.platform = self.platform.into_iter().collect();
        args.outputs = OutputArgs {
            output: self.output,
            push: self.push,
            load: self.load,
            iidfile: self.iidfile,
            metadata_file: self.metadata_file,
            ..OutputArgs::default()
        };
        run_operation(args, operation)
    }
}

/// Which builder image, and how it is shown.
#[derive(Debug, Clone, Args)]
struct InspectArgs {
    #[command(flatten)]
    wanted: Wanted,

    /// Form of the answer
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: Form,
}

/// Forms of answers, by pack's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Form {
    /// Text
    #[default]
    HumanReadable,
    /// JSON
    Json,
}

/// Carries the command out.
pub(crate) fn run(args: BuilderImageArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create(args) => {
            let mut operation = Operation::new("builder-image");
            operation.builder_config(&args.config)?;
            args.image.run(Some(args.name), operation, args.place)
        }
        Action::Inspect(args) => inspect::builder(&args.wanted, args.output == Form::Json),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: BuilderImageArgs,
    }

    fn parse(text: &str) -> Result<Action, clap::Error> {
        let words = std::iter::once("builder-image").chain(text.split_whitespace());
        Whole::try_parse_from(words).map(|whole| whole.args.action)
    }

    #[test]
    fn what_people_type() {
        let text = "create r.example/b:1 --config builder.toml --publish --label a=b --platform linux/arm64 --addr unix:///x --builder-config c.toml";
        let Action::Create(args) = parse(text).unwrap() else { unreachable!() };
        assert_eq!((args.name.as_str(), args.config), ("r.example/b:1", "builder.toml".into()));
        assert!(args.image.push && args.image.label == ["a=b"]);
        let build = args.place.into_build();
        assert_eq!(build.builder.address.as_deref(), Some("unix:///x"));
        assert_eq!(build.builder.config, Some("c.toml".into()));
        let Action::Inspect(args) = parse("inspect x --output json").unwrap() else {
            unreachable!()
        };
        assert_eq!(args.output, Form::Json);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "create x",
            "create --config f",
            "inspect",
            "inspect x -o yaml",
            "create x -c f --addr unix:///x --server http://h",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
