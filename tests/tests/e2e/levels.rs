//! The level of isolation that a build demands of its builder.

use std::process::Command;

use cofferdam_tests::{Build, Builder, Context, Options, Outcome, need_root, program};

/// What the kernel of a step says it is.
fn kernel() -> Context {
    Context::dockerfile("FROM @busybox\nRUN cat /proc/version\n")
}

fn is_of_this_machine(outcome: &Outcome) -> bool {
    outcome.log("RUN ").trim() == std::fs::read_to_string("/proc/version").unwrap().trim()
}

#[test]
fn a_weaker_builder_is_refused() {
    let builder = Builder::plain();
    let context = kernel();
    let with = |level: &str| builder.build(&context).args("--isolation").arg(level).run();
    assert!(is_of_this_machine(&with("namespaces").success()));
    for level in ["gvisor", "vm"] {
        let said = with(level).failure();
        assert!(said.contains("isolates builds by namespaces"), "{said}");
        assert!(said.contains(&format!("--isolation {level}")), "{said}");
        assert!(!said.contains("RUN"), "nothing was sent to it: {said}");
    }
}

#[test]
fn a_stronger_builder_is_enough() {
    need_root();
    let args = vec!["--isolation".to_owned(), "gvisor".to_owned()];
    let builder = Builder::start(&Options { args, ..Options::default() });
    let context = kernel();
    for level in ["namespaces", "gvisor"] {
        let outcome = builder.build(&context).args("--isolation").arg(level).run().success();
        assert!(!is_of_this_machine(&outcome));
    }
    let said = builder.build(&context).args("--isolation vm").run().failure();
    assert!(said.contains("isolates builds by gvisor"), "{said}");
}

#[test]
fn a_builder_of_ones_own_has_the_level_and_a_store_for_it() {
    need_root();
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .unwrap();
    let root = home.path().join("builder");
    let context = kernel();
    let host = cofferdam_tests::images::busybox();
    let host = host.split('/').next().unwrap();
    let run = |level: &str| {
        let build = Build::new(None, context.path().to_str().unwrap()).arg("--root").arg(&root);
        let build = build.arg("--allow-registry").arg(host);
        build.args("--isolation").arg(level).run().success()
    };
    assert!(is_of_this_machine(&run("namespaces")), "control");
    assert!(!is_of_this_machine(&run("gvisor")));
    assert!(root.join("store").exists() && home.path().join("builder-gvisor/store").exists());
}

#[test]
fn a_level_that_the_machine_lacks_starts_nothing() {
    need_root();
    let home = tempfile::tempdir().unwrap();
    let context = kernel();
    // In a mount namespace of its own there is no runsc.
    let script = "for path in /usr/bin/runsc /usr/local/bin/runsc; do [ ! -e $path ] || mount --bind /dev/null $path; done; exec \"$@\"";
    let build = |level: &str| {
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(program())
            .args(["build", "--isolation", level, "--root"])
            .arg(home.path().join("builder"))
            .arg(context.path())
            .env_remove("COFFERDAM_BUILDER")
            .env_remove("BUILDKIT_HOST")
            .output()
            .unwrap()
    };
    let output = build("gvisor");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("runsc"), "{said}");
    assert!(!said.contains("RUN"), "{said}");
    let output = build("strong");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("namespaces, gvisor or vm"), "{said}");
}
