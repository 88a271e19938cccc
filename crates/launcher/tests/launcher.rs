//! The launcher as a program: images made of temporary directories, processes that are real.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

const METADATA: &str = r#"
[[buildpacks]]
id = "acme/first"
version = "1.0.0"
api = "0.12"

[[buildpacks]]
id = "acme/second"
version = "1.0.0"
api = "0.8"

[[processes]]
type = "web"
command = ["printf"]
args = ["<%s>", "default"]
direct = true
buildpack-id = "acme/first"

[[processes]]
type = "show"
command = ["sh", "-c"]
args = ["env; echo pwd=$PWD"]
direct = true
buildpack-id = "acme/first"
working-dir = "sub"

[[processes]]
type = "old"
command = "echo pwd=$(pwd) args=$# $PROFILES"
args = []
direct = false
buildpack-id = "acme/second"
working-dir = "sub"

[[processes]]
type = "test"
command = ["true"]
exec-env = ["test"]
"#;

/// An image: `layers` and `app` below a directory.
struct Image {
    root: TempDir,
    variables: Vec<(String, String)>,
}

impl Image {
    fn new(metadata: &str) -> Self {
        let image = Self { root: tempfile::tempdir().unwrap(), variables: Vec::new() };
        image.file("layers/config/metadata.toml", metadata);
        image.file("app/sub/here", "");
        image.set("CNB_PLATFORM_API", "0.15").set("PATH", "/cnb/process:/usr/bin:/bin")
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn script(&self, path: &str, text: &str) {
        self.file(path, format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, called: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_launcher"))
            .arg0(called)
            .args(args)
            .current_dir("/")
            .env_clear()
            .env("CNB_LAYERS_DIR", self.path("layers"))
            .env("CNB_APP_DIR", self.path("app"))
            .envs(self.variables.iter().cloned())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn prints(&self, called: &str, args: &[&str]) -> String {
        let output = self.run(called, args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, called: &str, args: &[&str], code: i32, message: &str) {
        let output = self.run(called, args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(message), "{errors}");
        let lines: Vec<&str> = errors.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("ERROR: "), "{errors:?}");
        assert!(!lines[0].contains(char::is_control), "{errors:?}");
    }
}

#[test]
fn processes_and_their_arguments() {
    let image = Image::new(METADATA);
    assert_eq!(image.prints("/cnb/process/web", &[]), "<default>");
    assert_eq!(image.prints("web", &["[%s]", "x"]), "[x]");
    assert_eq!(image.prints("/cnb/lifecycle/launcher", &["--", "printf", "%s", "$HOME"]), "$HOME");
    let image = image.set("WHO", "you two");
    assert_eq!(image.prints("launcher", &["echo $WHO | tr a-z A-Z"]), "YOU TWO\n");
    assert_eq!(image.prints("launcher", &["printf", "<%s>", "$WHO", "-n"]), "<you two><-n>");
    image.prints("test-is-no-process", &["true"]);
    let image = Image::new(METADATA).set("CNB_PLATFORM_API", "0.9");
    assert_eq!(image.prints("web", &["x"]), "<default><x>");
}

#[test]
fn exit_codes_and_signals_are_the_process_s() {
    let image = Image::new(METADATA);
    assert_eq!(image.run("launcher", &["--", "sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(image.run("launcher", &["exit 7"]).status.code(), Some(7));
    let killed = image.run("launcher", &["--", "sh", "-c", "kill -9 $$"]).status;
    assert_eq!(killed.code(), None);
}

#[test]
fn the_environment_of_a_process() {
    let image = Image::new(METADATA).set("CNB_PROCESS_TYPE", "").set("KEEP", "k").set("SET", "old");
    let first = "layers/acme_first";
    image.file(&format!("{first}/a/bin/tool"), "");
    image.file(&format!("{first}/a/lib/so"), "");
    image.file(&format!("{first}/a/env/SET"), "new\n");
    image.file(&format!("{first}/a/env/LIST.append"), "1");
    image.file(&format!("{first}/a/env/LIST.delim"), "-");
    image.file(&format!("{first}/b/env.launch/LIST.append"), "2");
    image.file(&format!("{first}/b/env.launch/LIST.delim"), "-");
    image.file(&format!("{first}/b/env.launch/show/LIST.prepend"), "0");
    image.file(&format!("{first}/b/env.launch/web/LIST.prepend"), "no");
    image.file(&format!("{first}/b/env.build/LIST.prepend"), "no");
    image.file(&format!("{first}/b/env/BAD-NAME"), "no");
    image.file(&format!("{first}/b/env/KEEP.default"), "no");
    image.file(&format!("{first}/b/env/dir/x"), "");
    symlink("../../a/env/SET", image.path(&format!("{first}/b/env/LINKED"))).unwrap();
    symlink("nowhere", image.path(&format!("{first}/b/env/DANGLING"))).unwrap();
    image.file("layers/acme_second/c/env/LIST.append", "3");
    image.file("layers/not_in_metadata/d/env/LIST.append", "no");
    let shown = image.prints("show", &[]);
    let layers = image.path(first);
    let layers = layers.display();
    for line in [
        "KEEP=k\n",
        "LINKED=new\n\n",
        "LIST=01-23\n",
        "SET=new\n\n",
        &format!("PATH={layers}/a/bin:/usr/bin:/bin\n"),
        &format!("LD_LIBRARY_PATH={layers}/a/lib\n"),
        &format!("pwd={}\n", image.path("app/sub").display()),
    ] {
        assert!(shown.contains(line), "{line:?} in {shown}");
    }
    for name in ["CNB_", "DANGLING", "BAD", "no"] {
        assert!(!shown.contains(&format!("\n{name}")), "{name} in {shown}");
    }
}

#[test]
fn programs_of_layers_are_found() {
    let image = Image::new(METADATA);
    image.script("layers/acme_first/a/bin/mine", "echo mine $0 in $PWD");
    image.file("layers/acme_first/b/bin/mine", "not executable");
    image.script("app/bin/run", "echo app");
    let app = image.path("app");
    let tool = image.path("layers/acme_first/a/bin/mine");
    let expected = format!("mine {} in {}\n", tool.display(), app.display());
    assert_eq!(image.prints("launcher", &["--", "mine"]), expected);
    assert_eq!(image.prints("launcher", &["--", "./bin/run"]), "app\n");
    image.fails("launcher", &["--", "no\u{1b}such"], 82, "was not found in PATH");
    image.fails("launcher", &["--", "./none"], 82, "start \"./none\"");
    image.fails("launcher", &["--", ""], 82, "was not found in PATH");
}

#[test]
fn exec_d_prints_variables() {
    let image = Image::new(METADATA).set("A", "old");
    let exec_d = "layers/acme_first/x/exec.d";
    image.script(
        &format!("{exec_d}/1"),
        "echo out; read x || true; echo \"A = 'a$x'\" >&3; echo \"D = '$PWD'\" >&3",
    );
    image.script(&format!("{exec_d}/2"), "echo \"B = '$A+'\" >&3; exit 0");
    image.script(&format!("{exec_d}/show/1"), "echo 'A = \"typed\"' >&3");
    image.script(&format!("{exec_d}/web/1"), "exit 1");
    // Nothing of the pipes reaches the process: its descriptors are as without such programs.
    let list = ["--", "ls", "/proc/self/fd"];
    let without = Image::new(METADATA).prints("launcher", &list);
    assert_eq!(image.prints("launcher", &list), format!("out\n{without}"));
    let shown = image.prints("show", &[]);
    assert!(shown.starts_with("out\n"), "{shown}");
    for line in ["A=typed\n", "B=a+\n", &format!("D={}\n", image.path("app").display())] {
        assert!(shown.contains(line), "{line:?} in {shown}");
    }
    image.fails("web", &[], 82, "web/1\" failed: exit status: 1");
}

#[test]
fn exec_d_that_misbehaves_stops_the_launch() {
    for (script, message) in [
        ("exit 3", "exit status: 3"),
        ("kill -9 $$", "signal: 9"),
        ("echo 'A = 1' >&3", "descriptor 3"),
        ("echo 'A' >&3", "descriptor 3"),
        ("printf '\\033[2J' >&3", "descriptor 3"),
        ("echo \"'A=B' = 'c'\" >&3", "cannot be a variable"),
        ("head -c 3000000 /dev/zero >&3", "more than 1048576 bytes"),
    ] {
        let image = Image::new(METADATA);
        image.script("layers/acme_first/x/exec.d/1", script);
        image.fails("web", &[], 82, message);
    }
    let image = Image::new(METADATA);
    image.file("layers/acme_first/x/exec.d/1", "not executable");
    image.fails("web", &[], 82, "exec.d/1");
}

#[test]
fn shells_read_profiles() {
    let image = Image::new(METADATA);
    let layer = "layers/acme_second/x/profile.d";
    image.file(&format!("{layer}/1.sh"), "export PROFILES=1");
    image.file(&format!("{layer}/it's 2.sh"), "export PROFILES=$PROFILES-2");
    image.file(&format!("{layer}/old/3.sh"), "export PROFILES=$PROFILES-3");
    image.file("app/.profile", "export PROFILES=$PROFILES-app");
    let sub = image.path("app/sub");
    let expected = format!("pwd={} args=0 1-2-3-app\n", sub.display());
    assert_eq!(image.prints("old", &[]), expected);
    assert_eq!(image.prints("launcher", &["echo $PROFILES"]), "1-2-app\n");
    assert_eq!(image.prints("launcher", &["--", "sh", "-c", "echo $PROFILES"]), "\n");
}

#[test]
fn what_cannot_be_launched() {
    let image = Image::new(METADATA);
    image.fails("launcher", &[], 82, "no process \"launcher\"");
    image.fails("/cnb/process/none", &[], 82, "no process \"none\"");
    image.fails("test", &[], 82, "not for execution environment \"production\"");
    let image = image.set("CNB_EXEC_ENV", "test");
    image.prints("test", &[]);
    fs::remove_dir_all(image.path("app/sub")).unwrap();
    image.fails("show", &[], 82, "working directory");
    assert_eq!(image.run("old", &[]).status.code(), Some(82));
    fs::remove_dir_all(image.path("app")).unwrap();
    image.fails("web", &[], 82, "the app's directory");
}

#[test]
fn api_versions_have_their_codes() {
    for (api, message) in
        [("", "is not set"), ("0.99", "0.99 is not supported"), ("x\u{1b}", "not of the form")]
    {
        Image::new(METADATA).set("CNB_PLATFORM_API", api).fails("web", &[], 11, message);
    }
    for api in ["0.6", "0.13", "", "\\u001b"] {
        let metadata = format!("[[buildpacks]]\nid = 'a'\nversion = '1'\napi = \"{api}\"\n");
        Image::new(&metadata).fails("web", &[], 12, "buildpack \"a\"");
    }
}

#[test]
fn metadata_that_is_not_metadata() {
    for metadata in [
        "processes = 1".to_owned(),
        "[[processes]]".to_owned(),
        "\u{1b}[2J".to_owned(),
        "[[processes]]\ntype = 'web'\ncommand = 1".to_owned(),
        "[[processes]]\ntype = 'web'\ncommand = []".to_owned(),
        "[[buildpacks]]\nid = '../../etc'\nversion = '1'\napi = '0.12'".to_owned(),
        "x = [".repeat(1000),
        format!("a = {}", "[".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        " ".repeat((1 << 20) + 1),
    ] {
        let image = Image::new(&metadata);
        image.fails("web", &[], 82, "ERROR: launch: ");
    }
    let image = Image::new("");
    image.file("layers/config/metadata.toml", [0xff]);
    image.fails("web", &[], 82, "not UTF-8");
    fs::remove_file(image.path("layers/config/metadata.toml")).unwrap();
    image.fails("web", &[], 82, "metadata.toml");
}

#[test]
fn bytes_that_are_no_text_are_passed_on() {
    let image = Image::new(METADATA);
    let bytes = std::ffi::OsString::from_vec(b"a\xffb".to_vec());
    for (args, expected) in [
        (vec!["--".into(), "printf".into(), bytes.clone()], &b"a\xffb"[..]),
        (vec!["printf".into(), bytes.clone()], b"a\xffb"),
        (vec!["--".into(), "sh".into(), "-c".into(), "printf $RAW".into()], b"a\xffb"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_launcher"))
            .args(args)
            .env("CNB_PLATFORM_API", "0.15")
            .env("CNB_LAYERS_DIR", image.path("layers"))
            .env("CNB_APP_DIR", image.path("app"))
            .env("RAW", &bytes)
            .output()
            .unwrap();
        assert_eq!(output.stdout, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
