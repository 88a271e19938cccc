//! The command line as a whole.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::backup::{self, BackupArgs};
use crate::commands::build::{self, BuildArgs};
use crate::commands::builder::{self, Begun, BuilderArgs};
use crate::commands::builder_image::{self, BuilderImageArgs};
use crate::commands::buildpack::{self, BuildpackArgs};
use crate::commands::builds::{self, BuildsArgs};
use crate::commands::check::{self, CheckArgs};
use crate::commands::doctor::{self, DoctorArgs};
use crate::commands::images::{self, ImagesArgs};
use crate::commands::inspect::{self, InspectArgs};
use crate::commands::login::{self, LoginArgs};
use crate::commands::logout::{self, LogoutArgs};
use crate::commands::projects::{self, ProjectsArgs};
use crate::commands::pull_token::{self, PullTokenArgs};
use crate::commands::rebase::{self, RebaseArgs};
use crate::commands::sbom::{self, SbomArgs};
use crate::commands::server::{self, OrganizationArgs, ServerArgs};
use crate::commands::tokens::{self, TokensArgs};
use crate::commands::trust::{self, TrustArgs};
use crate::commands::usage::{self, UsageArgs};

/// Under this name the program takes the arguments of `cofferdam builder` directly, as a drop-in for BuildKit's daemon.
const DAEMON_NAME: &str = "buildkitd";

/// The command that takes those.
const BUILDER: &str = "builder";

/// Builds container images from code nobody trusts.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// As much of it as a builder's supervisor needs: describing every command takes time and memory, of which builders are to take little.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, propagate_version = true)]
struct BuilderCli {
    #[command(subcommand)]
    command: BuilderCommand,
}

/// The one command of [`BuilderCli`].
#[derive(Debug, Subcommand)]
enum BuilderCommand {
    /// Run a builder that BuildKit clients can connect to
    Builder(Box<BuilderArgs>),
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image
    Build(Box<BuildArgs>),
    /// Run a builder that BuildKit clients can connect to
    Builder(Box<BuilderArgs>),
    /// Make and inspect builder images, which have buildpacks in them
    BuilderImage(Box<BuilderImageArgs>),
    /// Start, pack and inspect buildpacks
    Buildpack(Box<BuildpackArgs>),
    /// Put an app on a newer run image without building it
    Rebase(Box<RebaseArgs>),
    /// Get the SBOMs of an app's image
    Sbom(SbomArgs),
    /// Show how buildpacks made an app's image
    Inspect(InspectArgs),
    /// Show what this machine offers for building and for a server, and what it lacks
    Doctor(DoctorArgs),
    /// Run the server: API, registry, pages and the builders of every project
    Server(Box<ServerArgs>),
    /// Manage organizations, on the machine of the server
    Organization(OrganizationArgs),
    /// Make, check and restore backups of a server's data, on its machine
    Backup(BackupArgs),
    /// Look through a server's data for what is damaged or lost, on its machine
    Check(CheckArgs),
    /// Get a token for a server and store it
    Login(LoginArgs),
    /// Forget the token of a server
    Logout(LogoutArgs),
    /// Manage the projects of a server
    Projects(Box<ProjectsArgs>),
    /// Manage the tokens of a project
    Tokens(TokensArgs),
    /// Manage whose jobs may build in a project without a stored token, and which builder images are trusted
    Trust(TrustArgs),
    /// See and stop the builds of a project
    Builds(Box<BuildsArgs>),
    /// See and delete the images of a project
    Images(ImagesArgs),
    /// Print a password that only pulls a project's images
    PullToken(PullTokenArgs),
    /// See what was built in a window of time
    Usage(UsageArgs),
}

/// Parses and does it. To be called by a process with one thread that has read nothing.
pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let mut arguments = with_command(arguments);
    // It has to come first in a process that becomes a builder's supervisor. The program has no option before its command.
    if arguments.get(1).is_some_and(|first| first == BUILDER) {
        return match builder::begin(&mut arguments)? {
            Begun::Supervisor(spares) => {
                let BuilderCommand::Builder(args) = BuilderCli::parse_from(arguments).command;
                builder::run(*args, Some(spares))
            }
            Begun::Copy(code) => Ok(code),
        };
    }
    match Cli::parse_from(arguments).command {
        Command::Build(args) => build::run(*args),
        Command::Builder(args) => builder::run(*args, None),
        Command::BuilderImage(args) => builder_image::run(*args),
        Command::Buildpack(args) => buildpack::run(*args),
        Command::Rebase(args) => rebase::run(*args),
        Command::Sbom(args) => sbom::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Server(args) => server::run(*args),
        Command::Organization(args) => server::organization(args),
        Command::Backup(args) => backup::run(args),
        Command::Check(args) => check::run(&args),
        Command::Login(args) => login::run(args),
        Command::Logout(args) => logout::run(args),
        Command::Projects(args) => projects::run(*args),
        Command::Tokens(args) => tokens::run(args),
        Command::Trust(args) => trust::run(args),
        Command::Builds(args) => builds::run(*args),
        Command::Images(args) => images::run(args),
        Command::PullToken(args) => pull_token::run(args),
        Command::Usage(args) => usage::run(args),
    }
}

/// Adds the command that the program's own name stands for.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|first| Path::new(first).file_name());
    if name == Some(OsStr::new(DAEMON_NAME)) {
        arguments.insert(1, BUILDER.into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Flags of a command and of those below it.
    fn flags(command: &clap::Command) -> Vec<(String, String)> {
        let own = command.get_arguments().filter_map(clap::Arg::get_long);
        let own = own.map(|flag| (command.get_name().to_owned(), flag.to_owned()));
        own.chain(command.get_subcommands().flat_map(flags)).collect()
    }

    #[test]
    fn a_builders_supervisor_reads_what_is_described() {
        BuilderCli::command().debug_assert();
        let help = |mut command: clap::Command| {
            command.build();
            command.find_subcommand_mut(BUILDER).unwrap().render_long_help().to_string()
        };
        assert_eq!(help(BuilderCli::command()), help(Cli::command()));
    }

    #[test]
    fn every_flag_is_documented() {
        let page = include_str!("../../../docs/cli.md");
        let internal = ["until-stdin-closes", "help", "version"];
        for (command, flag) in flags(&Cli::command()) {
            let written = ["`", " ", "[", "="].map(|after| format!("--{flag}{after}"));
            assert!(
                internal.contains(&flag.as_str()) || written.iter().any(|text| page.contains(text)),
                "docs/cli.md lacks --{flag} of {command}"
            );
        }
    }

    #[test]
    fn every_command_is_documented() {
        let page = include_str!("../../../docs/cli.md");
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(page.contains(&format!("## cofferdam {name}")), "docs/cli.md lacks {name}");
        }
    }

    #[test]
    fn options_of_servers_go_anywhere() {
        for text in [
            "cofferdam builds --server http://h --json list --project p",
            "cofferdam builds list --server http://h --json --project p --limit 3",
        ] {
            let Command::Builds(args) = Cli::try_parse_from(words(text)).unwrap().command else {
                unreachable!()
            };
            let shown = format!("{args:?}");
            assert!(
                shown.contains("Some(\"http://h\")") && shown.contains("json: true"),
                "{shown}"
            );
            assert!(shown.contains("project: Some(\"p\")"), "{shown}");
        }
        for text in ["cofferdam builds list --limit 0", "cofferdam builds list --all --limit 1"] {
            assert!(Cli::try_parse_from(words(text)).is_err(), "{text}");
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
