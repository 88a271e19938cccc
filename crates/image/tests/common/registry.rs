//! A real registry process on a free loopback port.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Registry {
    child: Child,
    pub host: String,
    pub dir: tempfile::TempDir,
}

#[derive(Default)]
pub struct Setup<'a> {
    /// `user:bcrypt` lines.
    pub htpasswd: Option<&'a str>,
    /// Certificate, key, and the authority of client certificates.
    pub tls: Option<(&'a Path, &'a Path, &'a Path)>,
}

impl Registry {
    pub fn start(setup: &Setup<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = dir.path().join("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {root:?}}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n"
        );
        if let Some((cert, key, clients)) = setup.tls {
            write!(config, "  tls:\n    certificate: {cert:?}\n    key: {key:?}\n    clientcas: [{clients:?}]\n").unwrap();
        }
        if let Some(lines) = setup.htpasswd {
            let path = dir.path().join("htpasswd");
            std::fs::write(&path, lines).unwrap();
            writeln!(config, "auth: {{htpasswd: {{realm: test, path: {path:?}}}}}").unwrap();
        }
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Debian package docker-registry is needed");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "the registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, host: format!("localhost:{port}"), dir }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
