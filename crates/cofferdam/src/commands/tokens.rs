//! `cofferdam tokens`: the tokens of a project.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::remote::{self, AnswerArgs, ProjectArgs, RemoteArgs};
use crate::terminal::{Listing, note, print, print_json};

/// What to do with a project's tokens.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokensArgs {
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
    /// List the project's tokens
    List,
    /// Make a token; its secret is printed this once
    Create {
        /// What it is for
        description: String,
    },
    /// Say anew what a token is for
    Update {
        /// The token's id
        id: String,

        /// What it is for
        description: String,
    },
    /// Revoke a token, at once
    Delete {
        /// The token's id
        id: String,
    },
}

/// Carries the command out.
pub(crate) fn run(args: TokensArgs) -> anyhow::Result<ExitCode> {
    remote::run(async {
        let client = args.server.connect()?;
        let json = args.answer.json;
        match args.action {
            Action::List => {
                let tokens = client.tokens(&args.project.required()?).await?;
                let mut listing = Listing::new(json, &["ID", "DESCRIPTION"]);
                listing.add(&tokens, |token| vec![token.id.clone(), token.description.clone()])?;
                listing.finish("No tokens.")?;
            }
            Action::Create { description } => {
                let token = client.create_token(&args.project.required()?, &description).await?;
                if json {
                    print_json(&token)?;
                } else {
                    // Alone on standard output, for whoever stores it.
                    note(&format!("Token {}; this is the only time it is shown:", token.id));
                    print(&format!("{}\n", cofferdam_client::text::single_line(&token.secret)))?;
                }
            }
            Action::Update { id, description } => {
                client.update_token(&id, &description).await?;
                note(&format!("Token {id} has a new description."));
            }
            Action::Delete { id } => {
                client.delete_token(&id).await?;
                note(&format!("Token {id} is revoked."));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
