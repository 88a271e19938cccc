//! `cofferdam build` on a server's builder.

use std::fs;

use cofferdam_tests::marks::{appears, disappears, mark, sleeping};
use cofferdam_tests::{Build, Context, Server};

use crate::PATIENCE;

fn context() -> Context {
    Context::new(&[
        ("Dockerfile", "FROM @busybox\nCOPY hello /hello\nRUN wc -c < /hello > /count\n"),
        ("hello", "hello world\n"),
    ])
}

#[test]
fn files_and_secrets_travel_both_ways() {
    let server = Server::start();
    let project = server.project("hosted");
    let context = context();
    context.write(
        "Dockerfile",
        "FROM @busybox\nCOPY hello /hello\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /count\n",
    );
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("s"), "12345").unwrap();
    let outcome = server
        .build(&project, &context)
        .arg("--secret")
        .arg(format!("id=s,src={}", out.path().join("s").display()))
        .arg("-o")
        .arg(out.path().join("files"))
        .run()
        .success();
    assert_eq!(fs::read_to_string(out.path().join("files/count")).unwrap(), "5\n");
    assert_eq!(fs::read_to_string(out.path().join("files/hello")).unwrap(), "hello world\n");
    let id = server.newest_id(&project);
    let page = outcome.stderr.lines().find(|line| line.starts_with("Build: ")).unwrap();
    assert!(page.contains(&server.url()) && page.contains(&id), "{page}");
    assert_eq!(server.newest_build(&project)["status"], "STATUS_SUCCESS");
    assert!(!server.log().contains("12345"));
}

#[test]
fn a_failure_is_the_builds_and_is_recorded() {
    let server = Server::start();
    let project = server.project("failing");
    let failing = Context::dockerfile("FROM @busybox\nRUN echo before; exit 7\n");
    let outcome = server.build(&project, &failing).run();
    assert_eq!(outcome.code, Some(1));
    let said = outcome.failure();
    assert!(said.contains("exit code: 7") && said.contains("before"), "{said}");
    let build = server.newest_build(&project);
    assert_eq!(build["status"], "STATUS_FAILED");
    // What is wrong on this side is found before a build exists.
    let said = server.build(&project, &context()).args("--secret id=x,src=/no/such/file").run();
    assert!(said.failure().contains("/no/such/file"));
    assert_eq!(server.builds(&project).len(), 1);
}

#[test]
fn control_c_cancels_it() {
    let server = Server::start();
    let project = server.project("interrupted");
    let mark = mark(61);
    let context = sleeping(&mark);
    let build = server.build(&project, &context).spawn();
    appears(&mark);
    let id = server.newest_id(&project);
    build.interrupt();
    let outcome = build.finish();
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    disappears(&mark, PATIENCE);
    assert_eq!(server.ended(&id, PATIENCE)["status"], "STATUS_CANCELED");
}

#[test]
fn certificates_protect_the_way_to_the_builder() {
    let server = Server::secure();
    let project = server.project("secure");
    let context = context();
    let build = |url: String| {
        Build::new(None, context.path().to_str().unwrap())
            .arg("--server")
            .arg(url)
            .env("SSL_CERT_FILE", server.authority())
            .env("COFFERDAM_TOKEN", &project.token)
    };
    // The token has one project: it needs no name.
    let _ = build(format!("https://localhost:{}", server.port())).run().success();
    assert_eq!(server.newest_build(&project)["status"], "STATUS_SUCCESS");
}

#[test]
fn where_a_build_runs() {
    let server = Server::start();
    let project = server.project("chosen");
    let context = context();
    let build = || Build::new(None, context.path().to_str().unwrap());
    let named =
        || build().env("COFFERDAM_SERVER", server.url()).env("COFFERDAM_TOKEN", &project.token);
    let _ = named().env("BUILDKIT_HOST", "unix:///no/such/socket").run().success();
    assert_eq!(server.builds(&project).len(), 1, "a server goes before other makers' builders");
    let said = named().env("COFFERDAM_BUILDER", "unix:///no/such/socket").run().failure();
    assert!(said.contains("/no/such/socket"), "{said}");
    let said = named().args("--addr unix:///no/such/socket").run().failure();
    assert!(said.contains("/no/such/socket"), "{said}");
    assert_eq!(server.builds(&project).len(), 1);
    let said = build().args("--server http://127.0.0.1:1 --token x").run().failure();
    assert!(said.contains("cannot reach"), "{said}");
    let said = build().arg("--server").arg(server.url()).run().failure();
    assert!(said.contains("cofferdam login"), "{said}");
    let _ = server.project("another");
    let said = build().env("COFFERDAM_SERVER", server.url()).env("COFFERDAM_TOKEN", server.token());
    let said = said.run().failure();
    assert!(said.contains("--project ID"), "an organization's token has many: {said}");
}
