//! Builds that are stopped, clients that are killed, and builds that somebody else began.

use std::process::Command;
use std::time::{Duration, Instant};

use cofferdam_tests::marks::{appears, disappears, mark, sleeping};
use cofferdam_tests::{Client, Context, Server};
use rustix::process::Signal;
use serde_json::json;

/// Changes the server's records behind its back.
fn sql(server: &Server, statement: &str) {
    let script = "import sqlite3, sys\n\
        sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None).execute(sys.argv[2])";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(server.data().path().join("records.db")).arg(statement);
    assert!(python.status().unwrap().success(), "{statement}");
}

#[test]
fn control_c_cancels_the_build() {
    let server = Server::start();
    let project = server.project("interrupted");
    let mark = mark(51);
    let context = sleeping(&mark);
    let build = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    build.interrupt();
    assert_ne!(build.finish().code, Some(0));
    disappears(&mark, Duration::from_secs(10));
    assert_eq!(server.ended(&id, Duration::from_secs(10))["status"], "STATUS_CANCELED");
    let _ = server.depot_build(&project, &Context::small()).success();
}

#[test]
fn a_killed_client_leaves_a_build_that_ends() {
    let server = Server::start();
    let project = server.project("killed");
    let mark = mark(52);
    let context = sleeping(&mark);
    let build = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    build.process().kill();
    disappears(&mark, Duration::from_secs(60));
    assert_eq!(server.ended(&id, Duration::from_secs(60))["status"], "STATUS_ERROR");
    let _ = server.depot_build(&project, &Context::small()).success();
}

#[test]
fn a_build_canceled_by_somebody_else_says_so() {
    let server = Server::start();
    let project = server.project("canceled");
    let mark = mark(53);
    let context = sleeping(&mark);
    let build = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    let _ =
        server.call("cofferdam.server.v1.BuildService/CancelBuild", &json!({ "buildId": id })).ok();
    disappears(&mark, Duration::from_secs(10));
    let said = build.finish().failure();
    assert!(said.to_lowercase().contains("cancel"), "{said}");
    assert_eq!(server.ended(&id, Duration::from_secs(10))["status"], "STATUS_CANCELED");
}

#[test]
fn resetting_and_deleting_cancel_what_runs() {
    let server = Server::start();
    let project = server.project("pulled-away");
    for (number, method) in [(54, "ResetProject"), (55, "DeleteProject")] {
        let mark = mark(number);
        let context = sleeping(&mark);
        let build = server.depot_build(&project, &context).spawn();
        appears(&mark);
        let begun = Instant::now();
        let answer = server.call(
            &format!("depot.core.v1.ProjectService/{method}"),
            &json!({ "projectId": project.id }),
        );
        let _ = answer.ok();
        assert!(begun.elapsed() < Duration::from_secs(5), "{method} took {:?}", begun.elapsed());
        disappears(&mark, Duration::from_secs(10));
        let said = build.finish().failure();
        assert!(
            said.contains("reset") || said.contains("deleted") || said.contains("cancel"),
            "{said}"
        );
    }
    let context = Context::small();
    let said = server.depot_build(&project, &context).run().failure();
    assert!(said.contains("unauthenticated"), "its token went with it: {said}");
}

#[test]
fn a_build_that_somebody_else_began_is_carried_out() {
    let server = Server::start();
    let project = server.project("handed-over");
    let begun = server
        .call("depot.build.v1.BuildService/CreateBuild", &json!({ "projectId": project.id }))
        .ok();
    let id = begun["buildId"].as_str().unwrap();
    let token = begun["buildToken"].as_str().unwrap();
    let context = Context::small();
    // Whoever builds has a token for this one build and nothing else.
    let outcome = Client::depot(&server.url())
        .token(token)
        .env("DEPOT_BUILD_ID", id)
        .args("build --progress plain")
        .arg(context.path())
        .success();
    assert!(outcome.stderr.contains(&format!("/{id}")), "{}", outcome.stderr);
    let builds = server.builds(&project);
    assert_eq!(builds.len(), 1, "{builds:?}");
    assert_eq!(builds[0]["status"], "STATUS_SUCCESS");
    assert_ne!(
        server
            .call_as(
                token,
                "depot.core.v1.ProjectService/GetProject",
                &json!({ "projectId": project.id })
            )
            .status,
        200
    );
}

#[test]
fn a_server_that_was_killed_ends_its_builds_when_it_is_back() {
    let server = Server::start();
    let project = server.project("crashed");
    let _ = server.token();
    let mark = mark(56);
    let context = sleeping(&mark);
    let build = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    let data = server.kill();
    disappears(&mark, Duration::from_secs(10));
    build.process().signal(Signal::TERM);
    let _ = build.finish();
    let server = Server::start_in(data, "");
    assert_eq!(server.ended(&id, Duration::from_secs(60))["status"], "STATUS_ERROR");
    let _ = server.depot_build(&project, &Context::small()).success();
}

#[test]
fn an_end_that_cannot_be_recorded_now_is_recorded_later() {
    let server = Server::start();
    let project = server.project("unrecorded");
    // As when the disk is full.
    sql(
        &server,
        "CREATE TRIGGER no_end BEFORE UPDATE OF status ON builds
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    // Its client is not kept waiting.
    let _ = server.depot_build(&project, &Context::small()).success();
    let build = server.newest_build(&project);
    assert_eq!(build["status"], "STATUS_RUNNING");
    assert!(server.log().contains("could not be recorded"), "{}", server.log());
    sql(&server, "DROP TRIGGER no_end");
    let id = build["buildId"].as_str().unwrap();
    assert_eq!(server.ended(id, Duration::from_secs(60))["status"], "STATUS_SUCCESS");
}
