//! A docker daemon of a test's own: it touches nothing of the machine's, neither its network nor its firewall nor its images.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::Client;
use crate::process::Process;

/// How long a daemon may take to answer.
const START: Duration = Duration::from_secs(60);

/// How long it may take to end when told to.
const STOP: Duration = Duration::from_secs(20);

/// A running daemon.
#[derive(Debug)]
pub struct Docker {
    dir: TempDir,
    process: Process,
}

impl Docker {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When it does not, or without the Debian package docker.io.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        fs::write(dir.path().join("config"), "{}").unwrap();
        let mut command = Command::new("dockerd");
        for (flag, below) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
            ("--config-file", "config"),
        ] {
            command.arg(flag).arg(dir.path().join(below));
        }
        command
            .arg("--host")
            .arg(format!("unix://{}", dir.path().join("socket").display()))
            .args(
                "--iptables=false --ip6tables=false --ip-forward=false --ip-masq=false".split(' '),
            )
            .args("--bridge=none --storage-driver=vfs --shutdown-timeout=5".split(' '))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let docker = Self { process: Process::start(command), dir };
        let begun = Instant::now();
        while docker.client("version").run().code != Some(0) {
            let ended = docker.process.wait(Duration::from_millis(100));
            assert!(ended.is_none() && begun.elapsed() < START, "dockerd: {}", docker.log());
        }
        docker
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("socket").display())
    }

    /// A client that uses this daemon, whose version of the API may be older than what the client would speak by itself.
    #[must_use]
    pub fn for_client(&self, client: Client) -> Client {
        let version = self.client("version --format {{.Server.APIVersion}}").success().text();
        client.env("DOCKER_HOST", self.address()).env("DOCKER_API_VERSION", version.trim())
    }

    /// `docker` with these arguments, separated by white space.
    #[must_use]
    pub fn client(&self, args: &str) -> Client {
        Client::new("docker").env("DOCKER_HOST", self.address()).args(args)
    }

    /// A file of an image that the daemon has, read from the archive it saves.
    ///
    /// # Panics
    /// When there is no such image or file.
    #[must_use]
    pub fn read(&self, image: &str, path: &str) -> String {
        let saved = self.client("save").arg(image).success();
        let files = crate::entries(&saved.stdout);
        let layers = files.iter().filter(|(name, _)| name.ends_with("layer.tar"));
        let found = layers.filter(|(_, layer)| layer.kind == 'f').find_map(|(_, layer)| {
            crate::entries(&layer.content).get(path).map(crate::Entry::text)
        });
        found.unwrap_or_else(|| panic!("no {path} in {image}"))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Its own children go with it only when it is asked.
        self.process.signal(Signal::TERM);
        let _ = self.process.wait(STOP);
    }
}
