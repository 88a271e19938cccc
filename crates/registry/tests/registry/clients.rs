//! skopeo and podman, as people run them.

use std::path::Path;
use std::process::{Command, Output};

use crate::fixture::{INDEX, Image, MANIFEST, index, layout, sha256};
use crate::server::{OWNER, READER, STRANGER, Server};

/// A client of the distribution, not one of the same name that lies earlier in the path.
pub(crate) fn client(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs a command to its end; its output.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: install it"));
    println!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a command that must succeed; what it printed.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail; what it complained about.
#[track_caller]
pub(crate) fn fail(command: &mut Command) -> String {
    let output = run(command);
    assert!(!output.status.success(), "{command:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn skopeo(args: &[&str]) -> Command {
    let mut command = client("skopeo");
    command.arg("--insecure-policy").args(args);
    command
}

/// The manifest with the tag `latest` in an OCI layout.
fn top(dir: &Path) -> String {
    let text = std::fs::read(dir.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// Writes the image of an OCI layout as an archive that daemons load, under `name`; its path.
pub(crate) fn archive(layout: &Path, name: &str) -> std::path::PathBuf {
    let path = layout.with_extension("tar");
    let (from, to) =
        (format!("oci:{}:latest", layout.display()), format!("docker-archive:{}", path.display()));
    succeed(&mut skopeo(&["copy", &from, &format!("{to}:{name}")]));
    path
}

fn credentials(token: &str) -> String {
    format!("x-token:{token}")
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_lists_and_deletes() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new("skopeo", 3 << 20);
    let source = dir.path().join("source");
    layout(&source, &[&image], &image.manifest, MANIFEST);
    let from = format!("oci:{}:latest", source.display());
    let creds = credentials(OWNER);
    for repository in ["", "/app", "/app/deeper"] {
        let to = format!("docker://{}:v1", server.name(repository));
        let args = ["copy", "--dest-tls-verify=false", "--dest-creds", &creds, &from, &to];
        succeed(&mut skopeo(&args));
    }
    let name = format!("docker://{}:v1", server.name("/app"));
    let tls = "--tls-verify=false";
    let inspected = succeed(&mut skopeo(&["inspect", tls, "--creds", &creds, &name]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Digest"], serde_json::json!(image.digest()));
    let bare = format!("docker://{}", server.name("/app"));
    let tags = succeed(&mut skopeo(&["list-tags", tls, "--creds", &creds, &bare]));
    assert!(tags.contains("\"v1\""), "{tags}");

    let back = format!("oci:{}:latest", dir.path().join("back").display());
    let reader = credentials(READER);
    succeed(&mut skopeo(&["copy", "--src-tls-verify=false", "--src-creds", &reader, &name, &back]));
    assert_eq!(top(&dir.path().join("back")), image.digest());
    let to = format!("docker://{}:v2", server.name("/app"));
    let complaint = fail(&mut skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--dest-creds",
        &reader,
        &from,
        &to,
    ]));
    assert!(complaint.contains("denied") || complaint.contains("403"), "{complaint}");
    let stranger = credentials(STRANGER);
    let complaint = fail(&mut skopeo(&["inspect", tls, "--creds", &stranger, &name]));
    assert!(
        complaint.contains("name unknown") || complaint.contains("no such repository"),
        "{complaint}"
    );
    fail(&mut skopeo(&["inspect", tls, "--creds", "x-token:wrong", &name]));
    fail(&mut skopeo(&["inspect", tls, "--no-creds", &name]));

    succeed(&mut skopeo(&["delete", tls, "--creds", &creds, &name]));
    fail(&mut skopeo(&["inspect", tls, "--creds", &creds, &name]));
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_images_of_several_platforms_and_formats() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (amd, arm) = (Image::new("amd", 1000), Image::for_architecture("arm", 1000, "arm64"));
    let list = index(&[(&amd, "amd64"), (&arm, "arm64")]);
    let source = dir.path().join("source");
    layout(&source, &[&amd, &arm], &list, INDEX);
    let from = format!("oci:{}:latest", source.display());
    let creds = credentials(OWNER);
    let to = format!("docker://{}:multi", server.name("/app"));
    succeed(&mut skopeo(&[
        "copy",
        "--all",
        "--dest-tls-verify=false",
        "--dest-creds",
        &creds,
        &from,
        &to,
    ]));
    let back = format!("oci:{}:latest", dir.path().join("back").display());
    let args = ["copy", "--all", "--src-tls-verify=false", "--src-creds", &creds, &to, &back];
    succeed(&mut skopeo(&args));
    let raw = ["inspect", "--raw", "--tls-verify=false", "--creds", &creds, &to];
    assert_eq!(sha256(succeed(&mut skopeo(&raw)).as_bytes()), sha256(&list));
    // From one repository to another of the project: mounted, converted to Docker's types.
    let (plain, second) = (amd.digest(), format!("docker://{}:docker", server.name("/second")));
    let one = format!("docker://{}@{plain}", server.name("/app"));
    let mut args =
        vec!["copy", "--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false"];
    args.extend(["--src-creds", &creds, "--dest-creds", &creds, &one, &second]);
    succeed(&mut skopeo(&args));
    let reply = server.get("/second/manifests/docker").await.expect(200);
    assert_eq!(
        reply.header("content-type"),
        "application/vnd.docker.distribution.manifest.v2+json"
    );
}

struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    fn run(&self, args: &[&str]) -> Command {
        let mut command = client("podman");
        let dir = self.dir.path();
        command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
        command.arg("--tmpdir").arg(dir.join("tmp"));
        command.args([
            "--storage-driver=vfs",
            "--events-backend=none",
            "--cgroup-manager=cgroupfs",
        ]);
        command.env("REGISTRY_AUTH_FILE", dir.join("auth.json")).args(args);
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_logs_in_pushes_and_pulls() {
    let server = Server::start().await;
    let podman = Podman { dir: tempfile::tempdir().unwrap() };
    let image = Image::new("podman", 1 << 20);
    let source = podman.dir.path().join("source");
    layout(&source, &[&image], &image.manifest, MANIFEST);
    let addr = server.addr.to_string();
    let tls = "--tls-verify=false";
    fail(&mut podman.run(&["login", tls, "-u", "x-token", "-p", "wrong", &addr]));
    succeed(&mut podman.run(&["login", tls, "-u", "x-token", "-p", OWNER, &addr]));
    let name = format!("{}:podman", server.name("/app"));
    let archive = archive(&source, &name);
    succeed(podman.run(&["load", "--input"]).arg(&archive));
    let id = succeed(&mut podman.run(&["image", "inspect", "--format", "{{.Id}}", &name]));
    succeed(&mut podman.run(&["push", tls, &name]));
    succeed(&mut podman.run(&["rmi", "--all", "--force"]));
    let pulled = succeed(&mut podman.run(&["pull", tls, &name]));
    assert_eq!(pulled.trim(), id.trim());
    succeed(&mut podman.run(&["rmi", "--all", "--force"]));
    succeed(&mut podman.run(&["login", tls, "-u", "x-token", "-p", READER, &addr]));
    succeed(&mut podman.run(&["pull", tls, &name]));
    let complaint = fail(&mut podman.run(&["push", tls, &name, &format!("docker://{name}2")]));
    assert!(complaint.contains("denied") || complaint.contains("403"), "{complaint}");
}
