//! `cofferdam logout`: forgets the token of a server.

use std::process::ExitCode;

use clap::Args;

use crate::accounts::Accounts;
use crate::remote::RemoteArgs;
use crate::terminal::note;

/// Which server.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LogoutArgs {
    /// Server to forget [default: $COFFERDAM_SERVER, or the one last logged in to]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

/// Carries the command out. The token stays good at the server: this program does not know its id.
pub(crate) fn run(args: LogoutArgs) -> anyhow::Result<ExitCode> {
    let path = Accounts::path()?;
    let mut accounts = Accounts::load(&path)?;
    let server = RemoteArgs { server: args.server, token: None }.server(&accounts)?;
    if !accounts.log_out(&server) {
        note(&format!("Not logged in to {server}."));
        return Ok(ExitCode::SUCCESS);
    }
    accounts.store(&path)?;
    note(&format!("Forgot the token for {server}."));
    Ok(ExitCode::SUCCESS)
}
