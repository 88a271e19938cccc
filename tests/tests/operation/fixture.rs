//! Data directories that earlier layouts have left: a server of today takes them, with everything in them.
//!
//! `tests/fixtures/data/layout-<n>.tar.gz` was made by `write_the_fixtures` when layout 2 was current and never changes; a further
//! layout adds a fixture of its own. What is in them is beside them, in `data.json`. Builders' roots belong to the ids of their
//! project: they are packed and unpacked by root, with numbers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cofferdam_tests::{Context, Data, Project, Server, need_root, repository};
use serde_json::{Value, json};

use crate::{cofferdam, know_token, logs, pull};

/// Layouts with a fixture.
const LAYOUTS: [u32; 2] = [1, 2];

fn place(name: &str) -> PathBuf {
    repository().join("tests/fixtures/data").join(name)
}

fn tar(arguments: &[&str], archive: &Path, data: &Path) {
    let mut command = Command::new("tar");
    command.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--sparse"]);
    command.args(arguments).arg("-f").arg(archive).arg("-C").arg(data);
    if arguments.contains(&"-c") {
        command.arg(".");
    }
    assert!(command.status().unwrap().success());
}

/// A program of 158 bytes that writes `kept`: images of a fixture have no room for a shell.
fn program() -> Vec<u8> {
    let mut code: Vec<u8> = Vec::new();
    code.extend(b"\xb8\x01\0\0\0\xbf\x01\0\0\0"); // write, to standard output,
    code.extend(b"\x48\x8d\x35\x10\0\0\0\xba\x05\0\0\0\x0f\x05"); // the five bytes at the end;
    code.extend(b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"); // exit with 0
    code.extend(b"kept\n");
    let size = 0x78 + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [0x0040_0078_u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for half in [1_u32, 5] {
        elf.extend(half.to_le_bytes());
    }
    for word in [0, 0x0040_0000, 0x0040_0000, size, size, 0x1000_u64] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// The same context each time: what it builds is in the fixtures' caches.
fn context() -> Context {
    let context = Context::dockerfile(
        "FROM scratch\nCOPY --chmod=755 say /say\nRUN [\"/say\"]\nLABEL of=fixture\n",
    );
    fs::write(context.path().join("say"), program()).unwrap();
    context
}

/// Run by hand, once for each layout: `cargo test -p cofferdam-tests --test operation -- --ignored write_the_fixtures`.
#[test]
#[ignore = "writes the fixtures"]
fn write_the_fixtures() {
    need_root();
    let server = Server::start();
    let token = server.token().to_owned();
    let project = server.project("kept");
    let context = context();
    let _ = server.depot_build(&project, &context).args("--save --save-tag stable").success();
    let build = server.newest_build(&project)["buildId"].clone();
    assert_eq!(logs(&server, &project, build.as_str().unwrap(), "RUN"), ["kept"]);
    let data = server.stop();
    fs::create_dir_all(place("")).unwrap();
    for layout in LAYOUTS {
        assert!(!place(&format!("layout-{layout}.tar.gz")).exists(), "fixtures never change");
    }
    // The first layout is the second without the files that say so.
    tar(&["--exclude=layout", "-c", "-z"], &place("layout-1.tar.gz"), &data.path());
    tar(&["-c", "-z"], &place("layout-2.tar.gz"), &data.path());
    let known = json!({
        "organizationToken": token,
        "project": project.id,
        "projectToken": project.token,
        "build": build,
    });
    fs::write(place("data.json"), format!("{known:#}\n")).unwrap();
}

/// The data of a fixture, and what is known of it.
fn unpacked(layout: u32) -> (Arc<Data>, Project, String) {
    need_root();
    let archive = place(&format!("layout-{layout}.tar.gz"));
    assert!(archive.exists(), "{} is missing: see write_the_fixtures", archive.display());
    let known = fs::read_to_string(place("data.json")).unwrap();
    let known: Value = serde_json::from_str(&known).unwrap();
    let text = |key: &str| known[key].as_str().unwrap().to_owned();
    let data = Data::new();
    fs::create_dir(data.path()).unwrap();
    tar(&["-x", "-z", "-p"], &archive, &data.path());
    know_token(&data, &text("organizationToken"));
    (data, Project { id: text("project"), token: text("projectToken") }, text("build"))
}

#[test]
fn a_server_takes_the_data_of_every_layout() {
    for layout in LAYOUTS {
        let (data, project, build) = unpacked(layout);
        let noted = data.path().join("layout");
        assert_eq!(noted.exists(), layout > 1);
        let server = Server::start_in(data, "");
        let builds = server.builds(&project);
        assert_eq!(builds.len(), 1, "{builds:?}");
        assert_eq!(
            (&builds[0]["buildId"], &builds[0]["status"]),
            (&json!(build), &json!("STATUS_SUCCESS"))
        );
        assert_eq!(logs(&server, &project, &build, "RUN"), ["kept"]);
        let image = pull(&server, &project, "stable");
        assert_eq!(image.digest, pull(&server, &project, &build).digest);
        // The builder's store is read too: nothing is built again.
        let context = context();
        let again = server.depot_build(&project, &context).success();
        let step = again.steps().into_iter().find(|step| step.name.contains("RUN")).unwrap();
        assert!(step.cached, "{}", again.stderr);
        assert!(fs::read_to_string(&noted).unwrap().contains("version = 2\n"));
        let data = server.stop();
        let checked = cofferdam("check --data-dir").arg(data.path()).run().success();
        assert!(checked.text().contains("nothing is wrong"), "{}", checked.text());
    }
}
