//! The reference without walls: the same root in a plain chroot, as root of the host, with the host's /proc and /sys.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cofferdam_tests::{Client, Context, test_image};
use tempfile::TempDir;

use crate::planted::Planted;
use crate::stage::install;

/// What is at /dev in a cage.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Devices {
    /// The host's. Nothing that changes them may run there.
    Hosts,
    /// Nodes of its own, which may be broken.
    Own,
}

/// A root that one enters by chroot alone.
#[derive(Debug)]
pub(crate) struct Cage(TempDir);

/// The one that most controls share.
static CAGE: OnceLock<Cage> = OnceLock::new();

impl Cage {
    pub(crate) fn get() -> &'static Self {
        CAGE.get_or_init(Self::new)
    }

    /// Takes the shared one away: what is static is never dropped.
    pub(crate) fn remove() {
        if let Some(cage) = CAGE.get() {
            // Only names are left; what was mounted went with the processes.
            std::fs::remove_dir_all(cage.path()).ok();
        }
    }

    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("walls-cage-").tempdir().unwrap();
        let unpacked = Command::new("tar")
            .arg("-xf")
            .arg(test_image("busybox"))
            .arg("-C")
            .arg(dir.path())
            .status();
        assert!(unpacked.unwrap().success());
        install(dir.path());
        // The same files that a step finds.
        let same = crate::stage::context(&Planted::get().paths(), "");
        copy(&same, dir.path().to_str().unwrap());
        std::fs::write(dir.path().join("etc/resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// Runs a command in it, in mount and UTS namespaces of its own so that nothing of it stays.
    pub(crate) fn run(&self, devices: Devices, lent: &[&Path], words: &[&str]) -> String {
        let dev = match devices {
            Devices::Hosts => "mount --rbind /dev $R/dev".to_owned(),
            Devices::Own => "mount -t tmpfs none $R/dev && for n in null:3 zero:5 full:7; do mknod -m 666 $R/dev/${n%:*} c 1 ${n#*:}; done".to_owned(),
        };
        let bind = |path: &&Path| {
            let path = path.display();
            format!(" && mkdir -p $R{path} && mount --bind {path} $R{path}")
        };
        let binds: String = lent.iter().map(bind).collect();
        let script = format!(
            "mount --rbind /proc $R/proc && mount --rbind /sys $R/sys && {dev}{binds} && exec chroot $R \"$@\""
        );
        let outcome = words
            .iter()
            .fold(
                Client::new("unshare")
                    .args("--mount --uts --propagation private sh -c")
                    .arg(script)
                    .arg("sh")
                    .env("R", self.0.path()),
                |client, word| client.arg(word),
            )
            .run();
        assert_eq!(outcome.code, Some(0), "{words:?}: {} {}", outcome.text(), outcome.stderr);
        outcome.text()
    }

    /// Runs the probe in it.
    pub(crate) fn probe(&self, devices: Devices, lent: &[&Path], words: &[&str]) -> String {
        let all: Vec<&str> = ["/walls/probe"].into_iter().chain(words.iter().copied()).collect();
        self.run(devices, lent, &all)
    }
}

fn copy(context: &Context, to: &str) {
    let from = format!("{}/.", context.join("rootfs").display());
    assert!(Command::new("cp").args(["-a", &from, to]).status().unwrap().success());
}
