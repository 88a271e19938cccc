//! Discarding, and what stays when many projects have had their turn.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_tests::{Context, leftovers};

use super::yard::{Door, Settings, Yard, assert_gone, blocking, eventually, project};

#[tokio::test(flavor = "multi_thread")]
async fn discarding_ends_what_runs_and_takes_everything() {
    let yard = Yard::new().await;
    let spec = project(40);
    let lease = Arc::new(yard.lease(&spec).await);
    let door = Door::open(&lease, "b");
    // Trees a deletion could stumble over: links to outside, unwritable and deep directories.
    let context = Context::dockerfile(
        "FROM @busybox\nRUN mkdir -p /d/e/f && ln -s / /d/root && touch /d/e/f/x && chmod 0 /d/e/f /d\n\
         RUN head -c 16 /dev/urandom | md5sum > /r\nRUN test -e /now || sleep 1000\n",
    );
    let build = door.build(&context).spawn();
    blocking(|| build.wait_for("sleep 1000"));
    let (tree, ended) = (leftovers::tree(lease.supervisor().try_into().unwrap()), lease.ended());
    assert!(yard.home("p40").join("builder/store").exists(), "control: there is a store");
    let begun = Instant::now();
    yard.fleet.discard("p40").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(ended.await.contains("discarded"));
    assert_gone(&tree).await;
    assert!(!yard.home("p40").exists(), "nothing of the project is where it was");
    let error = blocking(|| build.finish().failure());
    assert!(!error.is_empty());
    let trash = yard.dir.path().join("data/trash");
    eventually(|| fs::read_dir(&trash).unwrap().count() == 0).await;
    drop((door, lease));
    // The project builds again, from nothing.
    let lease = Arc::new(yard.lease(&spec).await);
    let door = Door::open(&lease, "c");
    let context = Context::dockerfile("FROM @busybox\nRUN echo new > /n\n");
    let (outcome, _) = blocking(|| door.build(&context).image_with(""));
    assert!(outcome.cached().is_empty(), "{:?}", outcome.cached());
    // Without a builder, and without anything at all, discarding is just as fine.
    drop((door, lease));
    yard.fleet.discard("p40").await.unwrap();
    yard.fleet.discard("never-was").await.unwrap();
    yard.close().await;
}

/// Number of entries of a directory in `/proc`.
fn count(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// What this process holds, and what there is of its own. Other tests run meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    processes: usize,
    mounts: Vec<String>,
    groups: Vec<PathBuf>,
}

impl Held {
    fn now(directory: &Path, supervisors: &[i32]) -> Self {
        let own = i32::try_from(std::process::id()).unwrap();
        Self {
            descriptors: count("/proc/self/fd"),
            processes: leftovers::tree(own).len(),
            mounts: leftovers::mounts(directory),
            groups: supervisors.iter().flat_map(|pid| leftovers::groups(*pid)).collect(),
        }
    }
}

const ALONE: &str = "COFFERDAM_TEST_ALONE";

/// Counts what the process holds, so no other test may run in it: the next test starts it in a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn fifty_projects_by_themselves() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let settings = Settings { idle: Duration::from_millis(200), most: 4, ..Settings::default() };
    let yard = Yard::with(settings).await;
    let context = Context::dockerfile("FROM @busybox\nRUN echo $((6 * 7)) > /answer\n");
    let data = yard.dir.path().to_owned();
    let mut before = None;
    let mut supervisors = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for slot in 100..151 {
        let lease = Arc::new(yard.lease(&project(slot)).await);
        let supervisor = lease.supervisor().try_into().unwrap();
        seen.extend(leftovers::tree(supervisor));
        assert!(!leftovers::groups(supervisor).is_empty(), "control: it has control groups");
        supervisors.push(supervisor);
        let watch = lease.watch("b").await.unwrap();
        let door = Door::open(&lease, "b");
        let out = blocking(|| door.build(&context).image().text("answer"));
        assert_eq!(out, "42\n");
        lease.close("b").await.unwrap();
        let ended = lease.ended();
        drop((door, watch, lease));
        ended.await;
        // The first one has warmed up what is made once: threads, the registry, the runtime's own descriptors.
        if slot == 100 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            before = Some(Held::now(&data, &supervisors));
        }
    }
    let before = before.unwrap();
    for _ in 0..100 {
        if Held::now(&data, &supervisors) == before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(Held::now(&data, &supervisors), before);
    assert!(before.groups.is_empty() && before.mounts.is_empty(), "{before:?}");
    assert!(seen.len() > 200, "control: processes were seen: {}", seen.len());
    assert_gone(&seen).await;
    // Network namespaces live in processes, descriptors and mounts: there are none of these.
    for entry in fs::read_dir(yard.dir.path().join("data/projects")).unwrap() {
        let names: Vec<_> = fs::read_dir(entry.unwrap().path())
            .unwrap()
            .map(|name| name.unwrap().file_name())
            .collect();
        assert_eq!(names, ["builder"], "no socket is left");
    }
    yard.close().await;
}

#[test]
fn fifty_projects_in_turn_leave_nothing() {
    cofferdam_tests::need_root();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "turns::fifty_projects_by_themselves", "--nocapture"]);
    let output = command.env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
