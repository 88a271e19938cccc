//! SIGTERM in every phase of a builder's and a server's life: each ends in good order with exit code 0 (`docs/cli.md`), leaves no
//! process, group, mount or socket, tells its clients, and the next one on the same directory goes on.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cofferdam_tests::marks::{appears, mark};
use cofferdam_tests::wire::{Fault, Wire};
use cofferdam_tests::{
    Builder, Context, Data, Home, Options, Process, Registry, RunningBuild, Server, images,
    leftovers, need_root, program,
};
use rustix::process::Signal;
use serde_json::json;

use crate::shared::{eventually, intact, noise};

/// How long whoever is told to stop may take: a builder that does not is killed after 20 seconds.
const PATIENCE: Duration = Duration::from_secs(25);

/// Ends the builder of a build in the middle of something and starts the next one, which has to work. The client is told in one
/// line.
fn stopped(builder: Builder, build: RunningBuild, release: impl FnOnce()) -> Arc<Home> {
    let home = builder.stop();
    release();
    // A client that was held goes on, and finds out.
    build.process().signal(Signal::CONT);
    let stderr = build.finish().failure();
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("cofferdam: ")).collect();
    assert_eq!(errors.len(), 1, "one error line:\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let builder = Builder::start_in(home, &Options::default());
    assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
    intact(builder)
}

#[test]
fn a_builder_that_does_nothing_ends() {
    need_root();
    let home = intact(Builder::plain());
    drop(intact(Builder::start_in(home, &Options::default())));
}

#[test]
fn a_builder_that_pulls_ends() {
    need_root();
    let _ = images::busybox();
    let wire = Wire::to(images::registry().address(), |_| Fault::HoldAnswers(200_000));
    let builder = Builder::plain();
    let text = format!("FROM {}\nRUN true\n", wire.reference("busybox:latest"));
    let context = Context::dockerfile(&text);
    let build = builder.build(&context).spawn();
    wire.wait_until_held();
    drop(stopped(builder, build, || {}));
}

#[test]
fn a_builder_that_receives_a_context_ends() {
    need_root();
    let builder = Builder::plain();
    let context = Context::new(&[("Dockerfile", "FROM scratch\nCOPY large /large\n")]);
    // Takes no space here, and seconds to send.
    let large = File::create(context.join("large")).unwrap();
    large.set_len(1 << 30).unwrap();
    let build = builder.build(&context).spawn();
    build.wait_for("load build context");
    // A part of it is there, and the rest does not come.
    let mirrors = builder.root().join("store/mutable");
    let received = || {
        let mut found = Vec::new();
        for mirror in std::fs::read_dir(&mirrors).into_iter().flatten().flatten() {
            found.extend(
                std::fs::read_dir(mirror.path().join("fs")).into_iter().flatten().flatten(),
            );
        }
        found.iter().any(|entry| entry.metadata().is_ok_and(|file| file.len() > 1 << 20))
    };
    let ended = || build.process().wait(Duration::ZERO).is_some();
    eventually("a part of the context", || received() || ended());
    build.process().signal(Signal::STOP);
    drop(stopped(builder, build, || {}));
}

#[test]
fn a_builder_that_runs_a_step_ends() {
    need_root();
    let builder = Builder::plain();
    let mark = mark(101);
    let context =
        Context::dockerfile(&format!("FROM @busybox\nRUN trap '' TERM INT; sleep {mark}\n"));
    let build = builder.build(&context).spawn();
    appears(&mark);
    drop(stopped(builder, build, || {}));
    assert!(leftovers::marked(&mark).is_empty());
}

#[test]
fn a_builder_that_exports_ends() {
    need_root();
    let builder = Builder::plain();
    let context = Context::new(&[("Dockerfile", "FROM scratch\nCOPY large /large\n")]);
    context.write("large", noise(600, 32 << 20));
    let out = tempfile::tempdir().unwrap();
    let pipe = out.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Somebody who opens the pipe and reads nothing; without O_NONBLOCK this would wait for the writer.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let reader = File::options().read(true).custom_flags(flags).open(&pipe).unwrap();
    let output = format!("type=oci,dest={}", pipe.display());
    let build = builder.build(&context).arg("--output").arg(output).spawn();
    build.wait_for("sending tarball");
    // The pipe is full, and the writer waits.
    let waiting = || rustix::io::ioctl_fionread(&reader).unwrap() >= 60 << 10;
    eventually("a full pipe", waiting);
    drop(stopped(builder, build, || drop(reader)));
}

#[test]
fn a_builder_that_pushes_ends() {
    need_root();
    let builder = Builder::plain();
    let registry = Registry::start();
    let wire = Wire::to(registry.address(), |_| Fault::HoldQuestions(200_000));
    let context = Context::new(&[("Dockerfile", "FROM scratch\nCOPY large /large\n")]);
    context.write("large", noise(610, 8 << 20));
    let output = format!("type=image,name={},push=true", wire.reference("large:1"));
    let build = builder.build(&context).arg("--output").arg(output).spawn();
    wire.wait_until_held();
    drop(stopped(builder, build, || {}));
    assert!(registry.manifest("large", "1").is_none(), "a name without its layers");
}

/// The arguments of a builder.
fn builder_in(root: &std::path::Path, socket: &std::path::Path) -> Command {
    let mut command = Command::new(program());
    command
        .args(["builder", "--addr", &format!("unix://{}", socket.display()), "--root"])
        .arg(root)
        .args(["--config", "/dev/null"])
        .stdin(Stdio::null());
    command
}

#[test]
fn a_builder_that_starts_ends() {
    need_root();
    let options = Options::default();
    let home = Home::new(&options);
    let root = home.root();
    let socket = root.parent().unwrap().join("run/early.sock");
    // From before its first instruction to when it serves: in each case it ends, and nothing of it is left.
    let mut ended_well = 0;
    for milliseconds in [0, 5, 10, 20, 40, 80, 120, 160, 240, 320, 480, 640, 1000] {
        let process = Process::start({
            let mut command = builder_in(&root, &socket);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        });
        let pid = process.pid();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let tree = leftovers::tree(pid);
        process.signal(Signal::TERM);
        let status = process.wait(PATIENCE);
        let status = status.unwrap_or_else(|| panic!("it does not end after {milliseconds} ms"));
        // Before it can catch a signal, the signal ends it.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let killed = by_signal == Some(Signal::TERM.as_raw());
        assert!(status.success() || killed, "{milliseconds} ms: {status}");
        ended_well += usize::from(status.success());
        eventually("the end of its processes", || leftovers::survivors(&tree).is_empty());
        assert_eq!(leftovers::mounts(&root), [] as [String; 0], "{milliseconds} ms");
        eventually("the end of its groups", || leftovers::groups(pid).is_empty());
        assert!(killed || !socket.exists(), "{milliseconds} ms: its socket is left");
    }
    assert!(ended_well > 0, "control: it never came so far as to end by itself");
    let builder = Builder::start_in(home, &options);
    assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
    drop(intact(builder));
}

#[test]
fn a_root_directory_has_one_builder() {
    need_root();
    let builder = Builder::plain();
    let root = builder.root();
    let socket = root.parent().unwrap().join("run/second.sock");
    let second = builder_in(&root, &socket).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("belongs to a builder that runs"), "{said}");
    assert!(said.contains(root.to_str().unwrap()), "{said}");
    assert!(!socket.exists());
    assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
    drop(intact(builder));
}

/// What became of a build in the records of the next server.
fn recorded(data: Arc<Data>, token: &str, build: &str) -> String {
    let server = Server::start_in(data, "");
    let method = "depot.core.v1.BuildService/GetBuild";
    let answer = server.call_as(token, method, &json!({ "buildId": build })).ok();
    answer["build"]["status"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_whose_builds_pull_and_push_tells_them_and_ends() {
    need_root();
    let _ = images::busybox();
    let registry = Registry::start();
    let pulling = Wire::to(images::registry().address(), |_| Fault::HoldAnswers(200_000));
    let pushing = Wire::to(registry.address(), |_| Fault::HoldQuestions(200_000));
    let data = Data::new();
    for (wire, pulls) in [(&pulling, true), (&pushing, false)] {
        let server = Server::start_in(Arc::clone(&data), "drain_seconds = 1\n");
        let token = server.token().to_owned();
        let project = server.project("stopped");
        let context = Context::new(&[("Dockerfile", "FROM scratch\nCOPY large /large\n")]);
        context.write("large", noise(620, 4 << 20));
        let mut build = server.build(&project, &context);
        if pulls {
            let text = format!("FROM {}\nRUN true\n", wire.reference("busybox:latest"));
            context.write("Dockerfile", text);
        } else {
            let output = format!("type=image,name={},push=true", wire.reference("large:1"));
            build = build.arg("--output").arg(output);
        }
        let build = build.spawn();
        wire.wait_until_held();
        let id = server.newest_id(&project);
        let data = server.stop();
        let stderr = build.finish().failure();
        let said = stderr.to_lowercase();
        assert!(said.contains("the server is stopping") || said.contains("cancel"), "{stderr}");
        assert_eq!(recorded(data, &token, &id), "STATUS_CANCELED");
    }
}

#[test]
fn a_server_that_starts_or_does_nothing_ends() {
    need_root();
    let data = Data::new();
    let mut ended_well = 0;
    for milliseconds in [0, 5, 10, 20, 40, 80, 160, 320, 640, 1000] {
        let mut command = Command::new(program());
        command.args(["server", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(command);
        std::thread::sleep(Duration::from_millis(milliseconds));
        process.signal(Signal::TERM);
        let status = process.wait(PATIENCE);
        let status = status.unwrap_or_else(|| panic!("it does not end after {milliseconds} ms"));
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let killed = by_signal == Some(Signal::TERM.as_raw());
        assert!(status.success() || killed, "{milliseconds} ms: {status}");
        ended_well += usize::from(status.success());
    }
    assert!(ended_well > 0, "control: it never came so far as to end by itself");
    // What was made in part is completed by a start that is left alone. Nobody saw the first token, so there is a further one.
    let server = Server::start_in(Arc::clone(&data), "");
    let mut create = Command::new(program());
    create.args(["organization", "create", "late", "--data-dir"]).arg(data.path());
    let printed = create.stdin(Stdio::null()).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let printed = String::from_utf8(printed.stdout).unwrap();
    let token = printed.split_whitespace().find(|word| word.starts_with("cfd_org_")).unwrap();
    let method = "depot.core.v1.ProjectService/CreateProject";
    let project = json!({ "name": "late", "regionId": "us-east-1" });
    let _ = server.call_as(token, method, &project).ok();
    // Idle, and told.
    drop(server.stop());
}
