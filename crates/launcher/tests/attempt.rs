//! `attempt` as a program.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn attempt(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attempt")).args(args).output().unwrap()
}

/// Exit code that was written, what the program printed, what was said on standard error.
fn written(command: &[&str]) -> (String, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let result = dir.path().join("result");
    let output = attempt(&[&[result.to_str().unwrap()], command].concat());
    assert!(output.status.success(), "{output:?}");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (fs::read_to_string(result).unwrap(), text(output.stdout), text(output.stderr))
}

fn code(command: &[&str]) -> String {
    written(command).0
}

#[test]
fn codes_and_signals() {
    assert_eq!(code(&["true"]), "0");
    assert_eq!(code(&["sh", "-c", "exit 100"]), "100");
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), "137");
    assert_eq!(code(&["sh", "-c", "kill -15 $$"]), "143");
}

#[test]
fn everything_is_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let result = dir.path().join("result");
    let mut child = Command::new(env!("CARGO_BIN_EXE_attempt"))
        .arg(&result)
        .args([
            "sh",
            "-c",
            "read line; echo $line $VALUE $PWD \"$@\"; echo err >&2; exit 3",
            "sh",
            "a b",
            "$x",
        ])
        .env("VALUE", "v")
        .current_dir("/usr")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"in v /usr a b $x\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(fs::read(result).unwrap(), b"3");
}

#[test]
fn programs_that_cannot_be_started() {
    let (code, _, errors) = written(&["/no/such\u{1b}program"]);
    assert_eq!(code, "127");
    assert!(errors.contains("does not exist") && !errors.contains('\u{1b}'), "{errors:?}");
    assert_eq!(written(&["no-such-program"]).0, "127");

    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (code, _, errors) = written(&[&make("plain", "text", 0o644)]);
    assert!(code == "126" && errors.contains("cannot be started"), "{code} {errors}");
    let (code, _, errors) = written(&[&make("script", "#!/no/such/sh\n", 0o755)]);
    assert!(code == "127" && errors.contains("what interprets it"), "{code} {errors}");
    assert_eq!(written(&[dir.path().to_str().unwrap()]).0, "126");
}

#[test]
fn the_result_is_a_plain_file_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("victim"), "untouched").unwrap();
    symlink("victim", path("link")).unwrap();
    fs::create_dir(path("dir")).unwrap();
    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    for name in ["link", "dir", "fifo", "none/result"] {
        let output = attempt(&[&path(name), "true"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stderr.starts_with(b"ERROR: write "), "{name}");
    }
    // A fifo that someone reads is none either.
    let reader = fs::OpenOptions::new().read(true).write(true).open(path("fifo")).unwrap();
    assert_eq!(attempt(&[&path("fifo"), "true"]).status.code(), Some(1));
    drop(reader);
    assert_eq!(fs::read_to_string(path("victim")).unwrap(), "untouched");
    fs::write(path("full"), "old and longer").unwrap();
    assert!(attempt(&[&path("full"), "false"]).status.success());
    assert_eq!(fs::read_to_string(path("full")).unwrap(), "1");
    assert!(attempt(&[&path("new"), "true"]).status.success());
    let mode = fs::metadata(Path::new(&path("new"))).unwrap().permissions().mode();
    assert_eq!(mode & 0o7133, 0);
}

#[test]
fn usage() {
    for args in [&[][..], &["result"]] {
        let output = attempt(args);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stderr.starts_with(b"ERROR: usage: "));
    }
}
