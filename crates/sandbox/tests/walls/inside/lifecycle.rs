//! Beginning and end of steps: limits, killing, what is left, many at once, and how long a start takes.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_sandbox::{HierarchyKind, LaunchError, Limits, Network};

use super::cases;
use crate::bench::{Bench, bind};

pub(super) const CASES: &[(&str, super::Case)] = cases![
    "lifecycle":
    the_builder_is_in_a_leaf_of_its_own,
    memory_limit,
    process_limit,
    limits_are_written,
    killing_leaves_nothing,
    dropping_ends_the_step,
    dropping_the_start_ends_the_step,
    background_processes_end_with_the_first,
    many_at_once,
    a_lost_helper_is_replaced,
    helpers_at_rest_keep_no_network,
    refused_steps_leave_nothing,
];

/// Names of steps' control groups that exist now.
fn leaves(bench: &Bench) -> Vec<String> {
    let hierarchies = bench.entered.cgroup.iter().flat_map(|delegation| &delegation.hierarchies);
    let entries = hierarchies.flat_map(|hierarchy| fs::read_dir(&hierarchy.path).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("case-")).collect()
}

/// Command lines of processes whose arguments hold `mark`.
fn processes(mark: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
    let lines = entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(mark)).collect()
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

/// The namespace of groups begins above the builder's own group, so that those of steps are in it; nobody is in what is above. The
/// group above is the builder's, and its own is not.
async fn the_builder_is_in_a_leaf_of_its_own(bench: Arc<Bench>) {
    let Some(delegation) = &bench.entered.cgroup else { return };
    for hierarchy in delegation.hierarchies.iter().filter(|own| own.kind == HierarchyKind::V2) {
        let seen = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(seen.lines().any(|line| line == "0::/builder"), "{seen}");
        let inside = |group: &str| fs::read_to_string(hierarchy.path.join(group)).unwrap();
        assert_eq!(inside("cgroup.procs"), "");
        let own = std::process::id().to_string();
        assert!(inside("builder/cgroup.procs").lines().any(|line| line == own));
        let writes = |group: &str| {
            let file = hierarchy.path.join(group);
            fs::OpenOptions::new().write(true).open(file).map_err(|error| error.kind())
        };
        assert!(writes("cgroup.procs").is_ok(), "control");
        let refused = writes("builder/cgroup.procs").unwrap_err();
        assert_eq!(refused, std::io::ErrorKind::PermissionDenied);
    }
}

async fn memory_limit(bench: Arc<Bench>) {
    let mut spec = bench.probe(&["memory"]);
    spec.limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    let output = bench.run(spec).await;
    // Under gVisor the kernel ends what serves the command, and the sentry tells of it as its version will.
    let told = bench.under_gvisor() && output.exit.code.is_some_and(|code| code != 0);
    assert!(output.exit.signal == Some(9) || told, "{:?}", output.exit);
    assert!(output.exit.oom_killed);
    assert!(output.exit.usage.peak_resident < 80 << 20);
    assert!(leaves(&bench).is_empty());
}

async fn process_limit(bench: Arc<Bench>) {
    let mut spec = bench.script("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 2 & done; wait");
    spec.limits = Limits { pids: Some(5), ..Limits::default() };
    let output = bench.run(spec).await;
    assert!(output.stderr.contains("can't fork"), "{}", output.stderr);
    let mut spec = bench.script("true");
    spec.limits = Limits {
        cpu_quota: Some(50_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".into()),
        ..Limits::default()
    };
    assert!(bench.run(spec).await.exit.success());
}

/// Every limit: the controller that holds it, and the file and value it becomes in version 1 and in version 2 of the interface.
const WRITTEN: &[[&str; 5]] = &[
    ["memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"],
    ["memory", "memory.limit_in_bytes", "67108864", "memory.oom.group", "1"],
    ["pids", "pids.max", "7", "pids.max", "7"],
    ["cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"],
    ["cpu", "cpu.shares", "512", "cpu.weight", "20"],
    ["cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"],
];

async fn limits_are_written(bench: Arc<Bench>) {
    let mut spec = bench.script("sleep 4717");
    spec.limits = Limits {
        memory: Some(64 << 20),
        pids: Some(7),
        cpu_quota: Some(50_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".into()),
        ..Limits::default()
    };
    let (running, _out, _err) = bench.start(spec).await.unwrap();
    let name = leaves(&bench).pop().unwrap();
    // Counted as what serves the step under gVisor.
    let pids = if bench.under_gvisor() { "312" } else { "7" };
    let mut seen = 0;
    for hierarchy in &bench.entered.cgroup.as_ref().unwrap().hierarchies {
        let leaf = hierarchy.path.join(&name);
        for [controller, file_1, value_1, file_2, value_2] in WRITTEN {
            if hierarchy.controllers.iter().any(|has| has == controller) {
                let (file, value) = match hierarchy.kind {
                    HierarchyKind::V1 => (file_1, value_1),
                    HierarchyKind::V2 => (file_2, value_2),
                };
                let read = |file: &str| fs::read_to_string(leaf.join(file)).unwrap();
                let value = if *controller == "pids" { pids } else { value };
                assert_eq!(read(file).trim(), value, "{file}");
                assert!(!read("cgroup.procs").is_empty(), "the step is not in {}", leaf.display());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, WRITTEN.len());
    drop(running);
    gone(&bench, "4717").await;
}

async fn killing_leaves_nothing(bench: Arc<Bench>) {
    let mounts_before = mounts();
    let script = "(busybox setsid sleep 4711 &) ; (sleep 4711 &); sleep 4711";
    let root = bench.root();
    let mut spec = bench.spec(&root, &["sh", "-c", script]);
    spec.mounts.push(bind("/usr/bin", "/mnt/stub", true));
    let (mut running, _out, _err) = bench.start(spec).await.unwrap();
    let (mark, count) = if bench.under_gvisor() { ("runsc-", 2) } else { ("sleep\u{0}4711", 3) };
    while processes(mark).len() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(leaves(&bench).is_empty(), bench.entered.cgroup.is_none());
    running.kill();
    let exit = running.wait().await.unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
    assert_eq!(running.wait().await.unwrap(), exit);
    assert!(processes(bench.mark("4711")).is_empty());
    assert!(leaves(&bench).is_empty());
    assert_eq!(mounts(), mounts_before);
    assert!(!root.upper.join("mnt").exists());
}

async fn dropping_ends_the_step(bench: Arc<Bench>) {
    let (running, _out, _err) = bench.start(bench.script("sleep 4712")).await.unwrap();
    drop(running);
    gone(&bench, "4712").await;
}

async fn dropping_the_start_ends_the_step(bench: Arc<Bench>) {
    for pause in 0..20 {
        let start = bench.start(bench.script("sleep 4713"));
        tokio::time::timeout(Duration::from_micros(pause * 200), start).await.ok();
    }
    gone(&bench, "4713").await;
}

async fn gone(bench: &Bench, mark: &str) {
    for _ in 0..1000 {
        if processes(bench.mark(mark)).is_empty() && leaves(bench).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("left: {:?} {:?}", processes(mark), leaves(bench));
}

async fn background_processes_end_with_the_first(bench: Arc<Bench>) {
    let output = bench.run(bench.script("(sleep 4714 >/dev/null 2>&1 &); echo done")).await;
    assert_eq!(output.stdout, "done\n");
    assert!(processes(bench.mark("4714")).is_empty());
}

async fn many_at_once(bench: Arc<Bench>) {
    let steps: Vec<_> = (0..60)
        .map(|number| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.output(&format!("sleep 0.05; echo {number}")).await })
        })
        .collect();
    for (number, step) in steps.into_iter().enumerate() {
        assert_eq!(step.await.unwrap(), format!("{number}\n"));
    }
    assert!(leaves(&bench).is_empty());
}

/// Processes whose parent's parent is the builder: the helpers, below the nursery.
fn helpers() -> Vec<i32> {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let own = i32::try_from(std::process::id()).unwrap();
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid).and_then(parent) == Some(own)).collect()
}

async fn a_lost_helper_is_replaced(bench: Arc<Bench>) {
    let before = helpers();
    assert_eq!(before.len(), 2);
    let (mut first, _out, _err) = bench.start(bench.script("sleep 4715")).await.unwrap();
    let (mut second, _out, _err) = bench.start(bench.script("sleep 4715")).await.unwrap();
    for pid in before {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    for step in [&mut first, &mut second] {
        assert!(matches!(step.wait().await, Err(LaunchError::HelperLost)));
    }
    gone(&bench, "4715").await;
    assert_eq!(bench.output("echo again").await, "again\n");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(helpers().len(), 2);
}

async fn helpers_at_rest_keep_no_network(bench: Arc<Bench>) {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let away = || {
        let network = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        helpers().into_iter().filter(|pid| network(*pid) != own).count()
    };
    let mut spec = bench.script("true");
    spec.network = Network::Gate;
    assert!(bench.run(spec).await.exit.success());
    // One helper has something ready for the step that follows.
    assert_ne!(away(), 0);
    let begun = Instant::now();
    while away() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "a network waits for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn refused_steps_leave_nothing(bench: Arc<Bench>) {
    let root = bench.root();
    let mut spec = bench.spec(&root, &["absent"]);
    spec.mounts.push(bind("/usr/bin", "/mnt/x", true));
    assert!(bench.try_run(spec).await.is_err());
    assert!(leaves(&bench).is_empty());
    assert!(!root.upper.join("mnt").exists() && !root.upper.join("dev").exists());
    let mut spec = bench.spec(&root, &["true"]);
    spec.name = "../x".into();
    assert!(matches!(bench.try_run(spec).await.err(), Some(LaunchError::Invalid(_))));
}

/// Prints how long one `true` takes from being asked for until nothing of it is left.
pub(super) async fn measure(bench: &Arc<Bench>) -> ExitCode {
    let level = if bench.under_gvisor() { "gvisor" } else { "namespaces" };
    let samples = if bench.under_gvisor() { 20 } else { 200 };
    for network in [Network::None, Network::Gate, Network::Host] {
        let (mut starts, mut wholes) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            let mut spec = bench.spec(&bench.prepared_root(), &["true"]);
            spec.network = network;
            let begun = Instant::now();
            let (mut running, _out, _err) = bench.start(spec).await.unwrap();
            starts.push(begun.elapsed());
            running.wait().await.unwrap();
            wholes.push(begun.elapsed());
        }
        starts.sort();
        wholes.sort();
        println!(
            "{level}, network {network:?}: until executed {:?} (min {:?}), complete {:?} (min {:?}, p90 {:?})",
            starts[samples / 2],
            starts[0],
            wholes[samples / 2],
            wholes[0],
            wholes[samples * 9 / 10]
        );
    }
    ExitCode::SUCCESS
}

/// One step, for enclosures of other kinds.
pub(super) async fn smoke(bench: &Arc<Bench>) -> ExitCode {
    println!("cgroup {:?}", bench.entered.cgroup);
    print!("{}", bench.output("id -u; cat /proc/self/uid_map; touch /made; chown 1000:1000 /made; stat -c %u /made").await);
    let mut spec = bench.script("true");
    spec.limits.memory = Some(1 << 28);
    let limited = bench.try_run(spec).await;
    match limited {
        Ok(_) => println!("limits work"),
        Err(error) => println!("limits: {error}: {}", std::error::Error::source(&error).unwrap()),
    }
    ExitCode::SUCCESS
}

/// Leaves a file, starts a step that never ends, and waits to be ended itself.
pub(super) async fn hold(bench: &Arc<Bench>) -> ExitCode {
    let root = bench.root();
    let spec = bench.spec(&root, &["sh", "-c", "echo x > /made; sleep 4716"]);
    let (_running, _out, _err) = bench.start(spec).await.unwrap();
    // A step that never came to be must not leave the outside waiting.
    let made = async {
        while !root.upper.join("made").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::CASE_LIMIT, made).await.unwrap();
    let mark = bench.entered.descriptors.get("ready").unwrap();
    rustix::io::write(mark, root.upper.as_os_str().as_encoded_bytes()).unwrap();
    std::future::pending().await
}
