//! `cofferdam pull-token`: a password that only pulls, for a short time.

use std::process::ExitCode;

use clap::Args;
use cofferdam_client::text;

use crate::remote::{self, AnswerArgs, ProjectArgs, RemoteArgs};
use crate::terminal::{note, print, print_json};

/// What is to be pulled.
#[derive(Debug, Clone, Args)]
pub(crate) struct PullTokenArgs {
    /// Build whose project's images are to be pulled
    #[arg(long, value_name = "ID")]
    build: Option<String>,

    #[command(flatten)]
    server: RemoteArgs,

    #[command(flatten)]
    project: ProjectArgs,

    #[command(flatten)]
    answer: AnswerArgs,
}

/// Carries the command out: the token alone goes to standard output.
pub(crate) fn run(args: PullTokenArgs) -> anyhow::Result<ExitCode> {
    remote::run(async {
        let client = args.server.connect()?;
        let project = if args.build.is_some() { None } else { args.project.find()? };
        let token = client.pull_token(project.as_deref(), args.build.as_deref()).await?;
        if args.answer.json {
            print_json(&token)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !token.registry_host.is_empty() {
            note(&format!(
                "For docker login {} --username x-token --password-stdin",
                token.registry_host
            ));
        }
        print(&format!("{}\n", text::single_line(&token.token)))?;
        Ok(ExitCode::SUCCESS)
    })
}
