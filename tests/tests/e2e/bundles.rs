//! Git bundles: made of a repository, and in place of one.

use std::path::Path;

use bollard_buildkit_proto::moby::buildkit::v1::frontend as wire;
use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{Policy, Rule, Selector};
use bollard_buildkit_proto::pb;
use cofferdam_tests::http::Server;
use cofferdam_tests::{Builder, Registry, sh};
use tonic::Status;

use super::gateway::{Driven, graph};

/// A repository `repo.git` with two commits, of which it tells the second.
fn repository(directory: &Path) -> String {
    sh(
        directory,
        "git init -q -b main work && cd work && git config user.email t@example.com && git config user.name t && \
         echo one > file && git add . && git commit -qm one && echo two > file && git commit -qam two && cd .. && \
         git clone -q --bare work repo.git && cd repo.git && git update-server-info && git rev-parse main",
    )
}

fn git(url: &str, reference: &str, attrs: &[(&str, &str)]) -> pb::Definition {
    let mut all = vec![("git.fullurl", url)];
    all.extend(attrs);
    let attrs = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let source = pb::SourceOp { identifier: format!("git://repo#{reference}"), attrs };
    graph(vec![pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }])
}

async fn read(build: &Driven, reference: &str, path: &str) -> Result<Vec<u8>, Status> {
    let request = wire::ReadFileRequest {
        r#ref: reference.to_owned(),
        file_path: path.to_owned(),
        ..Default::default()
    };
    build.bridge().read_file(build.of(request)).await.map(|read| read.into_inner().data)
}

fn denial(identifier: &str) -> Policy {
    let selector = Selector { identifier: identifier.to_owned(), ..Default::default() };
    let rule = Rule { action: 1, selector: Some(selector), ..Default::default() };
    Policy { version: 1, rules: vec![rule] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_a_repository_stands_in_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let commit = repository(directory.path());
    let server = Server::files(directory.path());
    let url = server.url("repo.git");
    let (builder, registry) = (Builder::plain(), Registry::start());
    let checksum = ("git.checksum", commit.as_str());

    let build = Driven::begin(&builder, "make", None).await;
    let made = git(&url, "main", &[checksum, ("git.checkoutbundle", "true")]);
    let made = build.solve(made).await.unwrap();
    let bundle = read(&build, &made, "/bundle").await.unwrap();
    build.finish().await;
    std::fs::write(directory.path().join("bundle"), &bundle).unwrap();
    let found = "git clone -q -b main bundle copy && git -C copy rev-list main | wc -l";
    assert_eq!(sh(directory.path(), found), "2", "the history is in it");

    // Nobody answers there: what comes out was in the bundle.
    let gone = "http://127.0.0.1:1/repo.git";
    let digest = registry.push_blob("bundles", &bundle);
    let locator = format!("docker-image+blob://{}@{digest}", registry.reference("bundles"));
    let from = ("git.bundle", locator.as_str());
    let build = Driven::begin(&builder, "use", None).await;
    for (reference, keep) in [("main", "false"), (&*commit, "false"), ("main", "true")] {
        let keep_git = ("git.keepgitdir", keep);
        let used = build.solve(git(gone, reference, &[checksum, from, keep_git])).await.unwrap();
        assert_eq!(read(&build, &used, "/file").await.unwrap(), b"two\n", "{reference}");
        let branch = read(&build, &used, "/.git/refs/heads/main").await.ok();
        let expected = (keep == "true").then(|| format!("{commit}\n").into_bytes());
        assert_eq!(branch, expected, "{reference}");
    }
    build.finish().await;

    let build = Driven::begin(&builder, "ruled", Some(denial("docker-image+blob://*"))).await;
    let error = build.solve(git(gone, "main", &[checksum, from])).await.unwrap_err();
    assert!(error.message().contains("denied by policy"), "{error:?}");
    build.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_used_for_the_commit_that_was_meant_only() {
    let directory = tempfile::tempdir().unwrap();
    let commit = repository(directory.path());
    let before = sh(directory.path(), "git -C work rev-parse main~1");
    let script = "git -C work bundle create -q ../thin main~1..main && git -C work bundle create -q ../whole main";
    sh(directory.path(), script);
    let (builder, registry) = (Builder::plain(), Registry::start());
    let push = |name: &str| {
        let digest = registry.push_blob(name, &std::fs::read(directory.path().join(name)).unwrap());
        format!("docker-image+blob://{}@{digest}", registry.reference(name))
    };
    let (thin, whole) = (push("thin"), push("whole"));
    std::fs::write(directory.path().join("none"), "# v2 git bundle\nnone").unwrap();
    let none = push("none");
    let gone = "http://127.0.0.1:1/repo.git";
    let other = "0123456789012345678901234567890123456789";
    let build = Driven::begin(&builder, "wrong", None).await;
    for (reference, checksum, bundle, reason) in [
        ("main", other, &whole, "is not in it"),
        ("main", &*before, &whole, "expected checksum to match"),
        ("v1", &*commit, &whole, "does not contain ref v1"),
        ("main", "", &whole, "requires git.checksum"),
        ("main", &commit[..10], &whole, "whole commit hash"),
        (other, &*commit, &whole, "expected checksum to match"),
        ("main", &*commit, &thin, "builds upon"),
        ("main", &*commit, &none, "header"),
    ] {
        let attrs = [("git.bundle", bundle.as_str()), ("git.checksum", checksum)];
        let error = build.solve(git(gone, reference, &attrs)).await.unwrap_err();
        assert!(error.message().contains(reason), "{reference} {checksum} {bundle}: {error:?}");
    }
    let attrs = [("git.bundle", whole.as_str()), ("git.checksum", &*commit)];
    assert!(build.solve(git(gone, "main", &attrs)).await.is_ok(), "control");
    build.finish().await;
}
