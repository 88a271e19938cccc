//! Pages of builds: for those who may see the build, and for everybody while it is shared.

use cofferdam_tests::http::request;
use cofferdam_tests::{Context, Server};
use serde_json::json;

use crate::browser::Browser;

/// A step whose name, log and error are all HTML.
fn hostile() -> Context {
    Context::dockerfile(
        "FROM @busybox\nRUN echo '<script>alert(1)</script>'; echo '<img src=x onerror=alert(2)>'\n",
    )
}

#[test]
fn a_shared_build_is_open_until_it_is_not() {
    let server = Server::start();
    let project = server.project("shared");
    let context = hostile();
    let _ = server.depot_build(&project, &context).success();
    let id = server.newest_id(&project);
    let share = |method: &str| {
        server.call(&format!("depot.core.v1.BuildService/{method}"), &json!({ "buildId": id })).ok()
    };
    let url = share("ShareBuild")["shareUrl"].as_str().unwrap().to_owned();
    let open = || request("GET", &url, &[], b"");
    let page = open();
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert!(text.contains("<b>RUN</b> echo"), "{text}");
    assert!(!text.contains("<script") && !text.contains("<img src=x"), "{text}");
    assert!(text.contains("&lt;script") || text.contains("&#60;script"), "{text}");
    let _ = share("StopSharingBuild");
    assert_eq!(open().status, 404);
}

#[test]
fn a_builds_own_page_wants_to_know_who_asks() {
    let server = Server::start();
    let project = server.project("private");
    let context = hostile();
    let said = server.depot_build(&project, &context).success().stderr;
    let url = said
        .split_whitespace()
        .find(|word| word.starts_with(&server.url()))
        .unwrap_or_else(|| panic!("no URL of the build: {said}"));
    let stranger = request("GET", url, &[], b"");
    assert!(!String::from_utf8_lossy(&stranger.body).contains("</b> echo"));
    let page = Browser::default().agree(url, server.token());
    assert!(page.contains("<b>RUN</b> echo"), "{page}");
}
