//! `cofferdam builds`: what was built and what is being built.

mod list;
mod logs;
mod network;
mod show;
mod waterfall;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use cofferdam_apiclient::{ApiClient, PageRequest, Step};
use cofferdam_client::text;

use crate::paging::{self, PagingArgs};
use crate::remote::{self, AnswerArgs, ProjectArgs, RemoteArgs};
use crate::terminal::{note, print, print_json};

/// Steps asked for at once.
const PART: i32 = 1000;

/// What to do with builds.
#[derive(Debug, Clone, Args)]
pub(crate) struct BuildsArgs {
    #[command(flatten)]
    server: RemoteArgs,

    #[command(flatten)]
    project: ProjectArgs,

    #[command(flatten)]
    answer: AnswerArgs,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// List the project's builds, newest first
    List(PagingArgs),
    /// Show a build and its steps
    Show {
        /// The build
        id: String,

        /// Show what its steps reached over the network, and what they were refused
        #[arg(long)]
        network: bool,
    },
    /// Show what the steps of a build wrote
    Logs(logs::LogsArgs),
    /// Stop a running build
    Cancel {
        /// The build
        id: String,
    },
    /// Make a page of a build that needs no token, and print its address
    Share {
        /// The build
        id: String,
    },
    /// Take that page away
    Unshare {
        /// The build
        id: String,
    },
}

/// Carries the command out.
pub(crate) fn run(args: BuildsArgs) -> anyhow::Result<ExitCode> {
    remote::run(async {
        let client = args.server.connect()?;
        let json = args.answer.json;
        match args.action {
            Action::List(paging) => {
                list::list(&client, &args.project.required()?, &paging, json).await?;
            }
            Action::Show { id, network } => show::show(&client, &id, network, json).await?,
            Action::Logs(wanted) => logs::logs(&client, &wanted, json).await?,
            Action::Cancel { id } => {
                client.cancel_build(&id).await?;
                note(&format!("Build {id} is cancelled, unless it had ended."));
            }
            Action::Share { id } => share(&client, &id, json).await?,
            Action::Unshare { id } => {
                client.stop_sharing_build(&id).await?;
                note(&format!("Build {id} is no longer shared."));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn share(client: &ApiClient, id: &str, json: bool) -> anyhow::Result<()> {
    let url = client.share_build(id).await?;
    if json {
        return print_json(&serde_json::json!({ "share_url": url }));
    }
    print(&format!("{}\n", text::single_line(&url)))?;
    Ok(())
}

/// All steps of a build, in the order they appeared.
async fn steps(client: &ApiClient, project: &str, build: &str) -> anyhow::Result<Vec<Step>> {
    let fetch = async |page: PageRequest| client.steps(project, build, page).await;
    paging::all(PART, fetch).await
}
