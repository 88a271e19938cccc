//! A builder of this command's own: this program again, on a socket nobody else can reach, for the length of one build.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use cofferdam_client::Client;
use cofferdam_sandbox::Isolation;
use rustix::fs::{FlockOperation, flock};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use super::arguments::{BuilderChoice, DisplayArgs};
use crate::commands::builder::Places;

/// How long a new builder may take to answer; it needs a fraction of a second.
const START: Duration = Duration::from_secs(30);

/// Pause between attempts to reach it.
const PAUSE: Duration = Duration::from_millis(5);

/// How long it may take to end: the supervisor loses patience with the builder itself after 20 s.
const STOP: Duration = Duration::from_secs(25);

/// How long it may take to say why it failed, once it has closed its socket.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much of its log is shown when it fails.
const LOG_TAIL: u64 = 8 << 10;

/// A directory that only this user can enter, removed with this value.
#[derive(Debug)]
pub(crate) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Makes one with an unpredictable name below `$TMPDIR` or `/tmp`.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let path =
            std::env::temp_dir().join(format!("cofferdam-{:016x}", u64::from_ne_bytes(random)));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What remains lies in a directory for temporary files.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A running builder. Ends with this value at the latest, and with this process in any case: it watches the pipe.
#[derive(Debug)]
pub(super) struct OwnBuilder {
    child: Child,
    pipe: Option<ChildStdin>,
    socket: PathBuf,
    log: Option<File>,
    _dir: PrivateDir,
    _turn: File,
}

impl OwnBuilder {
    /// Starts one, which may reach the hosts in `named` too. Builds that use the same state take turns.
    pub(super) fn start(
        choice: &BuilderChoice,
        display: &DisplayArgs,
        named: &[String],
    ) -> anyhow::Result<Self> {
        let root = choice.root.clone().or_else(|| Places::of_this_user().root());
        let root = root.context(
            "say where to keep state with --root: neither XDG_DATA_HOME nor HOME is set",
        )?;
        let root = of_level(root, choice.isolation);
        let turn = take_turn(&root)?;
        let dir = PrivateDir::new()?;
        let socket = dir.path().join("builder.sock");
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg("builder").arg("--until-stdin-closes").arg("--root").arg(&root);
        command.arg("--addr").arg(format!("unix://{}", socket.display()));
        if let Some(level) = choice.isolation {
            command.arg("--isolation").arg(level.name());
        }
        if let Some(config) = &choice.config {
            command.arg("--config").arg(config);
        }
        for host in choice.allow_registry.iter().chain(named).filter(|host| !host.is_empty()) {
            command.arg("--allow-registry").arg(host);
        }
        let log = if display.debug {
            command.arg("--debug");
            None
        } else {
            // In memory, so that nothing but the socket has to be cleaned up after a builder.
            Some(File::from(rustix::fs::memfd_create(c"log", rustix::fs::MemfdFlags::CLOEXEC)?))
        };
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        if let Some(log) = &log {
            command.stderr(log.try_clone()?);
        }
        // Ctrl-C is for this process: it cancels the build first, and then stops the builder.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = Command::from(command).spawn().context("start a builder")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe, socket, log, _dir: dir, _turn: turn })
    }

    /// Waits until it answers.
    pub(super) async fn connect(&mut self) -> anyhow::Result<Client> {
        let address = format!("unix://{}", self.socket.display());
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.ended(status));
            }
            // The socket listens before anybody serves it: only an answer counts.
            if self.socket.exists()
                && let Ok(client) = Client::connect(&address).await
            {
                return self.answered(client, deadline).await;
            }
            if Instant::now() > deadline {
                bail!(self.failure().context("the builder does not listen"));
            }
            sleep(PAUSE).await;
        }
    }

    async fn answered(&mut self, client: Client, deadline: Instant) -> anyhow::Result<Client> {
        let control = client.control();
        let answer = control.info(Default::default());
        tokio::select! {
            answer = answer => match answer {
                Ok(_) => Ok(client),
                // A builder that fails closes its socket first, then says why, and then ends.
                Err(error) => match timeout(LAST_WORDS, self.child.wait()).await {
                    Ok(status) => Err(self.ended(status?)),
                    Err(_) => Err(self.failure().context(format!("the builder does not answer: {error}"))),
                },
            },
            status = self.child.wait() => Err(self.ended(status?)),
            () = tokio::time::sleep_until(deadline) => Err(self.failure().context("the builder does not answer")),
        }
    }

    /// Ends it in good order; what it was still doing is cancelled.
    pub(super) async fn stop(mut self) {
        // The end of the pipe is the request. A signal on top would be a second request, which means at once.
        drop(self.pipe.take());
        if timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await.ok();
        }
    }

    fn ended(&self, status: std::process::ExitStatus) -> anyhow::Error {
        self.failure().context(format!("the builder could not start ({status})"))
    }

    /// The end of the builder's log, as an error.
    fn failure(&self) -> anyhow::Error {
        match self.log.as_ref().map(tail) {
            Some(Ok(text)) if !text.trim().is_empty() => {
                anyhow!("its last messages:\n{}", text.trim_end())
            }
            _ => anyhow!("it left no message"),
        }
    }
}

/// State of a level: beside that of the first one and never below it, which a builder of that level could reach.
fn of_level(root: PathBuf, level: Option<Isolation>) -> PathBuf {
    let level = level.unwrap_or_default();
    match root.file_name() {
        Some(name) if level > Isolation::Namespaces => {
            let mut name = name.to_owned();
            name.push(format!("-{level}"));
            root.with_file_name(name)
        }
        _ => root,
    }
}

fn tail(log: &File) -> std::io::Result<String> {
    // The builder writes where this file's position is, so that must not be moved.
    use std::os::unix::fs::FileExt;
    let length = log.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(length.min(LOG_TAIL)).unwrap_or(0)];
    log.read_exact_at(&mut bytes, length.saturating_sub(LOG_TAIL))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A lock on the state below `root`, held as long as the file is open: two builders cannot share one store.
fn take_turn(root: &Path) -> anyhow::Result<File> {
    let mut name = root.file_name().context("--root names no directory")?.to_owned();
    name.push(".lock");
    let path = root.with_file_name(name);
    let failed = || format!("lock {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(failed)?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(failed)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        writeln!(std::io::stderr(), "waiting for another build that uses {}", root.display()).ok();
        flock(&file, FlockOperation::LockExclusive).with_context(failed)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_directories_are_private_and_go_away() {
        let dir = PrivateDir::new().unwrap();
        let path = dir.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn levels_share_no_state() {
        let root = |level| of_level("/var/lib/x/builder".into(), level);
        assert_eq!(root(None), Path::new("/var/lib/x/builder"));
        assert_eq!(root(Some(Isolation::Namespaces)), Path::new("/var/lib/x/builder"));
        assert_eq!(root(Some(Isolation::Vm)), Path::new("/var/lib/x/builder-vm"));
    }

    #[test]
    fn one_build_at_a_time_uses_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/root");
        let turn = take_turn(&root).unwrap();
        let other = File::options().write(true).open(dir.path().join("deep/root.lock")).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(turn);
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
