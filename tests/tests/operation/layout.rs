//! Versions of directories: older ones are brought along, newer ones refused by name.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cofferdam_tests::{Context, Data, Server, program};

use crate::cofferdam;

const NEWER: &str = "version = 99\nprogram = \"cofferdam 99.1\"\n";

fn version(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join("layout")).unwrap();
    text.lines().find(|line| line.starts_with("version")).unwrap().to_owned()
}

/// What the program says that cannot start.
fn refused(arguments: &[&str], directory: &Path) -> String {
    let mut command = Command::new(program());
    let output = command.args(arguments).arg(directory).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn newer_directories_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("layout"), NEWER).unwrap();
    let socket = format!("unix://{}/sock", place.path().display());
    for arguments in [
        &["server", "--listen", "127.0.0.1:0", "--data-dir"][..],
        &["builder", "--addr", &socket, "--root"],
        &["organization", "create", "further", "--data-dir"],
        &["check", "--data-dir"],
        &["backup", "create", "/nowhere/backup", "--data-dir"],
    ] {
        let said = refused(arguments, place.path());
        for part in ["layout 99", "cofferdam 99.1", "use the newer program"] {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
    }
    assert_eq!(fs::read_to_string(place.path().join("layout")).unwrap(), NEWER);
    assert!(!place.path().join("records.db").exists() && !place.path().join("store").exists());
}

#[test]
fn directories_of_before_there_was_a_version_are_brought_along() {
    let server = Server::start();
    let project = server.project("older");
    let context = Context::dockerfile("FROM @busybox\nRUN echo once\n");
    let _ = server.depot_build(&project, &context).success();
    let data = server.stop();
    let root = data.path().join("projects").join(&project.id).join("builder");
    let now = (version(&data.path()), version(&root));
    for directory in [data.path(), root.clone()] {
        fs::remove_file(directory.join("layout")).unwrap();
    }
    let server = Server::start_in(data, "");
    let again = server.depot_build(&project, &context).success();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    assert_eq!(server.builds(&project).len(), 2);
    assert_eq!((version(&server.data().path()), version(&root)), now);
}

#[test]
fn half_a_restore_is_nobodys_data() {
    let data = Data::new();
    fs::create_dir(data.path()).unwrap();
    fs::write(data.path().join("layout"), "version = 0\nprogram = \"cofferdam\"\n").unwrap();
    let said = refused(&["server", "--listen", "127.0.0.1:0", "--data-dir"], &data.path());
    assert!(said.contains("restore"), "{said}");
    let said = cofferdam("check --data-dir").arg(data.path()).run().failure();
    assert!(said.contains("restore"), "{said}");
}
