//! What an operator does: backups and restores as docs/operating.md has them, upgrades, checks, the service manager.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod backup;
mod fixture;
mod layout;
mod machine;
mod unit;

use std::path::Path;

use cofferdam_tests::http::request;
use cofferdam_tests::{
    Client, Data, Image, Outcome, Project, Server, program, registry, repository,
};

const MANIFESTS: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// The program, for its operator.
fn cofferdam(args: &str) -> Client {
    Client::new(program()).args(args)
}

/// Runs the commands of a part of docs/operating.md, with a test's places instead of the page's; what each said.
fn as_the_page_says(part: &str, data: &Path, backup: &Path) -> Vec<Outcome> {
    let page = std::fs::read_to_string(repository().join("docs/operating.md")).unwrap();
    let begin = format!("<!-- {part}:begin -->");
    let block = page.split(&begin).nth(1).unwrap_or_else(|| panic!("the page has no {begin}"));
    let block = block.split("```").nth(1).unwrap();
    let commands: Vec<&str> =
        block.lines().filter_map(|line| line.strip_prefix("cofferdam ")).collect();
    assert!(!commands.is_empty(), "{block}");
    let run = |command: &str| {
        let command = command
            .replace("/var/lib/cofferdam/server", data.to_str().unwrap())
            .replace("/var/backups/cofferdam/new", backup.to_str().unwrap());
        cofferdam(&command).run()
    };
    commands.into_iter().map(run).collect()
}

/// Gives data that no server printed a token for the token of the server it came from.
fn know_token(data: &Data, token: &str) {
    std::fs::write(data.file("log"), format!("{token}\n")).unwrap();
}

/// An image of a project, read out of the server's registry.
fn pull(server: &Server, project: &Project, reference: &str) -> Image {
    let authorization = registry::basic("x-token", &project.token);
    let headers = [("Authorization", &*authorization), ("Accept", MANIFESTS)];
    let get = |path: String| {
        let url = format!("{}/v2/{}/{path}", server.url(), project.id);
        let response = request("GET", &url, &headers, b"");
        (response.status == 200).then_some(response.body)
    };
    let outer = get(format!("manifests/{reference}"))
        .unwrap_or_else(|| panic!("{reference} cannot be pulled"));
    Image::read(outer, &|digest| {
        get(format!("manifests/{digest}"))
            .or_else(|| get(format!("blobs/{digest}")))
            .unwrap_or_else(|| panic!("no {digest}"))
    })
}

/// What the step whose name has `part` wrote in a build.
fn logs(server: &Server, project: &Project, build: &str, part: &str) -> Vec<String> {
    let steps = server.steps(project, build);
    let step = steps.iter().find(|step| step["name"].as_str().unwrap().contains(part));
    let step = step.unwrap_or_else(|| panic!("no {part}: {steps:?}"));
    server.logs(project, build, step["digest"].as_str().unwrap())
}
