//! What holds under gVisor only: who answers the step, what is on disk afterwards, and what a step that is out of the sentry
//! would find.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_sandbox::{Mount, MountSource, Network, Security, Ulimit, User};

use super::cases;
use crate::bench::{Bench, bind, listing};

pub(super) const CASES: super::Cases = cases![
    "gvisor":
    the_kernel_is_another,
    calls_end_in_the_sentry,
    sockets_end_in_the_sentry,
    ids_on_disk_are_those_of_the_other_levels,
    what_is_left_in_tmp_stays,
    a_root_without_tmp_gets_none,
    processes_of_runsc_are_the_steps,
    runsc_cannot_be_changed,
    a_socket_that_was_mounted_can_be_reached,
    a_shared_mount_shows_what_others_write,
    forks_are_counted,
];

async fn the_kernel_is_another(bench: Arc<Bench>) {
    let own = fs::read_to_string("/proc/version").unwrap();
    let theirs = bench.output("cat /proc/version").await;
    assert_ne!(own, theirs);
    assert!(theirs.contains("Linux version 4.4.0"), "{theirs}");
}

/// Calls that reach deep into the machine's kernel at other levels, see the control there. The sentry has nothing behind them.
/// Keyrings it has in newer versions, its own.
async fn calls_end_in_the_sentry(bench: Arc<Bench>) {
    for uid in [0, 1000] {
        for network in [Network::None, Network::Gate] {
            let mut spec = bench.probe(&["calls"]);
            spec.user = User { uid, gid: uid, groups: vec![] };
            spec.network = network;
            let output = bench.run(spec).await;
            assert!(output.exit.success(), "{:?} {}", output.exit, output.stderr);
            let results = super::kernel::results(&output.stdout);
            for name in [
                "fsopen",
                "open_tree",
                "move_mount",
                "mount_setattr",
                "io_uring_setup",
                "bpf",
                "userfaultfd",
                "perf_event_open",
                "open_by_handle_at",
                "name_to_handle_at",
                "kexec_load",
                "init_module",
                "swapon",
                "add_key",
                "request_key",
                "memfd_secret",
                "fanotify_init",
                "unknown",
                "statmount",
                "reboot",
            ] {
                assert_ne!(results[name], "done", "{name}");
            }
        }
    }
}

async fn sockets_end_in_the_sentry(bench: Arc<Bench>) {
    for network in [Network::None, Network::Gate] {
        let mut spec = bench.probe(&["sockets"]);
        spec.network = network;
        let output = bench.run(spec).await;
        let results = super::kernel::results(&output.stdout);
        for name in ["unix", "inet"] {
            assert_eq!(results[name], "done", "control: {name}");
        }
        for name in [
            "netfilter",
            "xfrm",
            "audit",
            "packet",
            "alg",
            "vsock",
            "key",
            "rxrpc",
            "raw",
            "tipc-pair",
        ] {
            assert_ne!(results[name], "done", "{name}");
        }
    }
}

async fn ids_on_disk_are_those_of_the_other_levels(bench: Arc<Bench>) {
    let root = bench.root();
    let script = "mkdir /made; echo x > /made/a; chown 1000:1001 /made/a; chmod 2750 /made; ln /made/a /made/b; ln -s a /made/c; chown 65535:7 /made/c -h; dd if=/dev/zero of=/made/d bs=1 count=3 2>/dev/null; chmod 4711 /made/d; rm /etc/group";
    let output = bench.run(bench.spec(&root, &["sh", "-c", script])).await;
    assert!(output.exit.success(), "{}", output.stderr);
    let first = bench.entered.ids.first;
    let of = |name: &str| {
        let data = fs::symlink_metadata(root.upper.join(name)).unwrap();
        (data.uid() - first, data.gid() - first, data.mode() & 0o7777, data.nlink())
    };
    assert_eq!(of("made"), (0, 0, 0o2750, 2));
    assert_eq!(of("made/a"), (1000, 1001, 0o644, 2));
    assert_eq!(of("made/c").0, 65_535);
    assert_eq!(of("made/d"), (0, 0, 0o4711, 1));
    assert_eq!(fs::read_link(root.upper.join("made/c")).unwrap(), Path::new("a"));
    // A whiteout, made by the kernel below gVisor.
    assert_eq!(fs::symlink_metadata(root.upper.join("etc/group")).unwrap().rdev(), 0);
}

async fn what_is_left_in_tmp_stays(bench: Arc<Bench>) {
    let root = bench.root();
    let script = "echo x > /tmp/kept; mkdir /tmp/dir; mv /tmp/kept /moved; echo y > /tmp/kept; stat -c %a /tmp";
    let output = bench.run(bench.spec(&root, &["sh", "-c", script])).await;
    assert_eq!(output.stdout, "1777\n");
    assert_eq!(fs::read_to_string(root.upper.join("tmp/kept")).unwrap(), "y\n");
    assert!(root.upper.join("tmp/dir").is_dir() && root.upper.join("moved").is_file());
    assert_eq!(fs::read_dir(root.upper.join("tmp")).unwrap().count(), 2);
}

async fn a_root_without_tmp_gets_none(bench: Arc<Bench>) {
    let root = bench.root();
    let spec = bench.spec(&root, &["sh", "-c", "rm -r /tmp"]);
    assert!(bench.run(spec).await.exit.success());
    // A whiteout in the upper directory: the next step on it has no such directory.
    assert!(!root.upper.join("tmp").is_dir());
    let output = bench.run(bench.spec(&root, &["true"])).await;
    assert!(output.exit.success());
    assert!(!root.upper.join("tmp").is_dir(), "{:?}", listing(&root.upper));
}

/// Fields of the process list: command line, host-side user as the builder sees it, groups, namespaces.
fn processes_of_runsc() -> Vec<(String, u32, std::path::PathBuf)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter_map(|entry| {
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let owner = fs::metadata(entry.path()).ok()?.uid();
        line.contains("runsc").then(|| (line.replace('\0', " "), owner, entry.path()))
    });
    found.collect()
}

/// Who gets out of the sentry is somebody the builder's files are closed to, in the step's control group and without power.
async fn processes_of_runsc_are_the_steps(bench: Arc<Bench>) {
    for network in [Network::None, Network::Gate] {
        let mut spec = bench.script("sleep 4720");
        spec.network = network;
        let (running, _out, _err) = bench.start(spec).await.unwrap();
        let found = settled_processes().await;
        let ids = bench.entered.ids.first..bench.entered.ids.first + bench.entered.ids.count;
        for (line, owner, path) in &found {
            assert!(ids.contains(owner), "{owner} {line}");
            let status = fs::read_to_string(path.join("status")).unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{line}\n{status}");
            assert!(status.contains("Seccomp:\t2"), "{line}\n{status}");
            let groups = fs::read_to_string(path.join("cgroup")).unwrap();
            assert!(bench.entered.cgroup.is_none() || groups.contains("/case-"), "{groups}");
            let mounts = fs::read_to_string(path.join("mountinfo")).unwrap_or_default();
            for foreign in [" /store ", " /run/cofferdam"] {
                assert!(!mounts.contains(foreign), "{line}\n{mounts}");
            }
        }
        drop(running);
    }
}

/// Sandbox, gofer and the one that waits, when they have moved to where they stay.
async fn settled_processes() -> Vec<(String, u32, std::path::PathBuf)> {
    for _ in 0..1000 {
        let found = processes_of_runsc();
        let confined = |kind: &str| {
            found.iter().any(|(line, _, path)| {
                let status = fs::read_to_string(path.join("status")).unwrap_or_default();
                // Ours and one of their own.
                line.starts_with(kind) && status.contains("Seccomp_filters:\t2")
            })
        };
        if confined("runsc-gofer") && confined("runsc-sandbox") {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", processes_of_runsc());
}

/// From outside the sentry, with the rights of a step: what would be tried by one who got out.
async fn runsc_cannot_be_changed(bench: Arc<Bench>) {
    let (running, _out, _err) = bench.start(bench.script("sleep 4721")).await.unwrap();
    let found = settled_processes().await;
    let (_, _, waiting) = found.iter().find(|(line, ..)| line.starts_with("/runsc ")).unwrap();
    let root = waiting.join("root");
    let mut names: Vec<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["bundle", "dev", "mounts", "proc", "rootfs", "runsc", "state", "tmp"]);
    for name in ["runsc", "bundle/config.json", "bundle", "mounts", "."] {
        let data = fs::metadata(root.join(name)).unwrap();
        // Nobody the step's user namespace has a name for, or not writable.
        let foreign = data.uid() < bench.entered.ids.first;
        assert!(foreign && data.mode() & 0o022 == 0, "{name}");
    }
    let mounts = fs::read_to_string(waiting.join("mountinfo")).unwrap();
    let program = mounts.lines().find(|line| line.contains(" /runsc ")).unwrap();
    assert!(program.contains(" ro,nosuid"), "{program}");
    drop(running);
}

async fn a_socket_that_was_mounted_can_be_reached(bench: Arc<Bench>) {
    use std::io::Write;
    let dir = bench.directory("agent");
    let path = dir.join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    bench.own(&dir);
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"agent\n").unwrap();
    });
    let mut spec = bench.script("nc local:/run/agent.sock </dev/null || nc -U /run/agent.sock");
    spec.args = vec!["/probe".into(), "probe".into(), "connect".into(), "/run/agent.sock".into()];
    for path in [crate::bench::PROBE, "/usr"] {
        spec.mounts.push(bind(path, path, true));
    }
    spec.mounts.push(bind(&path, "/run/agent.sock", false));
    let output = bench.run(spec).await;
    assert_eq!(output.stdout, "said agent\n", "{}", output.stderr);
    served.join().unwrap();
}

/// A cache that several steps use at once.
async fn a_shared_mount_shows_what_others_write(bench: Arc<Bench>) {
    let cache = bench.directory("cache");
    bench.own(&cache);
    let mut waiting = bench.script(
        "ls /cache; echo ready > /cache/ready; while ! test -e /cache/go; do sleep 0.05; done; cat /cache/go",
    );
    waiting.mounts.push(bind(&cache, "/cache", false));
    let (mut running, stdout, _err) = bench.start(waiting).await.unwrap();
    let ready = async {
        while !cache.join("ready").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
    let mut other = bench.script(
        "echo seen > /cache/new; mv /cache/new /cache/go || busybox mv /cache/new /cache/go",
    );
    other.mounts.push(bind(&cache, "/cache", false));
    assert!(bench.run(other).await.exit.success());
    assert!(running.wait().await.unwrap().success());
    let mut bytes = [0; 64];
    let length = rustix::io::read(&stdout, &mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"seen\n");
}

async fn forks_are_counted(bench: Arc<Bench>) {
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait; echo forked";
    assert_eq!(bench.output(script).await, "forked\n", "control");
    let mut spec = bench.script(script);
    spec.ulimits = vec![Ulimit { name: "nproc".into(), soft: 5, hard: 5 }];
    let output = bench.run(spec).await;
    assert!(output.stderr.contains("can't fork"), "{}", output.stderr);
}

pub(super) async fn insecure_has_capabilities_of_the_sentry_only(bench: Arc<Bench>) {
    for network in [Network::None, Network::Gate] {
        let mut spec = bench.script("grep ^CapEff /proc/self/status; mount -t tmpfs x /mnt && echo mounted; umount /proc; umount /sys; umount /dev/shm; ls /proc /sys /dev; mknod /mnt/sda b 8 0; head -c 1 /mnt/sda && echo device; cat /proc/version");
        spec.security = Security::Insecure;
        spec.network = network;
        spec.mounts.push(Mount {
            dest: "/mnt".into(),
            source: MountSource::Tmpfs { size: None },
            readonly: false,
        });
        let output = bench.run(spec).await;
        let said = &output.stdout;
        assert!(said.contains("CapEff:\t0000003fffffffff"), "{said}");
        assert!(said.contains("mounted"), "{said} {}", output.stderr);
        // Below what the sentry mounts there is nothing of this machine.
        assert!(
            !said.contains("device") && !said.contains("kcore") && !said.contains("self"),
            "{said}"
        );
    }
}

pub(super) async fn devices_are_of_no_use(bench: Arc<Bench>) {
    let script = "mknod /tmp/kmsg c 1 11; mknod /dev/kmsg c 1 11; mknod /dev/shm/mem c 1 1; for f in /tmp/kmsg /dev/kmsg /dev/shm/mem; do head -c 1 $f && echo read; done; head -c 1 /dev/zero | wc -c; ls /dev";
    let output = bench.run(bench.script(script)).await;
    assert!(!output.stdout.contains("read"), "{}", output.stdout);
    assert!(output.stdout.starts_with("1\n"), "control: {}", output.stdout);
    for name in ["null", "zero", "full", "random", "urandom", "shm", "pts", "fd", "stdin"] {
        assert!(output.stdout.lines().any(|line| line == name), "{name}");
    }
}
