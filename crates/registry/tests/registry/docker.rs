//! docker with a daemon of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::clients::{archive, client, fail, succeed};
use crate::fixture::{Image, MANIFEST, layout};
use crate::server::{OWNER, READER, STRANGER, Server};

/// A daemon that touches nothing of the machine's own: no network, no firewall, its own files.
struct Docker {
    daemon: Child,
    dir: PathBuf,
}

impl Docker {
    fn start(dir: &Path) -> Self {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = client("dockerd");
        for (flag, below) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
            ("--config-file", "config"),
        ] {
            command.arg(flag).arg(dir.join(below));
        }
        std::fs::write(dir.join("config"), "{}").unwrap();
        command.arg("--host").arg(format!("unix://{}", dir.join("socket").display()));
        command.args([
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
        ]);
        command.args(["--bridge=none", "--storage-driver=vfs", "--shutdown-timeout=5"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = command.spawn().expect("dockerd is installed");
        let mut docker = Self { daemon, dir: dir.to_owned() };
        docker.wait();
        docker
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while !self.run(&["version"]).output().unwrap().status.success() {
            let ended = self.daemon.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap();
                panic!("dockerd does not answer ({ended:?}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn run(&self, args: &[&str]) -> Command {
        let mut command = client("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.dir.join("socket").display()));
        command.env("DOCKER_CONFIG", self.dir.join("client")).args(args);
        command
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let start = Instant::now();
        while self.daemon.try_wait().is_ok_and(|ended| ended.is_none()) {
            if start.elapsed() > Duration::from_secs(20) {
                let _ = self.daemon.kill();
                let _ = self.daemon.wait();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in_pushes_and_pulls() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let docker = Docker::start(dir.path());
    let image = Image::new("docker", 1 << 20);
    let source = dir.path().join("source");
    layout(&source, &[&image], &image.manifest, MANIFEST);
    let name = format!("{}:docker", server.name("/app"));
    let archive = archive(&source, &name);
    succeed(docker.run(&["load", "--input"]).arg(&archive));
    let id = succeed(&mut docker.run(&["image", "inspect", "--format", "{{.Id}}", &name]));

    fail(&mut docker.run(&["push", &name]));
    let addr = server.addr.to_string();
    let login =
        |token: &str| docker.run(&["login", "--username", "x-token", "--password", token, &addr]);
    fail(&mut login("wrong"));
    succeed(&mut login(OWNER));
    succeed(&mut docker.run(&["push", &name]));
    let second = format!("{}:docker", server.name("/second"));
    succeed(&mut docker.run(&["tag", &name, &second]));
    succeed(&mut docker.run(&["push", &second]));
    succeed(&mut docker.run(&["rmi", "--force", id.trim()]));
    succeed(&mut docker.run(&["pull", &name]));
    assert_eq!(succeed(&mut docker.run(&["image", "inspect", "--format", "{{.Id}}", &name])), id);
    succeed(&mut docker.run(&["manifest", "inspect", "--insecure", &name]));

    succeed(&mut login(READER));
    succeed(&mut docker.run(&["pull", &second]));
    let complaint = fail(&mut docker.run(&["push", &second]));
    assert!(
        complaint.contains("denied") || complaint.contains("another kind of token"),
        "{complaint}"
    );
    succeed(&mut login(STRANGER));
    fail(&mut docker.run(&["pull", &name]));
}
