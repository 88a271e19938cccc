//! `depot exec`: a program of one's own beside a builder.

use cofferdam_tests::{Client, Context, Server, program};

#[test]
fn a_child_reaches_the_builder() {
    let server = Server::start();
    let project = server.project("exec");
    let context = Context::dockerfile("FROM @busybox\nRUN echo executed > /e\n");
    let out = tempfile::tempdir().unwrap();
    let _ = Client::depot(&server.url())
        .token(&project.token)
        .args("exec --project")
        .arg(&project.id)
        .arg("--")
        .arg(program())
        .args("build --progress plain -o")
        .arg(out.path())
        .arg(context.path())
        .success();
    assert_eq!(std::fs::read_to_string(out.path().join("e")).unwrap(), "executed\n");
    let build = server.newest_build(&project);
    assert_eq!(build["status"], "STATUS_SUCCESS");
    let steps = server.steps(&project, build["buildId"].as_str().unwrap());
    assert!(steps.iter().any(|step| step["name"].as_str().unwrap().contains("RUN echo executed")));
}

#[test]
fn a_child_that_fails_fails_the_build() {
    let server = Server::start();
    let project = server.project("exec-fails");
    let outcome = Client::depot(&server.url())
        .token(&project.token)
        .args("exec --project")
        .arg(&project.id)
        .args("-- sh -c")
        .arg("exit 5")
        .run();
    assert_ne!(outcome.code, Some(0));
    assert_eq!(server.newest_build(&project)["status"], "STATUS_FAILED");
}
