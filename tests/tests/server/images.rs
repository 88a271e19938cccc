//! The project's own registry as Depot's command line sees it: saved builds, their list, tokens to pull them with.

use cofferdam_tests::http::request;
use cofferdam_tests::{Client, Context, Image, Project, Server, registry};

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

fn context() -> Context {
    Context::dockerfile("FROM @busybox\nRUN echo saved > /s\n")
}

/// Saves a build under a further tag; gives its id.
fn save(server: &Server, project: &Project, tag: &str) -> String {
    let context = context();
    let _ = server.depot_build(project, &context).args("--save --save-tag").arg(tag).success();
    server.newest_id(project)
}

/// A document or blob of the server's registry with a token: the status, and the bytes.
fn fetch(server: &Server, token: &str, path: &str) -> (u16, Vec<u8>) {
    let authorization = registry::basic("x-token", token);
    let headers = [("Authorization", &*authorization), ("Accept", MANIFESTS)];
    let response = request("GET", &format!("{}/v2/{path}", server.url()), &headers, b"");
    (response.status, response.body)
}

fn pull(server: &Server, token: &str, project: &str, reference: &str) -> Image {
    let get = |path: String| {
        let (status, bytes) = fetch(server, token, &path);
        (status == 200).then_some(bytes)
    };
    let outer = get(format!("{project}/manifests/{reference}"))
        .unwrap_or_else(|| panic!("{project}:{reference} cannot be pulled"));
    Image::read(outer, &|digest| {
        get(format!("{project}/manifests/{digest}"))
            .or_else(|| get(format!("{project}/blobs/{digest}")))
            .unwrap_or_else(|| panic!("no {digest}"))
    })
}

#[test]
fn a_saved_build_is_in_the_projects_registry() {
    let server = Server::start();
    let project = server.project("saved");
    let build = save(&server, &project, "stable");
    // Under its own id and under the tag that was asked for.
    let image = pull(&server, &project.token, &project.id, &build);
    assert_eq!(image.text("s"), "saved\n");
    assert_eq!(pull(&server, &project.token, &project.id, "stable").digest, image.digest);

    let listed =
        server.depot().args("image list --output json --project").arg(&project.id).success();
    let listed = listed.text();
    assert!(listed.contains(&build) && listed.contains("stable"), "{listed}");
    assert!(listed.contains(&image.digest), "{listed}");

    let _ = server.depot().args("image rm --project").arg(&project.id).arg(&build).success();
    let listed =
        server.depot().args("image list --output json --project").arg(&project.id).success();
    let listed = listed.text();
    assert!(!listed.contains(&format!("\"{build}\"")) && listed.contains("stable"), "{listed}");
    assert_eq!(fetch(&server, &project.token, &format!("{}/manifests/{build}", project.id)).0, 404);
}

#[test]
fn a_pull_token_pulls_and_does_nothing_else() {
    let server = Server::start();
    let (project, other) = (server.project("pulled"), server.project("not-pulled"));
    let build = save(&server, &project, "stable");
    let _ = save(&server, &other, "stable");
    let given = server.depot().args("pull-token --project").arg(&project.id).success();
    let token = given.text().trim().to_owned();
    assert_eq!(pull(&server, &token, &project.id, "stable").text("s"), "saved\n");
    let status = |path: String| fetch(&server, &token, &path).0;
    assert!([401, 403, 404].contains(&status(format!("{}/manifests/stable", other.id))));
    assert_eq!(fetch(&server, "cfd_pull_no", &format!("{}/manifests/stable", project.id)).0, 401);
    assert_ne!(
        Client::depot(&server.url()).token(&token).args("projects list").run().code,
        Some(0)
    );

    // The same for one build, with the build's project found by the server.
    let given = server.depot().arg("pull-token").arg(&build).success();
    let token = given.text().trim().to_owned();
    assert_eq!(pull(&server, &token, &project.id, &build).text("s"), "saved\n");
}

#[test]
fn a_saved_bake_has_a_tag_for_each_target() {
    let server = Server::start();
    let project = server.project("baked");
    let context = Context::new(&[
        ("Dockerfile", "FROM @busybox\nARG NAME\nRUN echo $NAME > /name\n"),
        (
            "docker-bake.hcl",
            "group \"default\" { targets = [\"one\", \"two\"] }\n\
             target \"one\" { args = { NAME = \"first\" } }\ntarget \"two\" { args = { NAME = \"second\" } }\n",
        ),
    ]);
    let _ = Client::depot(&server.url())
        .token(&project.token)
        .args("bake --progress plain --save --project")
        .arg(&project.id)
        .within(context.path())
        .success();
    let build = server.newest_id(&project);
    for (target, name) in [("one", "first\n"), ("two", "second\n")] {
        let image = pull(&server, &project.token, &project.id, &format!("{build}-{target}"));
        assert_eq!(image.text("name"), name);
    }
}

#[test]
fn a_saved_image_is_built_on() {
    let server = Server::start();
    let project = server.project("base");
    let _ = save(&server, &project, "base");
    let out = tempfile::tempdir().unwrap();
    let reference = format!("{}/{}:base", server.address(), project.id);
    let child = Context::dockerfile(&format!("FROM {reference}\nRUN cat /s > /read\n"));
    let client = server.depot_build(&project, &child);
    let auth = registry::basic("x-token", &project.token);
    let auths = serde_json::json!({ "auths": { server.address(): { "auth": auth.trim_start_matches("Basic ") } } });
    client.file("config.json", &auths.to_string());
    let _ = client.arg("-o").arg(out.path()).success();
    assert_eq!(std::fs::read_to_string(out.path().join("read")).unwrap(), "saved\n");
}
