//! `cofferdam build`, as somebody types it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::image::{Entry, Image, entries};
use crate::outcome::Outcome;
use crate::places::program;
use crate::process::Process;

/// No build of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Variables of the test's own environment that would change what a build does.
const UNWANTED: &[&str] = &[
    "BUILDKIT_HOST",
    "BUILDKIT_PROGRESS",
    "COFFERDAM_BUILDER",
    "COFFERDAM_PROJECT",
    "COFFERDAM_SERVER",
    "COFFERDAM_TOKEN",
    "SOURCE_DATE_EPOCH",
    "SSH_AUTH_SOCK",
    "XDG_CONFIG_HOME",
];

/// The registries of tests are on this machine, where no builder may go without a word of its operator.
pub(crate) const LOCAL: &str = "127.0.0.1,localhost";

/// A build to be run.
#[derive(Debug)]
pub struct Build {
    command: Command,
    context: String,
    /// Home, credentials, output.
    dir: TempDir,
}

impl Build {
    /// A build of `context` by the builder at `address`; without one, by a builder of its own.
    ///
    /// # Panics
    /// When the program was not built.
    #[must_use]
    pub fn new(address: Option<&str>, context: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program());
        command.arg("build").env("HOME", dir.path()).env("DOCKER_CONFIG", dir.path());
        for name in UNWANTED {
            command.env_remove(name);
        }
        match address {
            Some(address) => drop(command.args(["--addr", address])),
            None => drop(command.env("COFFERDAM_ALLOW_REGISTRY", LOCAL)),
        }
        command.stdin(Stdio::null());
        Self { command, context: context.to_owned(), dir }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments, separated by white space.
    #[must_use]
    pub fn args(mut self, args: &str) -> Self {
        self.command.args(args.split_whitespace());
        self
    }

    /// Sets a variable of the client's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives the client a file on standard input.
    ///
    /// # Panics
    /// When it cannot be opened.
    #[must_use]
    pub fn stdin(mut self, path: &Path) -> Self {
        self.command.stdin(File::open(path).unwrap());
        self
    }

    /// Logs in to a registry, the way `docker login` does.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn login(self, host: &str, user: &str, password: &str) -> Self {
        let auth = crate::registry::basic(user, password);
        let config =
            serde_json::json!({ "auths": { host: { "auth": auth.trim_start_matches("Basic ") } } });
        fs::write(self.dir.path().join("config.json"), config.to_string()).unwrap();
        self
    }

    /// Starts it with plain progress.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(mut self) -> RunningBuild {
        if !self.command.get_args().any(|arg| arg.to_string_lossy().starts_with("--progress")) {
            self.command.args(["--progress", "plain"]);
        }
        self.command.arg(&self.context);
        RunningBuild::start(self.command, self.dir)
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.spawn().finish()
    }

    /// Runs it and gives what it wrote below a directory: what `--output type=local` is for. The directory goes with the value.
    ///
    /// # Panics
    /// When the build fails.
    #[must_use]
    pub fn local(self) -> (Outcome, TempDir) {
        let out = tempfile::tempdir().unwrap();
        let output = format!("type=local,dest={}", out.path().display());
        (self.arg("--output").arg(output).run().success(), out)
    }

    /// Runs it and gives the image it made, through an OCI archive.
    ///
    /// # Panics
    /// When the build fails or the archive is broken.
    #[must_use]
    pub fn image(self) -> Image {
        self.image_with("").1
    }

    /// Like [`Build::image`], with further fields for `--output` such as `,compression=zstd`, and with what the build said.
    ///
    /// # Panics
    /// When the build fails or the archive is broken.
    #[must_use]
    pub fn image_with(self, fields: &str) -> (Outcome, Image) {
        // Not the build's own directory: that goes with the build.
        let kept = tempfile::tempdir().unwrap();
        let file = kept.path().join("image.tar");
        let output = format!("type=oci,dest={}{fields}", file.display());
        let outcome = self.arg("--output").arg(output).run().success();
        (outcome, Image::from_oci_archive(&file))
    }

    /// Runs it and gives the files of the result, through a tar.
    ///
    /// # Panics
    /// When the build fails.
    #[must_use]
    pub fn tar(self) -> BTreeMap<String, Entry> {
        let outcome = self.args("--output type=tar,dest=-").run().success();
        entries(&outcome.stdout)
    }
}

/// A build, or another call of a client, that was started.
#[derive(Debug)]
pub struct RunningBuild {
    process: Process,
    stdout: PathBuf,
    stderr: PathBuf,
    _dir: TempDir,
}

impl RunningBuild {
    /// Starts `command`; what it says goes into `dir`, which is kept until it ends.
    pub(crate) fn start(mut command: Command, dir: TempDir) -> Self {
        let (stdout, stderr) = (dir.path().join(".stdout"), dir.path().join(".stderr"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        Self { process: Process::start(command), stdout, stderr, _dir: dir }
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Interrupts it, as control-C does.
    pub fn interrupt(&self) {
        self.process.signal(Signal::INT);
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn printed(&self) -> String {
        fs::read(&self.stdout)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read(&self.stderr)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Waits until it has said `text`.
    ///
    /// # Panics
    /// When it ends or a minute passes before.
    pub fn wait_for(&self, text: &str) {
        for _ in 0..3000 {
            if self.said().contains(text) {
                return;
            }
            let ended = self.process.wait(Duration::from_millis(20)).is_some();
            assert!(
                !ended || self.said().contains(text),
                "the build ended without saying {text:?}:\n{}",
                self.said()
            );
        }
        panic!("the build does not say {text:?}:\n{}", self.said());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes too long.
    #[must_use]
    pub fn finish(self) -> Outcome {
        let status = self
            .process
            .wait(PATIENCE)
            .unwrap_or_else(|| panic!("the build does not end:\n{}", self.said()));
        Outcome {
            code: status.code(),
            stdout: fs::read(&self.stdout).unwrap(),
            stderr: self.said(),
        }
    }
}
