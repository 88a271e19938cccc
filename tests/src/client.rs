//! Clients that are not ours, as people call them: Depot's command line, Node, Python and Go programs, curl.
//!
//! Each call has a home of its own and none of the variables of the test's environment that these clients look at, so that
//! nothing on the machine decides what they do.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::build::RunningBuild;
use crate::outcome::Outcome;
use crate::places::{repository, test_client};

/// Variables that would change what a client does, by the beginnings of their names.
const UNWANTED: &[&str] = &[
    "ACTIONS_",
    "BUILDKIT",
    "BUILDX_",
    "CIRCLE",
    "CI",
    "COFFERDAM",
    "DEPOT_",
    "DOCKER",
    "GITHUB_",
    "GITLAB_",
    "GRPC_",
    "SOURCE_DATE_EPOCH",
    "SSH_AUTH_SOCK",
];

/// A program to be called.
#[derive(Debug)]
pub struct Client {
    command: Command,
    home: TempDir,
}

impl Client {
    /// A program by its path, or by its name when it is one of the system's.
    ///
    /// # Panics
    /// Without a place for its home.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if UNWANTED.iter().any(|start| name.to_string_lossy().starts_with(start)) {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path().join("config"))
            .env("DOCKER_CONFIG", home.path())
            // Nobody answers there: a test must not depend on a daemon that happens to run.
            .env("DOCKER_HOST", format!("unix://{}/docker.sock", home.path().display()))
            .stdin(Stdio::null());
        Self { command, home }
    }

    /// Depot's command line against the server at `url`.
    #[must_use]
    pub fn depot(url: &str) -> Self {
        Self::new(test_client("depot"))
            .env("DEPOT_API_URL", url)
            .env("DEPOT_NO_UPDATE_NOTIFIER", "1")
            .env("DEPOT_ERROR_TELEMETRY", "0")
            .env("DEPOT_DISABLE_OTEL", "1")
            .env("BUILDKIT_PROGRESS", "plain")
    }

    /// A Node program of this repository, with Depot's SDK at hand.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn node(script: &str) -> Self {
        // Node looks for packages in the directories above a program, so the program goes where its packages can be.
        let client = Self::new("node");
        let script = repository().join(script);
        let copy = client.home.path().join(script.file_name().unwrap());
        fs::copy(script, &copy).unwrap();
        std::os::unix::fs::symlink(
            test_client("../node/node_modules"),
            client.home.path().join("node_modules"),
        )
        .unwrap();
        client.arg(copy)
    }

    /// A Python program of this repository, with `depot_client` at hand.
    #[must_use]
    pub fn python(script: &str) -> Self {
        Self::new(test_client("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(repository().join(script))
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

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Calls it in `directory`.
    #[must_use]
    pub fn within(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Calls it as somebody with this token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.env("DEPOT_TOKEN", token)
    }

    /// Calls it with the home of an earlier call, which has to be kept until then.
    #[must_use]
    pub fn at_home(self, home: &Path) -> Self {
        self.env("HOME", home).env("XDG_CONFIG_HOME", home.join("config"))
    }

    /// Writes a file into its home, such as `config.json` for docker's credentials; gives the path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Starts it.
    #[must_use]
    pub fn spawn(self) -> RunningBuild {
        RunningBuild::start(self.command, self.home)
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.spawn().finish()
    }

    /// Runs it to its end, which must be a good one.
    #[must_use]
    pub fn success(self) -> Outcome {
        self.run().success()
    }
}
