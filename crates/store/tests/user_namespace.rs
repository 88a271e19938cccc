//! The other tests again where a builder really runs: as root of a user namespace of its own,
//! with a range of ids that mean nothing on the host.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Unused by anything else on a test machine.
const HOST_ID: u32 = 1_900_000_000;

/// The test binaries beside this one whose names begin with `name`, newest first.
fn binaries(name: &str) -> Vec<PathBuf> {
    let directory = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let file = path.file_name().unwrap().to_str().unwrap();
            file.strip_prefix(name).is_some_and(|rest| rest.starts_with('-') && !rest.contains('.'))
        })
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().modified().unwrap()));
    found
}

fn run_inside(binary: &Path, temp: &Path, skip: &[&str]) {
    let mut command = Command::new("unshare");
    // The shell keeps its capabilities until the maps are written and it can become root.
    command.args(["--user", "--mount", "--keep-caps", "sh", "-c"]);
    command.arg(r#"read go && exec setpriv --reuid 0 --regid 0 --clear-groups "$@""#);
    command.arg("sh").arg(binary).env("TMPDIR", temp);
    for name in skip {
        command.args(["--skip", name]);
    }
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/user")).unwrap();
    while namespace(&process) == namespace(Path::new("/proc/self")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(process.join(map), format!("0 {HOST_ID} 131072")).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let ran = text.contains("test result: ok") && !text.contains(" 0 passed");
    assert!(ran && output.status.success(), "{}:\n{text}\n{errors}", binary.display());
}

#[test]
fn everything_works_inside_a_user_namespace() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let inside = temp.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::os::unix::fs::chown(&inside, Some(HOST_ID), Some(HOST_ID)).unwrap();
    // A copy that the ids of the namespace can execute wherever the build directory lies.
    for name in ["layers", "directories", "pruning"] {
        // Absent when only this file was built.
        let Some(binary) = binaries(name).into_iter().next() else { continue };
        let copy = inside.join(name);
        std::fs::copy(binary, &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Devices cannot be made there at all.
        run_inside(&copy, &inside, &["device_nodes", "many_layers"]);
    }
}
