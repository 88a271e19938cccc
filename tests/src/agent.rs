//! A real `ssh-agent` with one key.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    dir: TempDir,
    _process: Process,
}

impl Agent {
    /// Starts one.
    ///
    /// # Panics
    /// Without the Debian package openssh-client.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("ssh-agent");
        command
            .args(["-D", "-a"])
            .arg(dir.path().join("agent"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let agent = Self { _process: Process::start(command), dir };
        for _ in 0..500 {
            if agent.socket().exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let key = agent.dir.path().join("key");
        let mut generate = Command::new("ssh-keygen");
        generate.args(["-q", "-t", "ed25519", "-N", "", "-C", "key-of-the-test", "-f"]).arg(&key);
        assert!(generate.status().unwrap().success());
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", agent.socket());
        assert!(add.status().unwrap().success());
        agent
    }

    /// The private key in the form in which it is kept.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn private_key(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("key")).unwrap()
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent")
    }
}
