//! `cofferdam login`: gets a token for a server, by a page in a browser or from standard input, and stores it.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use cofferdam_apiclient::{ApiClient, ErrorCode, ServerUrl};

use crate::accounts::Accounts;
use crate::remote::{self, RemoteArgs};
use crate::terminal::note;

/// Longest token; ours have fewer than a hundred characters, those of identity providers some thousand.
const LONGEST: u64 = 64 << 10;

/// Which server, and where its token comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LoginArgs {
    /// Server to log in to, http(s)://HOST:PORT [default: $COFFERDAM_SERVER, or the one last logged in to]
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// Read the token from standard input
    #[arg(long)]
    token_stdin: bool,
}

/// Carries the command out.
pub(crate) fn run(args: LoginArgs) -> anyhow::Result<ExitCode> {
    let path = Accounts::path()?;
    let mut accounts = Accounts::load(&path)?;
    let chosen = RemoteArgs { server: args.server, token: None };
    let server = chosen.server(&accounts)?;
    if !server.is_encrypted() && !server.is_local() {
        note(
            "Warning: this server is not encrypted; whoever carries the connection can read the token.",
        );
    }
    let given = if args.token_stdin { Some(read_token(std::io::stdin().lock())?) } else { None };
    remote::run(async {
        let token = match given {
            Some(token) => token,
            None => approved(&server).await?,
        };
        let owner = owner(&server, &token).await?;
        accounts.log_in(&server, &token);
        accounts.store(&path)?;
        note(&format!("Logged in to {server}{owner}. The token is in {}.", path.display()));
        Ok(ExitCode::SUCCESS)
    })
}

/// One line, bounded.
fn read_token(input: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    input.take(LONGEST).read_to_string(&mut text).context("read the token")?;
    let token = text.trim();
    ensure!(!token.is_empty(), "--token-stdin: standard input is empty");
    ensure!(!token.contains(char::is_whitespace), "--token-stdin: expected one token");
    Ok(token.to_owned())
}

/// Waits for somebody to approve in a browser.
async fn approved(server: &ServerUrl) -> anyhow::Result<String> {
    let client = ApiClient::new(server, None)?;
    let login = client.start_login().await?;
    note("Open this page to approve the login:");
    note(&format!("  {}", login.approve_url));
    Ok(client.finish_login(&login.id).await?)
}

/// Whose token it is, as far as it may know; an error when the server does not take it.
async fn owner(server: &ServerUrl, token: &str) -> anyhow::Result<String> {
    let client = ApiClient::new(server, Some(token))?;
    match client.organizations().await {
        Ok(organizations) => {
            let names: Vec<String> =
                organizations.into_iter().map(|organization| organization.name).collect();
            let known = !names.is_empty();
            Ok(if known { format!(" as {}", names.join(", ")) } else { String::new() })
        }
        // A project's token may build but not ask this.
        Err(error) if error.code() == Some(ErrorCode::PermissionDenied) => Ok(String::new()),
        Err(error) => Err(error).context("the server does not take this token"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_from_standard_input() {
        assert_eq!(read_token(&b" cfd_org_x\n"[..]).unwrap(), "cfd_org_x");
        for text in ["", " \n", "two tokens", "two\ntokens"] {
            assert!(read_token(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
