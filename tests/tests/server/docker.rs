//! Depot's command line beside a docker daemon: what is built far away ends up among the daemon's images.

use cofferdam_tests::{Client, Context, Docker, Server};

fn context() -> Context {
    Context::dockerfile("FROM @busybox\nRUN echo loaded > /l\n")
}

#[test]
fn builds_are_loaded_and_pulled() {
    let server = Server::start();
    let docker = Docker::start();
    let project = server.project("loaded");
    let context = context();
    let outcome = docker
        .for_client(server.depot_build(&project, &context))
        .args("--load -t demo/loaded:1")
        .success();
    assert_eq!(docker.read("demo/loaded:1", "l"), "loaded\n", "{}", outcome.stderr);

    let _ = server.depot_build(&project, &context).args("--save --save-tag stable").success();
    let build = server.newest_id(&project);
    let _ = docker.client("rmi --force demo/loaded:1").success();
    let pull = |what: &str| {
        docker
            .for_client(Client::depot(&server.url()).token(&project.token))
            .args("pull --progress plain --project")
            .arg(&project.id)
            .arg(what)
    };
    let _ = pull(&build).args("-t demo/pulled:1").success();
    assert_eq!(docker.read("demo/pulled:1", "l"), "loaded\n");
    let _ = pull("stable").args("-t demo/pulled:2").success();
    assert_eq!(docker.read("demo/pulled:2", "l"), "loaded\n");
}

#[test]
fn a_bake_is_loaded() {
    let server = Server::start();
    let docker = Docker::start();
    let project = server.project("bake-loaded");
    let context = context();
    context.write("docker-bake.hcl", "target \"default\" { tags = [\"demo/baked:1\"] }\n");
    let _ = docker
        .for_client(Client::depot(&server.url()).token(&project.token))
        .args("bake --progress plain --load --project")
        .arg(&project.id)
        .within(context.path())
        .success();
    assert_eq!(docker.read("demo/baked:1", "l"), "loaded\n");
}
