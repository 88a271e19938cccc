//! Images that are kept in a project's registry.

use cofferdam_tests::http::request;
use cofferdam_tests::{Context, Server};

use crate::{cofferdam, with_token};

#[test]
fn a_saved_image_is_listed_pulled_and_deleted() {
    let server = Server::start();
    let project = server.project("saved");
    let context = Context::dockerfile("FROM @busybox\nRUN echo kept > /kept\n");
    let outcome = server
        .build(&project, &context)
        .args("--save --save-tag stable -t ignored")
        .run()
        .success();
    assert!(!outcome.stderr.contains("ignored"), "names that are not pushed: {}", outcome.stderr);
    let id = server.newest_id(&project);
    let in_project = |args: &str| cofferdam(&server, args).arg("--project").arg(&project.id);
    let images = in_project("images list --json").success().json();
    let mut tags: Vec<&str> =
        images.as_array().unwrap().iter().map(|image| image["tag"].as_str().unwrap()).collect();
    tags.sort_unstable();
    let mut expected = vec![id.as_str(), "stable"];
    expected.sort_unstable();
    assert_eq!(tags, expected, "{images}");
    assert!(images[0]["size_bytes"].as_u64().unwrap() > 1000, "{images}");
    let table = in_project("images list").success().text();
    assert!(table.starts_with("TAG") && table.contains("sha256:"), "{table}");

    for args in [format!("pull-token --project {}", project.id), format!("pull-token --build {id}")]
    {
        let token = with_token(&server, &project.token, &args).success();
        assert_eq!(token.text().lines().count(), 1);
        assert!(token.stderr.contains(&server.address()), "{}", token.stderr);
        let basic = cofferdam_tests::registry::basic("x-token", token.text().trim());
        let url = format!("{}/v2/{}/manifests/stable", server.url(), project.id);
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let headers = [("Authorization", &*basic), ("Accept", accept)];
        assert_eq!(request("GET", &url, &headers, b"").status, 200);
        assert!(matches!(request("DELETE", &url, &headers, b"").status, 401 | 403));
    }

    let _ = in_project("images delete stable").success();
    let left = in_project("images list --json").success().json();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    let _ = in_project("images delete").arg(&id).success();
    assert!(in_project("images list").success().stderr.contains("No images"));
}
