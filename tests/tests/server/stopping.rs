//! A server that is told to stop, a data directory that two want, builders that die, tokens that are revoked while they are used.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_tests::marks::{appears, mark, sleeping};
use cofferdam_tests::{Context, Data, Server, leftovers, program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn status(server: &Server, token: &str, build: &str) -> Value {
    let method = "depot.core.v1.BuildService/GetBuild";
    server.call_as(token, method, &json!({ "buildId": build })).ok()["build"]["status"].clone()
}

#[test]
fn running_builds_may_finish() {
    let server = Server::start_in(Data::new(), "drain_seconds = 60\n");
    let project = server.project("drained");
    let token = server.token().to_owned();
    let context = Context::dockerfile("FROM @busybox\nRUN echo under way && sleep 4\n");
    let build = server.depot_build(&project, &context).spawn();
    build.wait_for("under way");
    let id = server.newest_id(&project);
    let data = server.stop();
    let _ = build.finish().success();
    let server = Server::start_in(data, "");
    assert_eq!(status(&server, &token, &id), "STATUS_SUCCESS");
}

#[test]
fn builds_that_take_too_long_are_canceled_and_told_so() {
    let server = Server::start_in(Data::new(), "drain_seconds = 1\n");
    let project = server.project("canceled");
    let token = server.token().to_owned();
    let mark = mark(61);
    let context = sleeping(&mark);
    let build = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    let data = server.stop();
    let said = build.finish().failure();
    assert!(said.contains("the server is stopping"), "{said}");
    let server = Server::start_in(data, "");
    assert_eq!(status(&server, &token, &id), "STATUS_CANCELED");
}

#[test]
fn a_data_directory_has_one_server() {
    let server = Server::start();
    let second = Command::new(program())
        .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(server.data().path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another server uses"), "{said}");
    let _ = server.project("still-there");
}

#[test]
fn a_builder_that_is_killed_fails_its_builds_and_is_replaced() {
    let server = Server::start();
    let project = server.project("killed");
    let mark = mark(62);
    let context = sleeping(&mark);
    let build = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    // Everything below the server is its builder: supervisor, gate and builder.
    for pid in leftovers::tree(server.pid()).into_keys().filter(|pid| *pid != server.pid()) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
    }
    assert_ne!(build.finish().code, Some(0));
    assert_eq!(server.ended(&id, Duration::from_secs(60))["status"], "STATUS_ERROR");
    let _ = server.depot_build(&project, &Context::small()).success();
}

#[test]
fn a_revoked_token_ends_what_runs_with_it() {
    let server = Server::start();
    let project = server.project("revoked");
    let mark = mark(63);
    let context = sleeping(&mark);
    let build = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    let of_project = json!({ "projectId": project.id });
    let tokens = server.call("depot.core.v1.ProjectService/ListTokens", &of_project).ok();
    let token = json!({ "tokenId": tokens["tokens"][0]["tokenId"] });
    let begun = Instant::now();
    let _ = server.call("depot.core.v1.ProjectService/DeleteToken", &token).ok();
    let said = build.finish().failure();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(said.contains("revoked"), "{said}");
    assert_eq!(server.ended(&id, Duration::from_secs(10))["status"], "STATUS_CANCELED");
    let method = "depot.core.v1.BuildService/ListBuilds";
    assert_eq!(server.call_as(&project.token, method, &of_project).code(), "unauthenticated");
}

#[test]
fn removal_goes_on_after_a_restart() {
    let server = Server::start();
    let (gone, kept) = (server.project("gone"), server.project("kept"));
    let token = server.token().to_owned();
    for project in [&gone, &kept] {
        let context = Context::small();
        let _ = server.depot_build(project, &context).success();
    }
    let path = json!({ "projectId": gone.id });
    let _ = server.call("depot.core.v1.ProjectService/DeleteProject", &path).ok();
    let data = server.kill();
    let server = Server::start_in(data, "");
    let begun = Instant::now();
    let left = |part: &str, name: &str| server.data().path().join(part).join(name).exists();
    while left("projects", &gone.id) || left("logs", &gone.id) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} is still there", gone.id);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(left("projects", &kept.id));
    let method = "depot.core.v1.ProjectService/GetProject";
    assert_eq!(server.call_as(&token, method, &path).code(), "not_found");
}

#[test]
fn a_deleted_project_leaves_no_images_on_the_disk() {
    let server = Server::start();
    let project = server.project("saved");
    let context = Context::small();
    let _ = server.depot_build(&project, &context).args("--save").success();
    let data = server.data().path();
    assert!(data.join("registry").join(&project.id).exists(), "nothing was saved");
    let path = json!({ "projectId": project.id });
    let _ = server.call("depot.core.v1.ProjectService/DeleteProject", &path).ok();
    let begun = Instant::now();
    let trash = || std::fs::read_dir(data.join("trash")).unwrap().count();
    let left = || {
        data.join("registry").join(&project.id).exists()
            || data.join("logs").join(&project.id).exists()
    };
    while left() || trash() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} entries in the trash", trash());
        std::thread::sleep(Duration::from_millis(50));
    }
}
