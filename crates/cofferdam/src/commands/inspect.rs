//! `cofferdam inspect`, and the inspection of builders and buildpacks: what labels of images say.
//!
//! Labels are whatever an image's maker wrote: nothing here is believed, and nothing of it controls the terminal.

mod app;
mod builder;
mod module;
mod page;

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use cofferdam_image::Platform;

use crate::artifact::Artifact;
use crate::remote;
use crate::terminal::{print, print_json};

/// Which image.
#[derive(Debug, Clone, Args)]
pub(super) struct Wanted {
    /// Image in a registry, or path of an OCI layout: a directory or a tar
    pub(super) image: String,

    /// Platform, where there are several [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

impl Wanted {
    /// Reads the image's documents.
    pub(super) async fn open(&self) -> anyhow::Result<Artifact> {
        let platform = self.platform.as_deref().map(Platform::parse).transpose()?;
        Artifact::open(&self.image, &platform.unwrap_or_else(Platform::host)).await
    }
}

/// Which app's image, and how it is shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    wanted: Wanted,

    /// Form of the answer
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: InspectForm,
}

/// Forms of answers, by pack's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum InspectForm {
    /// Text
    #[default]
    HumanReadable,
    /// JSON
    Json,
}

/// Shows an app's image.
pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    show(&args.wanted, args.output == InspectForm::Json, app::describe)
}

/// Shows a builder image.
pub(super) fn builder(wanted: &Wanted, json: bool) -> anyhow::Result<ExitCode> {
    let trust = crate::trusted::of_this_user()?.trust(false);
    show(wanted, json, |image| builder::describe(image, &trust))
}

/// Shows a buildpackage, or a directory with a buildpack.
pub(super) fn buildpack(wanted: &Wanted, json: bool) -> anyhow::Result<ExitCode> {
    if let Some(shown) = module::of_directory(Path::new(&wanted.image))? {
        return answer(&shown, json);
    }
    show(wanted, json, module::describe)
}

/// An answer in both forms.
struct Shown {
    json: serde_json::Value,
    /// Safe for a terminal.
    text: String,
}

fn show(
    wanted: &Wanted,
    json: bool,
    describe: impl FnOnce(&Artifact) -> anyhow::Result<Shown>,
) -> anyhow::Result<ExitCode> {
    super::builder::install_cryptography();
    remote::run(async {
        let image = wanted.open().await?;
        let shown = describe(&image).map_err(|error| error.context(wanted.image.clone()))?;
        answer(&shown, json)
    })
}

fn answer(shown: &Shown, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&shown.json)?;
    } else {
        print(&shown.text)?;
    }
    Ok(ExitCode::SUCCESS)
}
