//! How much projects keep: what nobody builds is kept within the policy, and what the API tells is what is on the disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cofferdam_tests::usage::{assert_close, du};
use cofferdam_tests::{Context, Data, Project, Server};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;
/// What a step takes of the disk, without writing it: two of them are more than a GB.
const LARGE: u64 = 600 << 20;

/// How long a look at the disk, and making a cache smaller, may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn context(name: &str) -> Context {
    Context::dockerfile(&format!("FROM @busybox\nRUN echo {name}; fallocate -l {LARGE} /large\n"))
}

fn wait_for(server: &Server, what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn home(data: &Data, project: &Project) -> PathBuf {
    data.path().join("projects").join(&project.id)
}

/// What the API tells that a project's cache takes.
fn told(server: &Server, of: &Project, request: &Value) -> u64 {
    let method = "cofferdam.server.v1.ProjectService/ListStorage";
    let answer = server.call(method, request).ok();
    let projects = answer["projects"].as_array().unwrap();
    let own = projects.iter().find(|project| project["projectId"] == of.id).unwrap();
    let figures = own["figures"].as_array().unwrap();
    let cache = figures.iter().find(|figure| figure["kind"] == "cache").unwrap();
    assert!(cache["measuredAt"].is_string(), "{cache}");
    cache["bytes"].as_str().map_or(0, |bytes| bytes.parse().unwrap())
}

#[test]
fn what_nobody_builds_is_kept_within_the_policy() {
    let data = Data::new();
    let config = "[builders]\nidle_seconds = 1\nkeep_every_seconds = 1\n";
    let server = Server::start_in(data, config);
    let project = server.project("kept");
    let (old, new) = (context("old"), context("new"));
    for context in [&old, &new] {
        let _ = server.build(&project, context).run().success();
    }
    let data = server.data();
    let (root, run) = (home(&data, &project).join("builder"), home(&data, &project).join("run"));
    let this = json!({ "projectId": project.id });
    // What was found a moment ago is not asked for again.
    wait_for(&server, "the cache is not told", || {
        told(&server, &project, &this).abs_diff(du(&root)) <= du(&root) / 100
    });
    wait_for(&server, "the builder stays", || !run.exists());
    assert!(du(&root) > 2 * LARGE, "without a bound everything stays: {}", du(&root));
    wait_for(&server, "the cache is not measured", || {
        told(&server, &project, &this).abs_diff(du(&root)) <= du(&root) / 100
    });

    // Nobody builds from here on: only the server can start the builder.
    let policy = json!({ "projectId": project.id, "cachePolicy": { "keepGb": 1, "keepDays": 14 } });
    let _ = server.call("depot.core.v1.ProjectService/UpdateProject", &policy).ok();
    wait_for(&server, "the cache is not made smaller", || du(&root) <= GIB && !run.exists());
    wait_for(&server, "the smaller cache is not told", || told(&server, &project, &this) <= GIB);
    assert_close(told(&server, &project, &this), &root);
    let window = json!({
        "projectId": project.id,
        "startAt": "2026-01-01T00:00:00Z",
        "endAt": "2126-01-01T00:00:00Z",
    });
    let usage = server.call("depot.core.v1.UsageService/GetProjectUsage", &window).ok();
    assert_eq!(usage["usage"]["layerCacheSizeGb"], 1, "{usage}");
    let kept = server.build(&project, &new).run().success();
    assert!(kept.step("RUN echo new").cached, "the older one went: {}", kept.stderr);
    wait_for(&server, "the builder stays", || !run.exists());

    // Another server knows it before it has looked.
    wait_for(&server, "the cache is not measured again", || {
        told(&server, &project, &this).abs_diff(du(&root)) <= du(&root) / 100
    });
    let server = Server::start_in(server.stop(), "");
    assert_close(told(&server, &project, &json!({})), &root);
    assert!(!run.exists(), "nothing is started to tell it");
}
