//! `cofferdam build` as a program: without a server, its flags, its displays, its exit codes.

use std::process::Command;

use cofferdam_tests::{Build, Builder, Context, Options, leftovers, need_root};
use serde_json::Value;

fn context() -> Context {
    Context::dockerfile("FROM @busybox\nRUN echo hello\nLABEL a=1\n")
}

#[test]
fn without_a_server_it_starts_its_own_and_ends_it() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("state");
    let context = context();
    let build = || Build::new(None, context.path().to_str().unwrap()).arg("--root").arg(&state);
    let running = build().spawn();
    let pid = running.process().pid();
    running.wait_for("RUN echo");
    let tree = leftovers::tree(pid);
    let outcome = running.finish().success();
    assert_eq!(outcome.log("RUN echo"), "hello");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(leftovers::survivors(&tree).is_empty(), "{:?}", leftovers::survivors(&tree));
    assert!(leftovers::mounts(root.path()).is_empty());
    // What it made is kept for the next one.
    let again = build().run().success();
    assert!(again.ran().is_empty(), "{:?}", again.ran());
}

#[test]
fn a_builder_is_found_by_the_environment() {
    let builder = Builder::plain();
    let context = context();
    for name in ["COFFERDAM_BUILDER", "BUILDKIT_HOST"] {
        let build = Build::new(None, context.path().to_str().unwrap()).env(name, builder.address());
        let _ = build.run().success();
    }
    assert!(builder.build(&context).run().success().ran().is_empty());
}

#[test]
fn quiet_prints_the_digest_alone_and_files_hold_it() {
    let builder = Builder::plain();
    let (context, dir) = (context(), tempfile::tempdir().unwrap());
    let (id, metadata) = (dir.path().join("iid"), dir.path().join("metadata.json"));
    let outcome = builder
        .build(&context)
        .args("-q --iidfile")
        .arg(&id)
        .arg("--metadata-file")
        .arg(&metadata)
        .run()
        .success();
    let printed = String::from_utf8(outcome.stdout).unwrap();
    assert!(printed.starts_with("sha256:") && printed.lines().count() == 1, "{printed:?}");
    assert_eq!(outcome.stderr, "");
    assert_eq!(std::fs::read_to_string(id).unwrap().trim(), printed.trim());
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    assert_eq!(
        metadata["containerimage.config.digest"]
            .as_str()
            .or(metadata["containerimage.digest"].as_str())
            .unwrap()
            .len(),
        71
    );
    // Quiet about failures it is not.
    let failing = Context::dockerfile("FROM @busybox\nRUN echo why; exit 9\n");
    let error = builder.build(&failing).args("-q").run().failure();
    assert!(error.contains("exit code: 9") && error.contains("why"), "{error}");
}

#[test]
fn raw_progress_is_one_json_object_a_line() {
    let builder = Builder::plain();
    let outcome = builder.build(&context()).args("--progress=rawjson").run().success();
    let mut vertexes = 0;
    for line in outcome.stderr.lines() {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        vertexes += value["vertexes"].as_array().map_or(0, Vec::len);
    }
    assert!(vertexes > 3, "{}", outcome.stderr);
}

#[test]
fn progress_counts_what_was_cached() {
    let builder = Builder::plain();
    let context = context();
    let first = builder.build(&context).run().success();
    assert!(first.stderr.contains("0 of "), "{}", first.stderr);
    let second = builder.build(&context).run().success();
    assert!(
        !second.stderr.contains("\n0 of ") && second.stderr.contains("cached"),
        "{}",
        second.stderr
    );
}

#[test]
fn an_archive_on_standard_input_is_a_context() {
    let builder = Builder::plain();
    let dir = tempfile::tempdir().unwrap();
    let made =
        Context::new(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "from the archive")]);
    let file = dir.path().join("context.tgz");
    assert!(
        Command::new("tar")
            .arg("-C")
            .arg(made.path())
            .arg("-czf")
            .arg(&file)
            .arg(".")
            .status()
            .unwrap()
            .success()
    );
    let files = Build::new(Some(&builder.address()), "-").stdin(&file).tar();
    assert_eq!(files["f"].text(), "from the archive");
    let files = Build::new(Some(&builder.address()), "-")
        .stdin(&Context::new(&[]).write("text", "FROM scratch\nLABEL x=1\n").join("text"))
        .tar();
    assert!(files.is_empty());
}

#[test]
fn what_it_does_not_understand_ends_with_two() {
    for args in [
        vec!["build", "--no-such-flag"],
        vec!["nonsense"],
        vec!["build", "a", "b"],
        vec!["builder", "--debug=maybe"],
    ] {
        let out = Command::new(cofferdam_tests::program()).args(&args).output().unwrap();
        assert_eq!(
            out.status.code(),
            Some(2),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    let context = context();
    let error = Build::new(Some("ftp://x"), context.path().to_str().unwrap()).run().failure();
    assert!(error.contains("ftp://x"), "{error}");
}

#[test]
fn loading_needs_a_docker_and_says_so() {
    let builder = Builder::plain();
    let context = context();
    let error =
        builder.build(&context).args("--load -t x:1").env("PATH", "/nonexistent").run().failure();
    assert!(error.contains("docker") && error.contains("podman"), "{error}");
}

#[test]
fn the_machine_is_examined() {
    let out = Command::new(cofferdam_tests::program()).arg("doctor").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}");
    for level in ["namespaces", "gvisor"] {
        let verdict = format!("Isolation level \"{level}\" is available.");
        assert!(said.contains(&verdict), "{said}");
    }
    assert!(said.contains("Isolation level \"vm\" is"), "{said}");
    // What is missing is named with what to do.
    let missing: Vec<&str> = said.lines().filter(|line| line.contains("MISSING")).collect();
    let advised = |line: &&str| {
        line.contains("install") || line.contains("tcg") || line.contains("not tried")
    };
    assert!(missing.iter().all(advised), "{missing:?}");
}

/// They begin as copies of the supervisor, whose environment may hold what is not theirs.
#[test]
fn gate_and_builder_have_nothing_of_their_supervisors_environment() {
    need_root();
    let hidden = format!("of-the-supervisor-{}", std::process::id());
    let within = vec!["env".to_owned(), format!("HIDDEN={hidden}")];
    let builder = Builder::start(&Options { within, ..Options::default() });
    let mut modes = Vec::new();
    for pid in leftovers::tree(builder.pid()).into_keys() {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let own = pid == builder.pid();
        assert_eq!(read("environ").contains(&hidden), own, "control, or {}", read("cmdline"));
        assert_eq!(read("cmdline").contains("--root"), own, "{}", read("cmdline"));
        modes.extend(read("cmdline").split('\0').nth(1).map(str::to_owned));
    }
    modes.sort();
    modes.dedup();
    assert_eq!(modes, ["__builder", "__gate", "builder"]);
}
