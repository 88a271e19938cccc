//! Many projects that build in turn leave nothing behind: no process, control group, mount, descriptor or file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_tests::{Context, Data, Server, leftovers};
use serde_json::json;

const PROJECTS: usize = 50;

/// How long builders may stay when nobody needs them, and then take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process has open, without the records: their pool of readers grows to its limit as it is used.
fn descriptors(pid: i32) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let names = targets.map(|target| target.display().to_string());
    names.filter(|name| !name.contains("/records.db")).collect()
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    wait_until_empty(what, || if holds() { Vec::new() } else { vec![()] });
}

fn wait_until_empty<T: std::fmt::Debug>(what: &str, left: impl Fn() -> Vec<T>) {
    let begun = Instant::now();
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Makes a project, builds, and deletes it every second time. Gives the processes that were there.
fn one(server: &Server, number: usize) -> BTreeMap<i32, String> {
    let project = server.project(&format!("turn-{number}"));
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN echo {number}\n"));
    let _ = server.depot_build(&project, &context).success();
    let processes = leftovers::tree(server.pid());
    if number.is_multiple_of(2) {
        let method = "depot.core.v1.ProjectService/DeleteProject";
        let _ = server.call(method, &json!({ "projectId": project.id })).ok();
    }
    processes
}

#[test]
fn nothing_is_left_when_projects_took_turns() {
    let data = Data::new();
    let server = Server::start_in(data, "[builders]\nidle_seconds = 1\n");
    let alone = leftovers::tree(server.pid()).len();
    let mut seen = one(&server, 0);
    let quiet = || leftovers::tree(server.pid()).len() <= alone;
    wait_for("the first builder stays", quiet);
    let before = descriptors(server.pid()).len();
    for number in 1..=PROJECTS {
        seen.extend(one(&server, number));
    }
    wait_for("builders stay", quiet);
    assert!(seen.len() > PROJECTS, "builders were processes of the server: {seen:?}");
    seen.remove(&server.pid());
    // Process ids come round; what is alive now is what counts.
    let alive = leftovers::tree(server.pid());
    seen.retain(|pid, _| !alive.contains_key(pid));
    let groups = || seen.keys().flat_map(|pid| leftovers::groups(*pid)).collect::<Vec<_>>();
    wait_until_empty("control groups stay", groups);
    let data = server.data();
    assert_eq!(leftovers::mounts(&data.path()), Vec::<String>::new());
    // Connections of clients that have just gone may still be closing.
    wait_until_empty("descriptors stay", || {
        let now = descriptors(server.pid());
        if now.len() > before { now } else { Vec::new() }
    });
    let kept = PROJECTS / 2;
    wait_for("directories of deleted projects stay", || {
        entries(&data.path().join("trash")) == 0 && entries(&data.path().join("projects")) == kept
    });
    let _ = server.stop();
}
