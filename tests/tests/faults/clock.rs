//! A server whose clock is set while it runs: years ahead, and back behind its start.
//!
//! The wall clock alone is another one, by the library of Debian's `libfaketime`; timers go on as they did. Builders keep the
//! machine's clock, see [`super::builder_clock`]; what the store does with a clock that jumps is tried in `crates/store/tests/clock.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cofferdam_tests::http::request;
use cofferdam_tests::marks::{appears, mark};
use cofferdam_tests::{Context, Data, Project, Server, leftovers, need_root, program, registry};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Debian's, wherever this architecture's libraries are.
fn library() -> PathBuf {
    let entries = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut paths = entries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists()).unwrap_or_else(|| panic!("the package libfaketime is needed"))
}

/// A server whose clock is as far from the machine's as `file` says.
fn start(data: &Arc<Data>, file: &Path) -> Server {
    let mut command = Command::new(program());
    command
        .env("LD_PRELOAD", library())
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
    Server::start_as(Arc::clone(data), "", command)
}

fn build(server: &Server, project: &Project) -> Vec<String> {
    let context = Context::dockerfile("FROM @busybox\nRUN echo once > /once\n");
    server.build(project, &context).run().success().ran()
}

/// Ids of builds, newest first, all of which must have succeeded after a time that is one.
fn succeeded(server: &Server, project: &Project) -> Vec<String> {
    let each = |build: &Value| {
        assert_eq!(build["status"], "STATUS_SUCCESS", "{build}");
        let lasted = build["buildDurationSeconds"].as_i64().unwrap_or(0);
        assert!(lasted >= 0, "{build}");
        build["buildId"].as_str().unwrap().to_owned()
    };
    server.builds(project).iter().map(each).collect()
}

/// What the registry answers to somebody who pulls with a token: 404 to who may, since there is nothing.
fn pulling(server: &Server, project: &Project, token: &str) -> u16 {
    let authorization = registry::basic("x-token", token);
    let url = format!("{}/v2/{}/manifests/nothing", server.url(), project.id);
    request("GET", &url, &[("Authorization", &authorization)], b"").status
}

#[test]
fn a_server_goes_on_when_its_clock_is_set() {
    need_root();
    let data = Data::new();
    let clock = data.file("clock");
    let set = |offset: &str| {
        // In one piece: the server reads it at any moment.
        let next = data.file("clock.next");
        fs::write(&next, format!("{offset}\n")).unwrap();
        fs::rename(next, &clock).unwrap();
    };
    set("+0");
    let server = start(&data, &clock);
    let project = server.project("timeless");
    assert!(!build(&server, &project).is_empty(), "control: it ran");
    let method = "depot.cli.v1.BuildService/GetPullToken";
    let pull = server.call(method, &json!({ "projectId": project.id })).ok();
    let pull = pull["token"].as_str().unwrap().to_owned();
    assert_eq!(pulling(&server, &project, &pull), 404, "control");
    set("+5y");
    assert_eq!(pulling(&server, &project, &pull), 401, "a token for an hour, years later");
    assert_eq!(build(&server, &project), [] as [String; 0], "the cache is still there");
    // One build that begins in the future and ends in the present.
    let mark = mark(91);
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN sleep {mark}; true\n"));
    let running = server.build(&project, &context).spawn();
    appears(&mark);
    set("+0");
    for (pid, _) in leftovers::marked(&mark) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    }
    let _ = running.finish().success();
    assert_eq!(build(&server, &project), [] as [String; 0], "nothing grew old at once");
    assert_eq!(succeeded(&server, &project).len(), 4);
    let first = server.token().to_owned();
    let data = server.stop();
    // Behind everything that is recorded.
    set("-2d");
    let server = start(&data, &clock);
    let method = "depot.core.v1.ProjectService/GetProject";
    let _ = server.call_as(&first, method, &json!({ "projectId": project.id })).ok();
    assert_eq!(build(&server, &project), [] as [String; 0], "nor over a restart");
    assert_eq!(succeeded(&server, &project).len(), 5);
}
