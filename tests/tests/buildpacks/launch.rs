//! What a built image does when podman runs it: processes, arguments, variables, directories, users.

use cofferdam_tests::buildpacks::{FLOWS, Podman, Workshop};
use cofferdam_tests::{Context, Outcome};

/// Says everything a process can know.
const START: &str = r#"echo "arguments: $*"
echo "directory: $(pwd)"
echo "user: $(id -u):$(id -g)"
echo "greeting: $GREETING; when: $WHEN; kind: $KIND; exec.d: $FROM_EXECD"
tool
"#;

fn ran(podman: &Podman, image: &str, flags: &str, args: &[&str]) -> String {
    podman.run(image, flags, args).success().text()
}

fn built(workshop: &Workshop) -> Vec<(String, Outcome)> {
    workshop.fixture("web");
    let builder = workshop.image("builder", &["web"]);
    let app = Context::new(&[("start.sh", START)]);
    let build = |flow| workshop.build(&app, &builder, flow).run().success();
    FLOWS
        .into_iter()
        .map(|flow| (workshop.reference(&format!("app-{}", flow.name())), build(flow)))
        .collect()
}

#[test]
fn processes_run_as_buildpacks_said() {
    let (workshop, podman) = (Workshop::new(), Podman::new());
    for (image, outcome) in built(&workshop) {
        let said = ran(&podman, &image, "", &[]);
        assert_eq!(
            said,
            "arguments: one two\ndirectory: /workspace\nuser: 1001:1000\n\
             greeting: greetings; when: launch; kind: ; exec.d: yes\nthe tool of the layer\n",
            "{}",
            outcome.stderr
        );
        let said = ran(&podman, &image, "", &["three"]);
        assert!(
            said.starts_with("arguments: three\n"),
            "arguments replace the default ones: {said}"
        );

        let other = "--entrypoint other";
        let said = ran(&podman, &image, other, &[]);
        assert!(said.starts_with("arguments: fixed replaceable\n"), "{said}");
        assert!(said.contains("directory: /workspace/elsewhere\n"), "{said}");
        assert!(said.contains("kind: other;"), "{said}");
        let said = ran(&podman, &image, other, &["given"]);
        assert!(said.starts_with("arguments: fixed given\n"), "{said}");
    }
}

#[test]
fn anything_else_runs_with_the_same_environment() {
    let (workshop, podman) = (Workshop::new(), Podman::new());
    let (image, _) = built(&workshop).remove(0);
    let launcher = "--entrypoint launcher";
    let said = ran(&podman, &image, launcher, &["--", "sh", "-c", "echo $GREETING; tool"]);
    assert_eq!(said, "greetings\nthe tool of the layer\n");
    let said = ran(&podman, &image, "--env GREETING=own", &[]);
    assert!(said.contains("greeting: own;"), "a default gives way to what the user says: {said}");
    let said = ran(&podman, &image, launcher, &["--", "env"]);
    assert!(!said.contains("CNB_"), "variables of the launcher stay with it: {said}");
    // Control: without the launcher there is nothing of the layer.
    let said =
        ran(&podman, &image, "--entrypoint /bin/sh", &["-c", "echo \"<$GREETING>\"; tool || true"]);
    assert!(said.starts_with("<>"), "{said}");
}

#[test]
fn a_process_that_is_not_there_is_a_launch_error() {
    let (workshop, podman) = (Workshop::new(), Podman::new());
    let (image, _) = built(&workshop).remove(0);
    let outcome = podman.run(&image, "--entrypoint launcher", &["--", "no-such-program"]);
    assert_eq!(outcome.code, Some(82), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no-such-program"), "{}", outcome.stderr);
}
