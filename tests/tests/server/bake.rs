//! `depot bake`: several targets in one build.

use std::fs;

use cofferdam_tests::{Client, Context, Server};

#[test]
fn targets_of_a_file_are_built_together() {
    let server = Server::start();
    let project = server.project("bake");
    let context = Context::new(&[
        ("Dockerfile", "FROM @busybox\nARG NAME\nRUN echo $NAME > /name\n"),
        (
            "docker-bake.hcl",
            "group \"default\" { targets = [\"one\", \"two\"] }\n\
             target \"one\" {\n  args = { NAME = \"first\" }\n  output = [\"type=local,dest=out/one\"]\n}\n\
             target \"two\" {\n  args = { NAME = \"second\" }\n  output = [\"type=local,dest=out/two\"]\n}\n",
        ),
    ]);
    let outcome = Client::depot(&server.url())
        .token(&project.token)
        .args("bake --progress plain --project")
        .arg(&project.id)
        .within(context.path())
        .success();
    for (target, name) in [("one", "first\n"), ("two", "second\n")] {
        let file = context.path().join("out").join(target).join("name");
        assert_eq!(fs::read_to_string(file).unwrap(), name, "{}", outcome.stderr);
    }
    // Both are one build with the steps of both.
    let builds = server.builds(&project);
    assert_eq!(builds.len(), 1, "{builds:?}");
    assert_eq!(builds[0]["status"], "STATUS_SUCCESS");
    let steps = server.steps(&project, builds[0]["buildId"].as_str().unwrap());
    let ran = steps.iter().filter(|step| step["name"].as_str().unwrap().contains("RUN echo"));
    assert_eq!(ran.count(), 2, "{steps:?}");
}

#[test]
fn a_target_that_fails_fails_the_build() {
    let server = Server::start();
    let project = server.project("bake-fails");
    let context = Context::new(&[
        ("Dockerfile", "FROM @busybox\nARG CODE\nRUN exit $CODE\n"),
        (
            "docker-bake.hcl",
            "group \"default\" { targets = [\"good\", \"bad\"] }\n\
             target \"good\" { args = { CODE = \"0\" } }\ntarget \"bad\" { args = { CODE = \"7\" } }\n",
        ),
    ]);
    let said = Client::depot(&server.url())
        .token(&project.token)
        .args("bake --progress plain --project")
        .arg(&project.id)
        .within(context.path())
        .run()
        .failure();
    assert!(said.contains("exit code: 7"), "{said}");
    assert_eq!(server.newest_build(&project)["status"], "STATUS_FAILED");
}
