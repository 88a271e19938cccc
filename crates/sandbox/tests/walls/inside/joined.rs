//! More processes in a running step: they have its namespaces and its walls, and nothing else.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cofferdam_sandbox::{LaunchError, Process, Running, Security, User};

use super::cases;
use crate::bench::Bench;

pub(super) const CASES: &[(&str, super::Case)] = cases![
    "joined":
    joined_processes_share_the_step,
    joined_processes_have_its_walls,
    joined_processes_end_with_it,
    terminals_are_the_steps_own,
];

fn process(script: &str) -> Process {
    Process {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin:/usr/bin".to_owned()],
        cwd: "/".to_owned(),
        user: User::default(),
        security: Security::Sandbox,
        ulimits: Vec::new(),
        no_new_privileges: false,
        terminal: false,
    }
}

async fn first(bench: &Bench, script: &str) -> Running {
    let null = || std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap().into();
    bench.launcher.run(bench.script(script), null(), null(), None).await.unwrap()
}

/// Joins a process and reads all that it prints.
async fn join(
    bench: &Bench,
    step: &Running,
    process: Process,
) -> Result<(String, Running), LaunchError> {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let other: OwnedFd = rustix::io::dup(&writer).unwrap();
    let mut running = bench.launcher.join(&step.control(), process, writer, other, None).await?;
    let said = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        text
    });
    running.wait().await.unwrap();
    Ok((said.await.unwrap(), running))
}

async fn joined_processes_share_the_step(bench: Arc<Bench>) {
    let step = first(&bench, "echo shared > /file; sleep 100").await;
    let look = "while ! test -s /file; do :; done; cat /file; hostname; tr '\\0' ' ' < /proc/1/cmdline; exit 5";
    let (said, mut running) = join(&bench, &step, process(look)).await.unwrap();
    assert!(said.starts_with("shared\n") && said.contains("sleep 100"), "{said}");
    assert_eq!(running.wait().await.unwrap().code, Some(5));
    let mut other = process("id -u; pwd");
    other.user = User { uid: 1000, gid: 1000, groups: vec![] };
    other.cwd = "/tmp/../tmp".to_owned();
    let (said, _) = join(&bench, &step, other).await.unwrap();
    assert_eq!(said, "1000\n/tmp\n");
    let mut nowhere = process("true");
    nowhere.cwd = "/not/there".to_owned();
    assert!(matches!(join(&bench, &step, nowhere).await, Err(LaunchError::Root { .. })));
    let mut missing = process("true");
    missing.args = vec!["/not/there".to_owned()];
    let failed = join(&bench, &step, missing).await;
    assert!(matches!(failed, Err(LaunchError::Command { code: 127, .. })));
}

async fn joined_processes_have_its_walls(bench: Arc<Bench>) {
    let look = "grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status; cat /proc/self/uid_map /proc/self/cgroup; for kind in pid mnt net user ipc uts cgroup; do readlink /proc/self/ns/$kind; done; echo looked";
    let step = first(&bench, &format!("({look}) > /seen 2>&1; sleep 100")).await;
    let wait = "while ! grep -q looked /seen; do :; done";
    let (said, _) = join(&bench, &step, process(&format!("{wait}; {look}"))).await.unwrap();
    let (seen, _) = join(&bench, &step, process("cat /seen")).await.unwrap();
    assert_eq!(said, seen, "what joins is held as what was there");
    assert!(said.contains("Seccomp:\t2"), "{said}");
}

async fn joined_processes_end_with_it(bench: Arc<Bench>) {
    let mut step = first(&bench, "sleep 100").await;
    let control = step.control();
    let joined = {
        let (bench, control) = (Arc::clone(&bench), control.clone());
        tokio::spawn(async move {
            let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
            let other = rustix::io::dup(&null).unwrap();
            let sleep = process("sleep 100");
            let mut running =
                bench.launcher.join(&control, sleep, null, other, None).await.unwrap();
            running.wait().await.unwrap()
        })
    };
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    control.kill();
    step.wait().await.unwrap();
    assert_eq!(joined.await.unwrap().signal, Some(9));
    assert!(
        join(&bench, &step, process("true")).await.is_err(),
        "there is nothing to join any more"
    );
}

async fn terminals_are_the_steps_own(bench: Arc<Bench>) {
    let mut spec = bench.script("tty; echo typed > /dev/tty; sleep 100");
    spec.terminal = true;
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let mut step = bench.launcher.run(spec, null(), null(), None).await.unwrap();
    let terminal = step.take_terminal().unwrap();
    let mut said = String::new();
    while !said.contains("typed") {
        let mut bytes = [0; 256];
        match rustix::io::read(&terminal, &mut bytes) {
            Ok(length) => said.push_str(&String::from_utf8_lossy(&bytes[..length])),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
    assert!(said.starts_with("/dev/pts/0"), "{said}");
    let mut second = process("tty");
    second.terminal = true;
    let (_, mut running) = join(&bench, &step, second).await.unwrap();
    assert!(running.take_terminal().is_some());
    assert_eq!(running.wait().await.unwrap().code, Some(0));
    step.kill();
}
