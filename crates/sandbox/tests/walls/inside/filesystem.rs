//! What a step sees of file systems, and what a hostile image can do to the one that mounts it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use cofferdam_sandbox::{
    LaunchError, Mount, MountSource, detached_directory, detached_file, detached_part,
};
use rustix::fs::{Mode, OFlags};

use super::cases;
use crate::bench::{Bench, bind, listing};

pub(super) const CASES: &[(&str, super::Case)] = cases![
    "filesystem":
    proc_is_masked,
    sys_is_empty,
    nothing_of_the_builder_is_seen,
    resolver_files_are_generated_and_read_only,
    stubs_are_gone_afterwards,
    a_skeleton_leaves_the_upper_directory_alone,
    work_below_a_stub_stays,
    links_to_a_canary_are_not_followed,
    reserved_destinations_are_refused,
    read_only_root,
    mounts,
    a_part_of_a_detached_mount,
    a_swapped_mount_parent_stays_inside,
    secret_files_leave_nothing,
    shm_has_a_size,
];

async fn proc_is_masked(bench: Arc<Bench>) {
    let script = "for f in interrupts kcore keys timer_list sched_debug latency_stats; do
            if [ -e /proc/$f ]; then head -c 16 /proc/$f | wc -c; fi; done | sort -u;
        for d in acpi scsi asound; do if [ -e /proc/$d ]; then ls /proc/$d; fi; done;
        (echo 1 > /proc/sys/kernel/core_pattern) 2>&1; (echo h > /proc/sysrq-trigger) 2>&1;
        (echo 1 > /proc/sys/net/ipv4/ip_forward) 2>&1; (echo 1 > /proc/irq/default_smp_affinity) 2>&1;
        (echo 0 > /proc/sys/user/max_user_namespaces) 2>&1";
    let output = bench.output(&format!("{script}; true")).await;
    let mut lines = output.lines();
    if bench.under_gvisor() {
        // Its /proc has no such entries.
        let refused = ["not permitted", "nonexistent", "Permission denied", "write error"];
        assert!(lines.all(|line| refused.iter().any(|why| line.contains(why))), "{output}");
        assert!(output.lines().count() >= 4, "{output}");
        return;
    }
    assert_eq!(lines.next(), Some("0"), "{output}");
    for line in lines {
        assert!(line.contains("Read-only file system") || line.contains("nonexistent"), "{output}");
    }
    assert!(output.matches("Read-only").count() >= 4, "{output}");
}

async fn sys_is_empty(bench: Arc<Bench>) {
    assert_eq!(
        bench.output("ls -A /sys; touch /sys/x 2>/dev/null || echo refused").await,
        "refused\n"
    );
}

async fn nothing_of_the_builder_is_seen(bench: Arc<Bench>) {
    let mounts = bench.output("cut -d' ' -f5 /proc/self/mountinfo | sort -u").await;
    for line in mounts.lines() {
        let known = line == "/"
            || ["/proc", "/dev", "/sys", "/etc/"].iter().any(|top| line.starts_with(top));
        assert!(known, "{line}");
    }
    assert_eq!(bench.output("ls /store /run/cofferdam 2>/dev/null; echo none").await, "none\n");
    let groups = bench.output("cat /proc/self/cgroup").await;
    assert!(groups.lines().all(|line| line.ends_with(":/") || !line.contains("case-")), "{groups}");
}

async fn resolver_files_are_generated_and_read_only(bench: Arc<Bench>) {
    let mut spec = bench.script(
        "cat /etc/resolv.conf /etc/hosts; (echo x >> /etc/hosts) 2>/dev/null || echo refused",
    );
    spec.resolv_conf = b"nameserver 10.206.0.1\n".to_vec();
    spec.hosts = vec![("192.0.2.7".parse().unwrap(), "mirror".into())];
    spec.hostname = "here".into();
    let output = bench.run(spec).await.stdout;
    let expected = "nameserver 10.206.0.1\n127.0.0.1\tlocalhost here\n::1\tlocalhost ip6-localhost ip6-loopback\n192.0.2.7\tmirror\nrefused\n";
    assert_eq!(output, expected);
    let mut spec = bench.script("true");
    spec.hosts = vec![("192.0.2.7".parse().unwrap(), "a\n10.0.0.1 b".into())];
    assert!(matches!(bench.try_run(spec).await.err(), Some(LaunchError::Invalid(_))));
}

async fn stubs_are_gone_afterwards(bench: Arc<Bench>) {
    let root = bench.root();
    let mut spec = bench.spec(&root, &["true"]);
    spec.mounts.push(bind("/usr/bin", "/deep/er/mount", true));
    spec.mounts.push(bind("/etc/hosts", "/etc/one/file", true));
    let before = fs::metadata(bench.entered.store.join("base/etc")).unwrap().modified().unwrap();
    let output = bench.run(spec).await;
    assert!(output.exit.success());
    // Where a mount point was made in what there was before.
    let touched: &[&str] = if bench.under_gvisor() { &["/etc", "/tmp"] } else { &["/etc"] };
    let left: Vec<String> = touched
        .iter()
        .map(|path| {
            let name = path.trim_start_matches('/');
            format!("{name} FileType {{ is_file: false, is_dir: true, is_symlink: false, .. }}")
        })
        .collect();
    assert_eq!(listing(&root.upper), left);
    assert_eq!(fs::metadata(root.upper.join("etc")).unwrap().modified().unwrap(), before);
    let settled: Vec<&Path> = output.exit.settled_parents.iter().map(AsRef::as_ref).collect();
    let expected: Vec<&Path> =
        std::iter::once("/").chain(touched.iter().copied()).map(Path::new).collect();
    assert_eq!(settled, expected);
    // A directory the step did work in is not among them, and keeps the time of that work.
    let output = bench.run(bench.spec(&root, &["touch", "/etc/own"])).await;
    assert!(!output.exit.settled_parents.iter().any(|path| path == Path::new("/etc")));
    assert!(fs::metadata(root.upper.join("etc")).unwrap().modified().unwrap() > before);
    assert!(root.upper.join("etc/own").exists() && !root.upper.join("etc/hosts").exists());
}

async fn a_skeleton_leaves_the_upper_directory_alone(bench: Arc<Bench>) {
    let root = bench.prepared_root();
    let output = bench.run(bench.spec(&root, &["sh", "-c", "ls /; cat /etc/hosts"])).await;
    assert!(output.exit.success() && output.stdout.contains("localhost"));
    let mut left = listing(&root.upper);
    let mut settled = output.exit.settled_parents;
    if bench.under_gvisor() {
        // Emptied again, see gvisor::what_is_left_in_tmp_stays.
        left.retain(|path| !path.starts_with("tmp "));
        settled.retain(|path| path != Path::new("/tmp"));
    }
    assert!(left.is_empty() && settled.is_empty(), "{left:?} {settled:?}");
}

async fn work_below_a_stub_stays(bench: Arc<Bench>) {
    let root = bench.root();
    let mut spec = bench
        .spec(&root, &["sh", "-c", "echo x > /root/.cache/kept; echo y > /root/.cache/pip/unkept"]);
    spec.mounts.push(bind_new(&bench, "/root/.cache/pip"));
    assert!(bench.run(spec).await.exit.success());
    assert!(root.upper.join("root/.cache/kept").is_file());
    assert!(!root.upper.join("root/.cache/pip").exists());
}

fn bind_new(bench: &Bench, dest: &str) -> Mount {
    let dir = bench.directory("cache");
    bench.own(&dir);
    bind(dir, dest, false)
}

async fn links_to_a_canary_are_not_followed(bench: Arc<Bench>) {
    // The canary exists outside, open to everybody, and under the same path inside.
    let canary = bench.directory("canary");
    for file in ["ptmx", "resolv.conf", "hosts"] {
        fs::write(canary.join(file), "unharmed").unwrap();
    }
    fs::create_dir(canary.join("sub")).unwrap();
    fs::set_permissions(&canary, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let before = listing(&canary);
    for name in ["dev", "proc", "sys", "etc", "run", "mnt", "etc/resolv.conf"] {
        for absolute in [true, false] {
            let target = if absolute {
                canary.clone()
            } else {
                Path::new("../../../../../..").join(canary.strip_prefix("/").unwrap())
            };
            let root = bench.root_on(|layer| {
                if let Some(parent) = Path::new(name).parent() {
                    fs::create_dir_all(layer.join(parent)).unwrap();
                }
                symlink(&target, layer.join(name)).unwrap();
                fs::create_dir_all(layer.join(canary.strip_prefix("/").unwrap())).unwrap();
            });
            let mut spec = bench.spec(&root, &["true"]);
            spec.mounts.push(bind("/etc/hosts", "/mnt/x/file", true));
            spec.mounts.push(bind("/usr/bin", "/run/dir", true));
            spec.cwd = "/mnt/made".into();
            let result = bench.try_run(spec).await;
            if ["dev", "proc", "sys", "etc/resolv.conf"].contains(&name) {
                assert!(
                    matches!(&result, Err(LaunchError::Root { .. })),
                    "{name}: {:?}",
                    result.map(|output| output.exit)
                );
            } else {
                assert!(result.is_ok(), "{name}: {:?}", result.err());
            }
            assert_eq!(listing(&canary), before, "{name}");
            assert_eq!(fs::read_to_string(canary.join("hosts")).unwrap(), "unharmed");
        }
    }
    assert!(bench.run(bench.script("true")).await.exit.success());
}

async fn reserved_destinations_are_refused(bench: Arc<Bench>) {
    for dest in
        ["/proc", "/proc/self/attr", "/sys/fs/cgroup", "/dev", "/", "/x/../dev", "/dev/null"]
    {
        let mut spec = bench.script("true");
        spec.mounts.push(bind("/usr/bin", dest, true));
        assert!(
            matches!(bench.try_run(spec).await.err(), Some(LaunchError::Root { .. })),
            "{dest}"
        );
    }
    let root = bench.root_on(|layer| symlink("/proc/self", layer.join("me")).unwrap());
    let mut spec = bench.spec(&root, &["true"]);
    spec.mounts.push(bind("/usr/bin", "/me/attr", true));
    assert!(bench.try_run(spec).await.is_err());
    let mut spec = bench.script("ls -A /dev/shm");
    spec.mounts.push(bind("/usr", "/dev/shm", true));
    assert!(bench.run(spec).await.stdout.contains("bin"));
}

async fn read_only_root(bench: Arc<Bench>) {
    let root = bench.root();
    let mut spec = bench.spec(&root, &["sh", "-c", "touch /x 2>/dev/null || echo refused; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm"]);
    spec.readonly_root = true;
    spec.cwd = "/made".into();
    spec.mounts.push(Mount {
        dest: "/tmp".into(),
        source: MountSource::Tmpfs { size: None },
        readonly: false,
    });
    let output = bench.run(spec).await;
    assert_eq!(output.stdout, "refused\ntmp\nshm\n", "{}", output.stderr);
    assert!(!root.upper.join("dev").exists() && !root.upper.join("etc/hosts").exists());
}

async fn mounts(bench: Arc<Bench>) {
    let dir = bench.directory("shared");
    fs::write(dir.join("given"), "content").unwrap();
    bench.own(&dir);
    let mut spec = bench.script("cat /in/given; touch /in/x 2>/dev/null || echo refused; echo back > /out/file; cat /in/deeper/passwd | wc -l; dd if=/dev/zero of=/small/x bs=1024 count=9999 2>/dev/null || echo full");
    spec.mounts.push(bind("/etc", "/in/deeper", true));
    spec.mounts.push(bind(&dir, "/in", false));
    let out = bench.directory("out");
    bench.own(&out);
    spec.mounts.push(bind(&out, "/out", false));
    spec.mounts.push(Mount {
        dest: "/small".into(),
        source: MountSource::Tmpfs { size: Some(1 << 20) },
        readonly: false,
    });
    spec.mounts[1].readonly = true;
    // A mount point below a read-only mount has to be there already.
    fs::create_dir(dir.join("deeper")).unwrap();
    let output = bench.run(spec).await;
    assert_eq!(output.stdout, "contentrefused\n2\nfull\n", "{}", output.stderr);
    assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "back\n");
}

async fn a_part_of_a_detached_mount(bench: Arc<Bench>) {
    let first = bench.entered.ids.first;
    let whole = detached_directory((first, first), 0o755, None).unwrap();
    rustix::fs::mkdirat(&whole, "part", Mode::from_raw_mode(0o755)).unwrap();
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = rustix::fs::openat(&whole, "part/given", flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"content\n").unwrap();
    drop(file);
    let part = rustix::fs::openat(&whole, "part", OFlags::PATH, Mode::empty()).unwrap();
    let source = MountSource::Fd(detached_part(&whole, part).unwrap());
    let mut spec = bench.script("ls /in; cat /in/given");
    spec.mounts.push(Mount { dest: "/in".into(), source, readonly: true });
    assert_eq!(bench.run(spec).await.stdout, "given\ncontent\n");
    assert!(listing("/run/cofferdam/files".as_ref()).is_empty());
}

/// While a running step flips a directory and a link in a shared cache, others mount below it.
async fn a_swapped_mount_parent_stays_inside(bench: Arc<Bench>) {
    let canary = bench.directory("canary");
    fs::set_permissions(&canary, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let cache = bench.directory("cache");
    fs::create_dir(cache.join("dir")).unwrap();
    bench.own(&cache);
    let script = format!(
        "ln -s {} /cache/link; while true; do mv /cache/dir /cache/kept; mv /cache/link /cache/dir; mv /cache/dir /cache/link; mv /cache/kept /cache/dir; done",
        canary.display()
    );
    let mut swapper = bench.script(&script.replace("mv", "busybox mv"));
    swapper.mounts.push(bind(&cache, "/cache", false));
    let (swapper, _out, _err) = bench.start(swapper).await.unwrap();
    for _ in 0..if bench.under_gvisor() { 20 } else { 150 } {
        let mut spec = bench.script("true");
        spec.mounts.push(bind(&cache, "/cache", false));
        spec.mounts.push(bind("/usr/bin", "/cache/dir/below", true));
        spec.cwd = "/cache/dir/cwd".into();
        // Either it worked inside or it was refused.
        bench.try_run(spec).await.ok();
    }
    drop(swapper);
    assert!(listing(&canary).is_empty(), "{:?}", listing(&canary));
}

async fn secret_files_leave_nothing(bench: Arc<Bench>) {
    let first = bench.entered.ids.first;
    let root = bench.root();
    let mut spec = bench.spec(&root, &["sh", "-c", "cat /run/secrets/token; stat -c ' %a %u' /run/secrets/token; (echo x > /run/secrets/token) 2>/dev/null || echo refused"]);
    let source = MountSource::Fd(detached_file(b"hush", (first, first), 0o400).unwrap());
    spec.mounts.push(Mount { dest: "/run/secrets/token".into(), source, readonly: true });
    assert_eq!(bench.run(spec).await.stdout, "hush 400 0\nrefused\n");
    let left = listing(&root.upper);
    assert!(!left.iter().any(|path| path.contains("run")), "{left:?}");
    assert!(fs::read_dir("/run/cofferdam/files").unwrap().next().is_none());
}

async fn shm_has_a_size(bench: Arc<Bench>) {
    let mut spec = bench.script(
        "dd if=/dev/zero of=/dev/shm/x bs=1024 count=2048 2>/dev/null || stat -c %s /dev/shm/x",
    );
    spec.shm_size = Some(1 << 20);
    assert_eq!(bench.run(spec).await.stdout, "1048576\n");
}
