//! Builds by buildpacks on a server: what its record says, and its registry.

use cofferdam_tests::buildpacks::Workshop;
use cofferdam_tests::http::request;
use cofferdam_tests::{Client, Context, Image, Project, Server, program, registry};
use serde_json::Value;

/// An image in the server's own registry.
fn pull(server: &Server, project: &Project, reference: &str) -> Image {
    let authorization = registry::basic("x-token", &project.token);
    let accept =
        "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let get = |path: &str| {
        let headers = [("Authorization", &*authorization), ("Accept", accept)];
        let url = format!("{}/v2/{}/{path}", server.url(), project.id);
        let response = request("GET", &url, &headers, b"");
        (response.status == 200).then_some(response.body)
    };
    let outer = get(&format!("manifests/{reference}")).unwrap_or_else(|| panic!("no {reference}"));
    Image::read(outer, &|digest| {
        get(&format!("manifests/{digest}"))
            .or_else(|| get(&format!("blobs/{digest}")))
            .unwrap_or_else(|| panic!("no {digest}"))
    })
}

fn builds(server: &Server, project: &Project, words: &str) -> String {
    let client = Client::new(program()).args(words);
    let client =
        client.env("COFFERDAM_SERVER", server.url()).env("COFFERDAM_TOKEN", server.token());
    client.env("COFFERDAM_PROJECT", &project.id).success().text()
}

/// The line about the flow.
fn flow(shown: &str) -> &str {
    let line = shown.lines().find_map(|line| line.strip_prefix("flow "));
    line.unwrap_or_else(|| panic!("no flow:\n{shown}")).trim()
}

fn names(steps: &[Value]) -> Vec<&str> {
    steps.iter().map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
fn the_record_says_which_flow_ran_and_why() {
    let workshop = Workshop::new();
    workshop.buildpack("own", "exit 0", "echo own ran");
    workshop.buildpack("added", "exit 0", "echo added ran");
    let builder = workshop.image("builder", &["own"]);
    let server = Server::start();
    let project = server.project("packs");
    let app = Context::new(&[("file", "of the app")]);
    let build =
        || server.build(&project, &app).arg("--builder").arg(&builder).arg("--trust-builder");

    let _ = build().run().success();
    let id = server.newest_id(&project);
    let shown = builds(&server, &project, &format!("builds show {id}"));
    let line = "trusted (prepare, build, export): the builder is trusted by --trust-builder";
    assert!(flow(&shown).starts_with(line), "{shown}");

    let added = workshop.path("added");
    let outcome = build().args("--save --save-tag packed --buildpack").arg(&added).run().success();
    let record = server.newest_build(&project);
    assert_eq!(record["status"], "STATUS_SUCCESS");
    let id = record["buildId"].as_str().unwrap();
    let steps = server.steps(&project, id);
    let line = "[flow] untrusted (analyze, detect, restore, build, export): ";
    let why = "buildpacks were added that are not in the builder: test/added@1.0.0 (--buildpack)";
    let found: Vec<&str> =
        names(&steps).into_iter().filter(|name| name.starts_with("[flow] ")).collect();
    assert_eq!(found.len(), 1, "{steps:?}");
    assert!(found[0].starts_with(line) && found[0].contains(why), "{found:?}");
    assert_eq!(outcome.step("[flow] ").name, found[0], "the client sees the same");
    for phase in ["[analyze] ", "[detect] ", "[restore] ", "[build] ", "[export] "] {
        let found = names(&steps).iter().any(|name| name.starts_with(phase));
        assert!(found, "{phase}: {:?}", names(&steps));
    }
    let shown = builds(&server, &project, &format!("builds show {id}"));
    assert_eq!(format!("[flow] {}", flow(&shown)), found[0], "{shown}");
    let ran = steps.iter().find(|step| step["name"] == "[build] test/added@1.0.0").unwrap();
    assert_eq!(server.logs(&project, id, ran["digest"].as_str().unwrap()), ["added ran"]);

    let image = pull(&server, &project, "packed");
    assert_eq!(image.text("workspace/file"), "of the app");
    assert_eq!(pull(&server, &project, id).digest, image.digest);
}

#[test]
fn a_build_that_fails_is_recorded_with_its_module() {
    let workshop = Workshop::new();
    workshop.buildpack("own", "exit 0", "echo before; exit 3");
    let builder = workshop.image("builder", &["own"]);
    let server = Server::start();
    let project = server.project("failing-packs");
    let app = Context::new(&[]);
    let build = server.build(&project, &app).arg("--builder").arg(&builder);
    let outcome = build.arg("--save").run();
    assert_eq!(outcome.code, Some(51), "{}", outcome.stderr);
    let record = server.newest_build(&project);
    assert_eq!(record["status"], "STATUS_FAILED");
    let steps = server.steps(&project, record["buildId"].as_str().unwrap());
    let failed: Vec<&Value> = steps.iter().filter(|step| !step["error"].is_null()).collect();
    assert!(
        failed.iter().any(|step| step["name"].as_str().unwrap().contains("test/own@1.0.0")),
        "{failed:?}"
    );
    assert!(names(&steps).iter().any(|name| name.starts_with("[flow] untrusted")), "{steps:?}");
}
