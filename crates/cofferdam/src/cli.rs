//! The command line as a whole.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::build::{self, BuildArgs};
use crate::commands::builder::{self, BuilderArgs};
use crate::commands::doctor;

/// Under this name the program takes the arguments of `cofferdam builder` directly, as a drop-in for BuildKit's daemon.
const DAEMON_NAME: &str = "buildkitd";

/// Builds container images from code nobody trusts.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image
    Build(Box<BuildArgs>),
    /// Run a builder that BuildKit clients can connect to
    Builder(Box<BuilderArgs>),
    /// Show what this machine offers for building, and what it lacks
    Doctor,
}

/// Parses and does it.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    match Cli::parse_from(with_command(arguments)).command {
        Command::Build(args) => build::run(*args),
        Command::Builder(args) => builder::run(*args),
        Command::Doctor => doctor::run(),
    }
}

/// Adds the command that the program's own name stands for.
fn with_command(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().and_then(|first| Path::new(first).file_name());
    if name == Some(OsStr::new(DAEMON_NAME)) {
        arguments.insert(1, "builder".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn words(text: &str) -> impl Iterator<Item = OsString> {
        text.split_whitespace().map(OsString::from).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_documented() {
        let page = include_str!("../../../docs/cli.md");
        let internal = ["until-stdin-closes", "help", "version"];
        for command in Cli::command().get_subcommands() {
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                let written = page.contains(&format!("--{flag}`"))
                    || page.contains(&format!("--{flag} "))
                    || page.contains(&format!("--{flag}["))
                    || page.contains(&format!("--{flag}="));
                assert!(
                    written || internal.contains(&flag),
                    "docs/cli.md lacks --{flag} of {}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn the_daemons_name_implies_the_command() {
        for text in ["/usr/bin/buildkitd --debug", "buildkitd --debug", "cofferdam builder --debug"]
        {
            let cli = Cli::try_parse_from(with_command(words(text))).unwrap();
            assert!(matches!(cli.command, Command::Builder(_)), "{text}");
        }
        assert!(Cli::try_parse_from(with_command(words("cofferdam --debug"))).is_err());
    }
}
