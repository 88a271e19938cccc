//! Which server, token and project a command means: its arguments, else the environment, else what is on disk.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;
use cofferdam_apiclient::{ApiClient, ServerUrl};
use serde::Deserialize;

use crate::accounts::Accounts;

/// Names the server.
pub(crate) const SERVER: &str = "COFFERDAM_SERVER";
const TOKEN: &str = "COFFERDAM_TOKEN";
const PROJECT: &str = "COFFERDAM_PROJECT";

/// The file that names a directory's project, as other clients write it.
const PROJECT_FILE: &str = "depot.json";

/// Largest such file; it holds one id.
const LARGEST: u64 = 64 << 10;

/// Whom to ask.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct RemoteArgs {
    /// Server to ask, http(s)://HOST:PORT [default: $COFFERDAM_SERVER, or the one last logged in to]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// Token to show it [default: $COFFERDAM_TOKEN, or the one that `cofferdam login` stored]
    #[arg(long, global = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

/// Which project.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ProjectArgs {
    /// Project [default: $COFFERDAM_PROJECT, or the "id" in the nearest depot.json upwards]
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) project: Option<String>,
}

/// How to answer.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AnswerArgs {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A variable of the environment; an empty one is none.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl RemoteArgs {
    /// A client that shows the token.
    pub(crate) fn connect(&self) -> anyhow::Result<ApiClient> {
        let accounts = Accounts::of_this_user()?;
        let server = self.choose(variable, &accounts)?;
        let token = self.choose_token(variable, &accounts, &server)?;
        Ok(ApiClient::new(&server, Some(&token))?)
    }

    /// The server alone, for commands that make or forget a login.
    pub(crate) fn server(&self, accounts: &Accounts) -> anyhow::Result<ServerUrl> {
        self.choose(variable, accounts)
    }

    /// Whether any server is named anywhere.
    pub(crate) fn is_configured(&self) -> anyhow::Result<bool> {
        let named = self.server.is_some() || variable(SERVER).is_some();
        Ok(named || Accounts::of_this_user()?.default_server().is_some())
    }

    fn choose(
        &self,
        variable: impl Fn(&str) -> Option<String>,
        accounts: &Accounts,
    ) -> anyhow::Result<ServerUrl> {
        let named = self.server.clone().or_else(|| variable(SERVER));
        let text = named.or_else(|| accounts.default_server().map(str::to_owned)).context(
            "no server is named: use --server URL or COFFERDAM_SERVER, or log in to one with cofferdam login --server URL",
        )?;
        Ok(text.parse()?)
    }

    fn choose_token(
        &self,
        variable: impl Fn(&str) -> Option<String>,
        accounts: &Accounts,
        server: &ServerUrl,
    ) -> anyhow::Result<String> {
        let named = self.token.clone().or_else(|| variable(TOKEN));
        let token = named.or_else(|| accounts.token(server).map(str::to_owned));
        let token = token.with_context(|| {
            format!(
                "no token for {server}: run cofferdam login --server {server}, or set COFFERDAM_TOKEN"
            )
        })?;
        Ok(token.trim().to_owned())
    }
}

impl ProjectArgs {
    /// The project, or an error that says how to name one.
    pub(crate) fn required(&self) -> anyhow::Result<String> {
        self.find()?.context(
            "no project is named: use --project ID or COFFERDAM_PROJECT, or a depot.json with its \"id\"",
        )
    }

    /// The project, when one is named anywhere.
    pub(crate) fn find(&self) -> anyhow::Result<Option<String>> {
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        self.choose(variable, &directory)
    }

    fn choose(
        &self,
        variable: impl Fn(&str) -> Option<String>,
        directory: &Path,
    ) -> anyhow::Result<Option<String>> {
        match self.project.clone().or_else(|| variable(PROJECT)) {
            Some(project) => Ok(Some(project)),
            None => of_directory(directory),
        }
    }
}

#[derive(Deserialize)]
struct ProjectFile {
    id: String,
}

/// What the nearest project file upwards of `directory` says.
fn of_directory(directory: &Path) -> anyhow::Result<Option<String>> {
    for directory in directory.ancestors() {
        let path = directory.join(PROJECT_FILE);
        let Ok(file) = std::fs::File::open(&path) else { continue };
        let file = std::io::Read::take(file, LARGEST);
        let content: ProjectFile = serde_json::from_reader(std::io::BufReader::new(file))
            .map_err(|error| anyhow!("{} names no project: {error}", path.display()))?;
        return Ok(Some(content.id));
    }
    Ok(None)
}

/// Carries out a command that talks to a server.
pub(crate) fn run(
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn all(name: &str) -> Option<String> {
        let value = match name {
            SERVER => "http://environment:1",
            TOKEN => "environment\n",
            PROJECT => "environment",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn arguments_then_environment_then_logins() {
        let mut accounts = Accounts::default();
        let url: ServerUrl = "https://login.example".parse().unwrap();
        accounts.log_in(&url, "stored");
        let named =
            RemoteArgs { server: Some("http://argument/".into()), token: Some("argument".into()) };
        let none = RemoteArgs::default();
        for (args, variable, server, token) in [
            (&named, all as fn(&str) -> Option<String>, "http://argument", "argument"),
            (&none, all, "http://environment:1", "environment"),
            (&none, nothing, "https://login.example", "stored"),
        ] {
            let chosen = args.choose(variable, &accounts).unwrap();
            assert_eq!(chosen.as_str(), server);
            assert_eq!(args.choose_token(variable, &accounts, &chosen).unwrap(), token);
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let (none, accounts) = (RemoteArgs::default(), Accounts::default());
        let error = none.choose(nothing, &accounts).unwrap_err().to_string();
        assert!(error.contains("--server") && error.contains(SERVER), "{error}");
        let url: ServerUrl = "https://h".parse().unwrap();
        let error = none.choose_token(nothing, &accounts, &url).unwrap_err().to_string();
        assert!(error.contains("cofferdam login --server https://h"), "{error}");
    }

    #[test]
    fn directories_have_projects() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        let find =
            |variable: fn(&str) -> Option<String>| ProjectArgs::default().choose(variable, &deep);
        std::fs::write(dir.path().join(PROJECT_FILE), r#"{"id":"outer","x":1}"#).unwrap();
        assert_eq!(find(nothing).unwrap().as_deref(), Some("outer"));
        std::fs::write(dir.path().join("a").join(PROJECT_FILE), r#"{"id":"inner"}"#).unwrap();
        assert_eq!(find(nothing).unwrap().as_deref(), Some("inner"));
        assert_eq!(find(all).unwrap().as_deref(), Some("environment"));
        let named = ProjectArgs { project: Some("argument".into()) };
        assert_eq!(named.choose(all, &deep).unwrap().as_deref(), Some("argument"));
        std::fs::write(deep.join(PROJECT_FILE), r#"{"name":"x"}"#).unwrap();
        assert!(find(nothing).unwrap_err().to_string().contains("names no project"));
    }
}
