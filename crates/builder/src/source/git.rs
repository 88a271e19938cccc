//! Git repositories.
//!
//! `git` runs as a program inside the builder's enclosure, which holds no credential and no other
//! project, with its own configuration, hooks off, and only the protocol of the URL allowed.
//! URLs, refs and subdirectories are checked before they reach a command line; the subdirectory
//! is resolved by the kernel beneath the checkout. Tokens, and users and passwords of URLs, travel in the environment of the one
//! command that needs them and never in an argument.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use cofferdam_digest::Digester;
use cofferdam_solver::{LogStream, Step};
use cofferdam_store::Tree;
use cofferdam_wire::pb;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::{SourceKey, cancellable};
use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::op::file::copy_everything;
use crate::rooted::clean;
use crate::snapshot::{Snapshot, Workspace, open_own};

/// Where repositories are unpacked before their files are copied into the store.
const TEMPORARY: &str = "/tmp";
/// Hexadecimal digits of a commit in a repository that uses SHA-256.
const SHA256_LENGTH: usize = 64;
/// Longest output of a git command: the refs of the largest repositories fit.
const MAX_OUTPUT: usize = 16 << 20;

/// A repository as an identifier names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    /// Without credentials: it goes into command lines, configuration and messages of git.
    url: String,
    /// What the URL had of them, as a header.
    login: Option<String>,
    protocol: String,
    reference: String,
    subdirectory: String,
    keep_git: bool,
    submodules: bool,
    /// Files carry the time of the commit instead of the time of the checkout.
    commit_time: bool,
}

fn parse(op: &pb::SourceOp, identifier: &str) -> Result<Remote, Failure> {
    let (plain, fragment) = identifier.split_once('#').unwrap_or((identifier, ""));
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let url = match op.attrs.get("git.fullurl").filter(|url| !url.is_empty()) {
        Some(url) => url.clone(),
        None => format!("https://{plain}"),
    };
    let protocol = match url.split_once("://") {
        Some((scheme @ ("https" | "http" | "ssh" | "git"), _)) => scheme.to_owned(),
        // scp-like addresses, user@host:path
        None if url.contains('@') && url.contains(':') => "ssh".to_owned(),
        _ => return Err(Failure::invalid("git URLs must use https, http, ssh or git")),
    };
    for (what, text) in [("URL", &url), ("ref", &reference.to_owned())] {
        if text.starts_with('-') || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Failure::invalid(format!("invalid git {what}")));
        }
    }
    if subdirectory.split('/').any(|part| part == "..") {
        return Err(Failure::invalid(format!("invalid git subdirectory {subdirectory:?}")));
    }
    let flag = |key: &str| op.attrs.get(key).is_some_and(|value| value == "true");
    let (url, login) = super::login::split(&url);
    Ok(Remote {
        url,
        login,
        protocol,
        reference: reference.to_owned(),
        subdirectory: clean(subdirectory),
        keep_git: flag("git.keepgitdir"),
        submodules: !flag("git.skipsubmodules"),
        commit_time: op.attrs.get("git.mtime").is_some_and(|mtime| mtime == "commit"),
    })
}

fn is_commit(text: &str) -> bool {
    (text.len() == 40 || text.len() == 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What names a checkout: the commit and what is taken of it.
pub(crate) async fn key(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    identifier: &str,
    step: &Step,
) -> Result<SourceKey, Failure> {
    let remote = parse(op, identifier)?;
    let commit = cancellable(step, commit_of(context, op, &remote, step)).await?;
    let mut digester = Digester::new();
    digester.field("git");
    digester.field(&commit);
    digester.field(&remote.subdirectory);
    digester.field([remote.keep_git, remote.submodules, remote.commit_time].map(u8::from));
    if remote.keep_git || remote.submodules {
        // Both depend on where the repository is, not only on the commit.
        digester.field(&remote.url);
        digester.field(&remote.reference);
    }
    Ok(SourceKey {
        digest: digester.finish(),
        volatile: false,
        pin: Some(commit.as_str().into()),
    })
}

/// The reference that is meant and the commit it names.
pub(crate) async fn describe(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    identifier: &str,
    step: &Step,
) -> Result<(String, String), Failure> {
    let remote = parse(op, identifier)?;
    let commit = cancellable(step, commit_of(context, op, &remote, step)).await?;
    Ok((remote.reference, commit))
}

/// The commit a reference names now.
async fn commit_of(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    remote: &Remote,
    step: &Step,
) -> Result<String, Failure> {
    let commit = if is_commit(&remote.reference) {
        remote.reference.to_ascii_lowercase()
    } else {
        let wanted = if remote.reference.is_empty() { "HEAD" } else { remote.reference.as_str() };
        let args = ["ls-remote", "--", &remote.url, wanted, &format!("{wanted}^{{}}")];
        let output = run(context, op, remote, None, &args, step).await?;
        choose(&output, wanted)
            .ok_or_else(|| Failure::unknown(format!("repository does not contain ref {wanted}")))?
    };
    let expected = op.attrs.get("git.checksum").filter(|expected| !expected.is_empty());
    if let Some(expected) = expected.filter(|expected| !commit.starts_with(expected.as_str())) {
        return Err(Failure::unknown(format!(
            "expected checksum to match {expected}, got {commit}"
        )));
    }
    Ok(commit)
}

/// The commit in `ls-remote` output: a peeled tag, then a branch, then whatever matches.
fn choose(output: &str, wanted: &str) -> Option<String> {
    let lines: Vec<(&str, &str)> =
        output.lines().filter_map(|line| line.split_once('\t')).collect();
    let names = [
        format!("refs/tags/{wanted}^{{}}"),
        format!("{wanted}^{{}}"),
        format!("refs/heads/{wanted}"),
        format!("refs/tags/{wanted}"),
        wanted.to_owned(),
    ];
    names
        .iter()
        .find_map(|name| lines.iter().find(|(_, reference)| reference == name))
        .map(|(commit, _)| (*commit).to_owned())
        .filter(|commit| is_commit(commit))
}

/// The checked-out files.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    identifier: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let remote = parse(op, identifier)?;
    cancellable(step, checkout(context, op, &remote, step)).await
}

async fn checkout(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    remote: &Remote,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let commit = commit_of(context, op, remote, step).await?;
    let directory =
        tempfile::Builder::new().prefix("git-").tempdir_in(TEMPORARY).map_err(Failure::store)?;
    let path = directory.path();
    let git = |args: Vec<String>| async move {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(context, op, remote, Some(path), &args, step).await
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    // The hash a repository uses is fixed when it is made, and cannot be mixed with another.
    let format = if commit.len() == SHA256_LENGTH { "sha256" } else { "sha1" };
    git(words(&format!("init -q --object-format={format} ."))).await?;
    git(vec!["remote".into(), "add".into(), "origin".into(), remote.url.clone()]).await?;
    // Servers may refuse to serve a bare commit; then everything reachable is fetched.
    let shallow = words(&format!("fetch -q --depth=1 --no-tags origin {commit}"));
    if git(shallow).await.is_err() {
        git(words("fetch -q --tags origin +refs/heads/*:refs/remotes/origin/*")).await?;
    }
    git(words(&format!("checkout -q --detach {commit}"))).await?;
    if remote.submodules && path.join(".gitmodules").is_file() {
        // A server of plain files cannot serve a part of the history.
        if git(words("submodule update -q --init --recursive --depth=1")).await.is_err() {
            git(words("submodule deinit -q --force --all")).await?;
            git(words("submodule update -q --init --recursive")).await?;
        }
    }
    let time = match remote.commit_time {
        true => nanoseconds(&git(words("show -s --format=%ct HEAD")).await?),
        false => None,
    };
    let store = Arc::clone(&context.store);
    let description = format!("checkout of {}", super::http::redacted(&remote.url));
    let (subdirectory, keep_git) = (remote.subdirectory.clone(), remote.keep_git);
    let root = open_own(path).map_err(Failure::store)?;
    let result = blocking(move || {
        let source = root.directory(&subdirectory).map_err(|error| {
            Failure::of(error).during(&format!("git subdirectory {subdirectory:?}"))
        })?;
        if !keep_git {
            source.remove(".git".as_ref()).map_err(Failure::store)?;
        }
        let workspace = Workspace::new(&store, Tree::scratch(), &description)?;
        let ids = store.ids();
        copy_everything(&source, workspace.root(), Some((ids.first, ids.first)), time)
            .map_err(Failure::store)?;
        workspace.commit().map(Snapshot::committed)
    })
    .await?;
    drop(directory);
    result
}

/// What `%ct` printed, as file times are counted.
fn nanoseconds(seconds: &str) -> Option<i64> {
    seconds.trim().parse::<i64>().ok()?.checked_mul(1_000_000_000)
}

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

async fn run(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    remote: &Remote,
    directory: Option<&Path>,
    args: &[&str],
    step: &Step,
) -> Result<String, Failure> {
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
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"] {
        if let Ok(value) = std::env::var(variable) {
            command.env(variable, value);
        }
    }
    if let Some(header) = authorization(context, op, remote, step).await {
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
    let output = bounded_output(command.args(args)).await.map_err(|error| {
        Failure::of(error).during("failed to run git, which git sources need on the builder's host")
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let errors = text(&output.stderr).replace(&remote.url, &super::http::redacted(&remote.url));
    if !errors.is_empty() {
        step.progress.log(LogStream::Stderr, format!("{errors}\n"));
    }
    if !output.status.success() {
        return Err(Failure::unknown(format!("failed to fetch git repository: {errors}")));
    }
    Ok(text(&output.stdout))
}

/// What a program says, up to a bound: a server decides how much git has to say about its refs. One that says more is ended.
async fn bounded_output(command: &mut Command) -> std::io::Result<std::process::Output> {
    async fn read(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let Some(from) = from else { return Ok(bytes) };
        from.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut bytes).await?;
        if bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other(format!("it says more than {MAX_OUTPUT} bytes")));
        }
        Ok(bytes)
    }
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Dropped on an error, which ends the program.
    let (stdout, stderr) = tokio::try_join!(read(stdout), read(stderr))?;
    Ok(std::process::Output { status: child.wait().await?, stdout, stderr })
}
