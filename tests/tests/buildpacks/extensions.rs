//! Image extensions: Dockerfiles that change the images an app is built in and runs on.

use cofferdam_tests::buildpacks::{Podman, Workshop, label, modules, push_base, run_base};
use cofferdam_tests::{Context, Outcome};

const DESCRIPTOR: &str = "api = \"0.12\"\n[extension]\nid = \"test/ext\"\nversion = \"1.0.0\"\n";

/// Detects with what a buildpack requires.
const DETECT: &str = "printf '[[provides]]\\nname = \"tool\"\\n' > \"$CNB_BUILD_PLAN_PATH\"";

/// Builds with an extension that generates these files; gives the workshop too.
fn build(files: &[(&str, &str)]) -> (Workshop, Outcome) {
    let workshop = Workshop::new();
    let generate: String = files
        .iter()
        .map(|(name, text)| format!("cat > \"$CNB_OUTPUT_DIR/{name}\" <<'FILE'\n{text}\nFILE\n"))
        .collect();
    workshop.module("ext", "extension", DESCRIPTOR, &[("detect", DETECT), ("generate", &generate)]);
    let script = r#"cat /etc/added 2>/dev/null || echo nothing was added; id -u; echo "FROM_EXTENSION=$FROM_EXTENSION"
        printf '[[processes]]\ntype = "web"\ncommand = ["sh", "-c", "cat /etc/added /etc/base; id -u"]\ndefault = true\n' > "$CNB_LAYERS_DIR/launch.toml""#;
    workshop.buildpack(
        "user",
        "printf '[[requires]]\\nname = \"tool\"\\n' > \"$CNB_BUILD_PLAN_PATH\"",
        script,
    );
    let text = format!(
        "{}{}[[order]]\n[[order.group]]\nid = \"test/user\"\n[[order-extensions]]\n[[order-extensions.group]]\nid = \"test/ext\"\n",
        modules("buildpacks", &["user"]),
        modules("extensions", &["ext"])
    );
    let _ = workshop.create("builder", &text).success();
    let app = Context::new(&[]);
    let builder = workshop.reference("builder");
    let outcome = workshop.build_as("app", &app, &builder).arg("--trust-builder").run();
    (workshop, outcome)
}

const EXTEND: &str = "ARG base_image\nFROM ${base_image}\nUSER root\nRUN echo added by $(id -u) > /etc/added\nENV FROM_EXTENSION=yes\nARG user_id\nUSER ${user_id}";

#[test]
fn a_build_dockerfile_changes_what_buildpacks_see() {
    let (workshop, outcome) = build(&[("build.Dockerfile", EXTEND)]);
    let outcome = outcome.success();
    let said = outcome.log("[build] test/user@1.0.0");
    assert_eq!(said, "added by 0\n1001\nFROM_EXTENSION=yes");
    assert!(outcome.stderr.contains("Flow: untrusted"), "{}", outcome.stderr);
    assert!(!workshop.pull("app").files().contains_key("etc/added"), "the image that runs stays");
}

#[test]
fn a_run_dockerfile_changes_what_the_app_runs_on() {
    let (workshop, outcome) = build(&[("run.Dockerfile", EXTEND)]);
    let said = outcome.success().log("[build] test/user@1.0.0");
    assert!(said.starts_with("nothing was added"), "{said}");
    let image = workshop.pull("app");
    assert_eq!(image.text("etc/added"), "added by 0\n");
    assert!(image.env().contains(&"FROM_EXTENSION=yes"), "{:?}", image.env());
    let metadata = label(&image, "io.buildpacks.lifecycle.metadata");
    let ids = workshop.registry().pull("cnb/run", "1").config["rootfs"]["diff_ids"].clone();
    assert_eq!(&metadata["runImage"]["topLayer"], ids.as_array().unwrap().last().unwrap());
    assert_eq!(metadata["runImage"]["image"], run_base());
    let said = Podman::new().run(&workshop.reference("app"), "", &[]).success().text();
    assert_eq!(said, "added by 0\n1001\n");
}

/// What the Dockerfile frontend gives to whoever has a session, and must not give to an extension.
#[test]
fn an_extension_has_no_use_of_the_clients_session() {
    let image = push_base("cnb/foreign", &[], "foreign\n");
    for (instruction, refused) in [
        ("RUN --mount=type=secret,id=token cat /run/secrets/token; true".to_owned(), "a secret"),
        ("RUN --mount=type=secret,id=token,env=TOKEN echo $TOKEN".to_owned(), "a secret"),
        ("RUN --mount=type=ssh true".to_owned(), "an SSH agent"),
        ("RUN --mount=type=cache,target=/c,id=shared true".to_owned(), "a cache"),
        (format!("COPY --from={image} /etc/passwd /stolen"), "docker-image://"),
        (
            format!("RUN --mount=type=bind,from={image},target=/m cp /m/etc/passwd /"),
            "docker-image://",
        ),
        ("ADD https://git.invalid/private.git /stolen".to_owned(), "git://"),
    ] {
        for kind in ["build", "run"] {
            let text = format!(
                "ARG base_image\nFROM ${{base_image}}\nUSER root\n{instruction}\nUSER 1001"
            );
            let (workshop, outcome) = build(&[(&format!("{kind}.Dockerfile"), &text)]);
            assert_eq!(outcome.code, Some(92), "{instruction}: {}", outcome.stderr);
            let error = outcome.failure();
            let named = format!("test/ext@1.0.0: {kind}.Dockerfile");
            assert!(error.contains(&named) && error.contains(refused), "{instruction}: {error}");
            assert!(!workshop.has("app"), "{instruction}");
        }
    }
}

/// The same instructions in a user's own Dockerfile: without the wall an extension would get them.
#[test]
fn a_dockerfile_of_the_user_may_use_them() {
    let image = run_base();
    let workshop = Workshop::new();
    let token = workshop.write("token", "planted");
    let text = format!(
        "FROM {image}\nUSER root\nRUN --mount=type=secret,id=token cat /run/secrets/token\n\
         RUN --mount=type=cache,target=/c,id=shared true\nCOPY --from={image} /etc/passwd /stolen\n"
    );
    let app = Context::new(&[("Dockerfile", &text)]);
    let secret = format!("id=token,src={}", token.display());
    let outcome =
        workshop.daemon().build(&app).args("--no-cache --secret").arg(secret).run().success();
    assert!(outcome.stderr.contains("planted"), "{}", outcome.stderr);
}

#[test]
fn a_run_dockerfile_can_name_another_run_image() {
    let other = push_base("cnb/switched", &[], "switched\n");
    let (workshop, outcome) = build(&[("run.Dockerfile", &format!("FROM {other}"))]);
    let _ = outcome.success();
    let image = workshop.pull("app");
    assert_eq!(image.text("etc/base"), "switched\n");
    assert_eq!(
        label(&image, "io.buildpacks.lifecycle.metadata")["runImage"]["image"],
        other.as_str()
    );
}

#[test]
fn arguments_come_from_the_extension() {
    let (workshop, outcome) = build(&[
        (
            "run.Dockerfile",
            "ARG base_image\nFROM ${base_image}\nARG word=none\nUSER root\nRUN echo $word > /etc/added\nUSER 1001",
        ),
        ("extend-config.toml", "[[run.args]]\nname = \"word\"\nvalue = \"given\""),
    ]);
    let _ = outcome.success();
    assert_eq!(workshop.pull("app").text("etc/added"), "given\n");
}

#[test]
fn what_is_not_allowed_is_refused() {
    let mut wrong = Vec::new();
    for (name, text, named) in [
        ("run.Dockerfile", "ARG base_image\nFROM ${base_image}\nUSER root", "root"),
        ("build.Dockerfile", "FROM scratch", "build.Dockerfile"),
        ("build.Dockerfile", "ARG base_image\nFROM ${base_image} AS a\nFROM a", "build.Dockerfile"),
        ("build.Dockerfile", "ARG base_image\nFROM ${base_image}\nRUN exit 3", "exit code: 3"),
        ("extend-config.toml", "[[build.args]]\nname = \"user_id\"\nvalue = \"0\"", "user_id"),
        ("extend-config.toml", "[[build.args]\n", "extend-config.toml"),
    ] {
        let (workshop, outcome) = build(&[(name, text)]);
        let coded = outcome.code.is_some_and(|code| (91..=102).contains(&code));
        let last = outcome.failure().lines().last().unwrap_or_default().to_owned();
        if !coded || !last.contains(named) || !last.contains("test/ext") {
            wrong.push(format!("{name} {text:?}: {last}"));
        }
        assert!(!workshop.has("app"), "{text}");
    }
    assert!(
        wrong.is_empty(),
        "without a code of the specification, or what and who:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn an_extension_that_fails_to_generate() {
    let workshop = Workshop::new();
    workshop.module("ext", "extension", DESCRIPTOR, &[("detect", DETECT), ("generate", "exit 4")]);
    workshop.buildpack(
        "user",
        "printf '[[requires]]\\nname = \"tool\"\\n' > \"$CNB_BUILD_PLAN_PATH\"",
        "true",
    );
    let builder = workshop.image("builder", &["user"]);
    let app = Context::new(&[]);
    let build =
        workshop.build_as("app", &app, &builder).arg("--extension").arg(workshop.path("ext"));
    let outcome = build.run();
    assert_eq!(outcome.code, Some(91), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("test/ext"), "{}", outcome.stderr);
}

#[test]
fn generating_has_neither_network_nor_the_files_of_others() {
    let generate = "ip -o link | grep -vc ': lo:' >&2; for place in /cnb /cnb/buildpacks /platform; do (echo x > $place/planted) 2>/dev/null && echo WROTE $place >&2; done; true";
    let workshop = Workshop::new();
    workshop.module("ext", "extension", DESCRIPTOR, &[("detect", DETECT), ("generate", generate)]);
    workshop.buildpack(
        "user",
        "printf '[[requires]]\\nname = \"tool\"\\n' > \"$CNB_BUILD_PLAN_PATH\"",
        "true",
    );
    let builder = workshop.image("builder", &["user"]);
    let app = Context::new(&[]);
    let build =
        workshop.build_as("app", &app, &builder).arg("--extension").arg(workshop.path("ext"));
    let outcome = build.run().success();
    assert_eq!(outcome.log("[detect] generate test/ext@1.0.0"), "0");
}
