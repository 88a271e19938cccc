//! The program `git`: its arguments, its environment, its output.
//!
//! It runs inside the builder's enclosure with a configuration of its own, hooks off, and only the
//! protocol of the URL allowed. Tokens travel in the environment of the one command that needs them and
//! never in an argument. What a server makes it say is bounded, and how long it may let git wait.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_solver::{LogStream, Step};
use cofferdam_wire::pb;
use connectrpc::ErrorCode;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::git::Remote;
use super::git_watch::{self, Patience};
use crate::context::Context;
use crate::failure::Failure;

/// Hexadecimal digits of a commit in a repository that uses SHA-256.
pub(super) const SHA256_LENGTH: usize = 64;
/// Longest output of a git command: the refs of the largest repositories fit.
const MAX_OUTPUT: usize = 16 << 20;
/// How long a server may stand still. One that packs a large repository says no more meanwhile than that it lives: much shorter
/// would end fetches that only take long to begin.
const STALL_SECONDS: u32 = 120;
/// Bytes per second that are standing still, too.
const STALL_RATE: u32 = 1000;
/// How often a server of ssh is asked whether it lives.
const ALIVE_SECONDS: u32 = 30;
/// What is asked of a server where neither git nor ssh asks: the same speed, and an end.
const PATIENCE: Patience = Patience {
    stall: Duration::from_secs(STALL_SECONDS as u64),
    bytes: STALL_SECONDS as u64 * STALL_RATE as u64,
    total: Duration::from_secs(3 * 60 * 60),
    interval: Duration::from_secs(10),
};

/// A token or header for the host, from the URL or the client's secrets.
async fn authorization(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    remote: &Remote,
    step: &Step,
) -> Option<String> {
    if !remote.protocol.starts_with("http") {
        return None;
    }
    if let Some(login) = &remote.login {
        return Some(login.clone());
    }
    let host = url::Url::parse(&remote.url).ok()?.host_str()?.to_owned();
    let name = |key: &str, default: &str| {
        op.attrs.get(key).filter(|name| !name.is_empty()).cloned().unwrap_or(default.to_owned())
    };
    let header = name("git.authheadersecret", "GIT_AUTH_HEADER");
    let token = name("git.authtokensecret", "GIT_AUTH_TOKEN");
    let candidates = [
        (format!("{header}.{host}"), false),
        (format!("{token}.{host}"), true),
        (header, false),
        (token, true),
    ];
    for (id, is_token) in candidates {
        let Ok(value) = context.secret(step, &id).await else { continue };
        let value = String::from_utf8(value).ok()?;
        let value = value.trim();
        return Some(if is_token {
            use base64::Engine as _;
            let basic =
                base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{value}"));
            format!("Authorization: basic {basic}")
        } else {
            format!("Authorization: {value}")
        });
    }
    None
}

/// Runs git for a source.
pub(super) struct Git<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) op: &'a pb::SourceOp,
    pub(super) remote: &'a Remote,
    /// The repository that commands work in.
    pub(super) directory: Option<&'a Path>,
    pub(super) step: &'a Step,
}

impl Git<'_> {
    /// Makes an empty repository that can hold `commit`.
    pub(super) async fn init(&self, commit: &str) -> Result<(), Failure> {
        // The hash a repository uses is fixed when it is made, and cannot be mixed with another.
        let format = if commit.len() == SHA256_LENGTH { "sha256" } else { "sha1" };
        self.run(&["init", "-q", &format!("--object-format={format}"), "."]).await?;
        self.run(&["remote", "add", "origin", &self.remote.url]).await.map(|_| ())
    }

    /// Fetches `object` and nothing in its place; what leads to it only when that is wanted.
    pub(super) async fn fetch(&self, object: &str, history: bool) -> Result<(), Failure> {
        // Servers may refuse to serve a bare commit; then everything reachable is fetched.
        let depth: &[&str] = if history { &[] } else { &["--depth=1"] };
        let bare = [&["fetch", "-q"][..], depth, &["--no-tags", "origin", object]].concat();
        match self.run(&bare).await {
            Ok(_) => return Ok(()),
            // A server for which there is no more patience gets no second chance.
            Err(failure) if failure.code() == ErrorCode::DeadlineExceeded => return Err(failure),
            Err(_) => {}
        }
        let all = "+refs/heads/*:refs/remotes/origin/*";
        self.run(&["fetch", "-q", "--tags", "origin", all]).await?;
        if self.has(object).await {
            return Ok(());
        }
        // Neither a branch nor a tag: a request to merge, for example.
        let reference = self.remote.reference.as_str();
        if reference.starts_with("refs/") {
            self.run(&["fetch", "-q", "--no-tags", "origin", reference]).await?;
            if self.has(object).await {
                return Ok(());
            }
        }
        Err(Failure::unknown(format!(
            "the repository does not serve {object}: no reference leads to it now"
        )))
    }

    async fn has(&self, object: &str) -> bool {
        self.run(&["cat-file", "-e", object]).await.is_ok()
    }

    /// What a command prints, without blanks around it.
    pub(super) async fn text(&self, args: &[&str]) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.run(args).await?).trim().to_owned())
    }

    /// What a command prints.
    pub(super) async fn run(&self, args: &[&str]) -> Result<Vec<u8>, Failure> {
        self.run_with(args, Stdio::null()).await
    }

    /// What a command prints that reads `input`.
    pub(super) async fn run_with(&self, args: &[&str], input: Stdio) -> Result<Vec<u8>, Failure> {
        let (remote, step) = (self.remote, self.step);
        let watched = speaks(args) && matches!(remote.protocol.as_str(), "git" | "ssh");
        let patience = watched.then_some(PATIENCE);
        let output = bounded_output(self.command(args).await.stdin(input), patience).await;
        let output = output.map_err(|error| {
            if error.kind() == std::io::ErrorKind::TimedOut {
                let failure = Failure::of(error).with_code(ErrorCode::DeadlineExceeded);
                return failure.during("failed to fetch git repository: git was ended");
            }
            Failure::of(error)
                .during("failed to run git, which git sources need on the builder's host")
        })?;
        let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let errors = errors.replace(&remote.url, &super::http::redacted(&remote.url));
        if !errors.is_empty() {
            step.progress.log(LogStream::Stderr, format!("{errors}\n"));
        }
        if !output.status.success() {
            return Err(Failure::unknown(format!("failed to fetch git repository: {errors}")));
        }
        Ok(output.stdout)
    }

    async fn command(&self, args: &[&str]) -> Command {
        let Self { context, op, remote, directory, step } = *self;
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/nonexistent")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", &remote.protocol)
            .env("LC_ALL", "C")
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
            .args(["-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        bound_stalls(&mut command, &remote.protocol);
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"] {
            if let Ok(value) = std::env::var(variable) {
                command.env(variable, value);
            }
        }
        if speaks(args)
            && let Some(header) = authorization(context, op, remote, step).await
        {
            let host_only = url::Url::parse(&remote.url)
                .map(|url| url.origin().ascii_serialization())
                .unwrap_or_default();
            command
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", format!("http.{host_only}/.extraHeader"))
                .env("GIT_CONFIG_VALUE_0", header);
        }
        if let Some(directory) = directory {
            command.current_dir(directory);
        }
        command.args(args);
        command
    }
}

/// Ends what waits for a server that says nothing more: git by itself waits for ever. In the environment, for submodules have it too.
fn bound_stalls(command: &mut Command, protocol: &str) {
    match protocol {
        "http" | "https" => {
            command
                .env("GIT_HTTP_LOW_SPEED_LIMIT", STALL_RATE.to_string())
                .env("GIT_HTTP_LOW_SPEED_TIME", STALL_SECONDS.to_string());
        }
        "ssh" => {
            let questions = STALL_SECONDS / ALIVE_SECONDS;
            let ssh = format!(
                "ssh -o ConnectTimeout={STALL_SECONDS} -o ServerAliveInterval={ALIVE_SECONDS} -o ServerAliveCountMax={questions}"
            );
            command.env("GIT_SSH_COMMAND", ssh);
        }
        // Neither git nor its protocol has anything of the kind; see `PATIENCE`.
        _ => {}
    }
}

/// Whether a command speaks with a server. No other one is given what opens it.
fn speaks(args: &[&str]) -> bool {
    matches!(args, ["ls-remote" | "fetch", ..] | ["submodule", "update", ..])
}

/// What a program says, up to a bound: a server decides how much git has to say about its refs. One that says more, or
/// for whose server there is no more patience, is ended with all that it started.
async fn bounded_output(
    command: &mut Command,
    patience: Option<Patience>,
) -> std::io::Result<std::process::Output> {
    async fn read(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let Some(from) = from else { return Ok(bytes) };
        from.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut bytes).await?;
        if bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other(format!("it says more than {MAX_OUTPUT} bytes")));
        }
        Ok(bytes)
    }
    let mut child = command.process_group(0).spawn()?;
    let id = child.id();
    let group = Group(id);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let limit = async move {
        match (id, patience) {
            (Some(group), Some(patience)) => git_watch::out_of_patience(group, patience).await,
            _ => std::future::pending().await,
        }
    };
    let (stdout, stderr) = tokio::select! {
        said = async { tokio::try_join!(read(stdout), read(stderr)) } => said?,
        error = limit => return Err(error),
    };
    let status = child.wait().await?;
    group.forget();
    Ok(std::process::Output { status, stdout, stderr })
}

/// The process group of a program, which is ended with it.
struct Group(Option<u32>);

impl Group {
    /// The program is over, and its number may be another's by now.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            git_watch::end(group);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn only_commands_that_speak_with_servers_have_credentials() {
        for args in [&["ls-remote", "--", "u"][..], &["fetch", "-q"], &["submodule", "update"]] {
            assert!(speaks(args), "{args:?}");
        }
        for args in [&["init"][..], &["checkout", "fetch"], &["submodule", "deinit"], &[]] {
            assert!(!speaks(args), "{args:?}");
        }
        for args in [&["index-pack", "--stdin"][..], &["-c", "x=y", "bundle", "create"]] {
            assert!(!speaks(args), "{args:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_only_keeps_the_connection_ends_git() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("git://{}/repository", listener.local_addr().unwrap());
        // The length of a line, and then a byte of it at a time.
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut sent = stream.write_all(b"ff00").await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                sent = stream.write_all(b"0").await;
            }
        });
        let patience = Patience {
            stall: Duration::from_secs(1),
            bytes: 1000,
            total: Duration::from_secs(600),
            interval: Duration::from_millis(50),
        };
        let mut command = Command::new("git");
        command.args(["ls-remote", &url]).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = bounded_output(&mut command, Some(patience));
        let error = tokio::time::timeout(Duration::from_secs(60), output).await.unwrap();
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        // It notices, because git is gone.
        tokio::time::timeout(Duration::from_secs(60), server).await.unwrap().unwrap();
    }

    #[test]
    fn no_server_holds_git_for_ever() {
        let environment = |protocol: &str| {
            let mut command = Command::new("git");
            bound_stalls(&mut command, protocol);
            let environment = command.as_std().get_envs();
            let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
            environment
                .map(|(name, value)| (text(name), value.map(text).unwrap_or_default()))
                .collect::<std::collections::BTreeMap<String, String>>()
        };
        for protocol in ["http", "https"] {
            let environment = environment(protocol);
            assert_eq!(environment["GIT_HTTP_LOW_SPEED_LIMIT"], "1000");
            assert_eq!(environment["GIT_HTTP_LOW_SPEED_TIME"], "120");
            assert_eq!(environment.len(), 2);
        }
        let ssh = environment("ssh");
        assert_eq!(
            ssh["GIT_SSH_COMMAND"],
            "ssh -o ConnectTimeout=120 -o ServerAliveInterval=30 -o ServerAliveCountMax=4"
        );
        assert_eq!(ssh.len(), 1);
        assert!(environment("git").is_empty());
    }
}
