//! `cofferdam rebase`: puts an app on a newer run image without building it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::build::{Operation, OutputArgs, PlaceArgs, run_operation};

/// Which app, and on what.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RebaseArgs {
    /// Image of the app, in a registry
    image: String,

    /// Run image to put it on [default: the one it was built for]
    #[arg(long, value_name = "IMAGE")]
    run_image: Option<String>,

    /// Image to take the app from, when it is not IMAGE
    #[arg(long, value_name = "IMAGE")]
    previous_image: Option<String>,

    /// Rebase although the image says that it should not be, or the run image is not one of its own
    #[arg(long)]
    force: bool,

    /// Directory to write report.toml to
    #[arg(long, value_name = "DIR")]
    report_output_dir: Option<PathBuf>,

    /// Platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Directory, - for a tar on standard output, or type=image|oci|docker|tar|local[,KEY=VALUE]; may be repeated
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<String>,

    /// Push the image: type=image,push=true
    #[arg(long, visible_alias = "publish")]
    push: bool,

    /// Load the image into docker or podman: type=docker
    #[arg(long)]
    load: bool,

    /// Write what the rebase answered to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,

    #[command(flatten)]
    place: PlaceArgs,
}

/// Carries the command out.
pub(crate) fn run(mut args: RebaseArgs) -> anyhow::Result<ExitCode> {
    let operation = args.operation();
    let mut build = std::mem::take(&mut args.place).into_build();
    build.tag = vec![args.image];
    build.inputs.platform = args.platform.into_iter().collect();
    build.buildpacks.report_output_dir = args.report_output_dir;
    build.outputs = OutputArgs {
        output: args.output,
        push: args.push,
        load: args.load,
        metadata_file: args.metadata_file,
        ..OutputArgs::default()
    };
    run_operation(build, operation)
}

impl RebaseArgs {
    fn operation(&self) -> Operation {
        let mut operation = Operation::new("rebase");
        operation.set("image", self.image.clone());
        for (key, value) in
            [("run-image", &self.run_image), ("previous-image", &self.previous_image)]
        {
            if let Some(value) = value {
                operation.set(key, value.clone());
            }
        }
        if self.force {
            operation.set("force", "true");
        }
        operation
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
        args: RebaseArgs,
    }

    #[test]
    fn flags_are_attributes() {
        let operation = |text: &str| {
            let words = std::iter::once("rebase").chain(text.split_whitespace());
            Whole::try_parse_from(words).map(|whole| whole.args.operation().attrs)
        };
        let attrs = operation("r.example/app --run-image r.example/run --force --publish").unwrap();
        assert_eq!(attrs["operation"], "rebase");
        assert_eq!(attrs["image"], "r.example/app");
        assert_eq!(attrs["run-image"], "r.example/run");
        assert_eq!(attrs["force"], "true");
        assert_eq!(operation("r.example/app").unwrap().len(), 2);
        let attrs = operation("a --previous-image b").unwrap();
        assert_eq!(attrs["previous-image"], "b");
        assert!(operation("").is_err());
    }
}
