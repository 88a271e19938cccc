//! Flags of a build that change what the image is.

use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop, label, push_base};
use cofferdam_tests::{Context, Image, Outcome};

const BUILD: &str = "io.buildpacks.build.metadata";
const LIFECYCLE: &str = "io.buildpacks.lifecycle.metadata";

struct Setup {
    workshop: Workshop,
    builder: String,
    app: Context,
}

impl Setup {
    fn new() -> Self {
        let workshop = Workshop::new();
        workshop.fixture("web");
        let builder = workshop.image("builder", &["web"]);
        Self { workshop, builder, app: Context::new(&[("start.sh", "echo started\n")]) }
    }

    fn run(&self, flow: Flow, flags: &str) -> Outcome {
        self.workshop.build(&self.app, &self.builder, flow).args(flags).run()
    }

    fn image(&self, flow: Flow, flags: &str) -> Image {
        let _ = self.run(flow, flags).success();
        self.workshop.app(flow)
    }
}

#[test]
fn the_default_process_can_be_another() {
    let setup = Setup::new();
    for flow in FLOWS {
        let image = setup.image(flow, "--default-process other");
        assert_eq!(image.setting("Entrypoint"), &serde_json::json!(["/cnb/process/other"]));
    }
}

#[test]
fn a_default_process_that_is_not_there_is_an_error_of_export() {
    let setup = Setup::new();
    for flow in FLOWS {
        let outcome = setup.run(flow, "--default-process nothing");
        assert_eq!(outcome.code, Some(62), "{}", outcome.stderr);
        for part in ["nothing", "other", "web"] {
            assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
        }
        assert!(!setup.workshop.has(&format!("app-{}", flow.name())));
    }
}

#[test]
fn the_time_of_creation() {
    let setup = Setup::new();
    assert_eq!(
        setup.image(Flow::Trusted, "--creation-time 86400").config["created"],
        "1970-01-02T00:00:00Z"
    );
    let build = setup.workshop.build(&setup.app, &setup.builder, Flow::Trusted);
    let _ = build.env("SOURCE_DATE_EPOCH", "172800").run().success();
    assert_eq!(setup.workshop.app(Flow::Trusted).config["created"], "1970-01-03T00:00:00Z");
    let image = setup.image(Flow::Trusted, "--creation-time now");
    assert!(image.config["created"].as_str().unwrap() > "2024", "{}", image.config["created"]);
    let error = setup.run(Flow::Trusted, "--creation-time tomorrow").failure();
    assert!(error.contains("--creation-time"), "{error}");
}

#[test]
fn every_tag_is_pushed_and_reported() {
    let setup = Setup::new();
    let out = tempfile::tempdir().unwrap();
    let more = setup.workshop.reference("second-name");
    let flags = format!("--tag {more} --report-output-dir {}", out.path().display());
    let image = setup.image(Flow::Untrusted, &flags);
    assert_eq!(setup.workshop.pull("second-name").digest, image.digest);
    let report = std::fs::read_to_string(out.path().join("report.toml")).unwrap();
    for part in [&more, &setup.workshop.reference("app-untrusted"), &image.digest] {
        assert!(report.contains(part.as_str()), "{part}: {report}");
    }
}

#[test]
fn the_workspace_can_be_elsewhere() {
    let setup = Setup::new();
    for flow in FLOWS {
        let image = setup.image(flow, "--workspace /srv/app");
        assert_eq!(image.setting("WorkingDir"), "/srv/app");
        assert_eq!(image.text("srv/app/start.sh"), "echo started\n");
        assert!(image.env().contains(&"CNB_APP_DIR=/srv/app"), "{:?}", image.env());
    }
    let error = setup.run(Flow::Trusted, "--workspace /layers/x").failure();
    assert!(error.contains("workspace"), "{error}");
}

#[test]
fn sboms_are_written_to_a_directory() {
    let setup = Setup::new();
    for flow in FLOWS {
        let out = tempfile::tempdir().unwrap();
        let _ = setup.image(flow, &format!("--sbom-output-dir {}", out.path().display()));
        let path = out.path().join("layers/sbom/launch/test_web/tool/sbom.cdx.json");
        assert!(std::fs::read_to_string(&path).unwrap().contains("CycloneDX"));
    }
}

#[test]
fn another_run_image() {
    let setup = Setup::new();
    let other = push_base("cnb/another-run", &["FROM_RUN=yes"], "another");
    for flow in FLOWS {
        let image = setup.image(flow, &format!("--run-image {other}"));
        assert_eq!(image.text("etc/base"), "another");
        assert!(image.env().contains(&"FROM_RUN=yes"), "{:?}", image.env());
        assert_eq!(label(&image, LIFECYCLE)["runImage"]["image"], other.as_str());
    }
}

#[test]
fn labels_of_the_user() {
    let setup = Setup::new();
    let image = setup.image(Flow::Trusted, "--label org.example.mine=1");
    assert_eq!(image.setting("Labels")["org.example.mine"], "1");
    assert_eq!(label(&image, BUILD)["buildpacks"][0]["id"], "test/web");
}

#[test]
fn the_cache_can_be_an_image() {
    let workshop = Workshop::new();
    let script = r#"cat "$CNB_LAYERS_DIR/c/data" 2>/dev/null || echo nothing
        mkdir -p "$CNB_LAYERS_DIR/c"; echo kept > "$CNB_LAYERS_DIR/c/data"
        printf '[types]\ncache = true\n' > "$CNB_LAYERS_DIR/c.toml""#;
    workshop.buildpack("cacher", "exit 0", script);
    let builder = workshop.image("builder", &["cacher"]);
    for flow in FLOWS {
        let cache = workshop.reference(&format!("cache-{}", flow.name()));
        // Each with a builder daemon that has seen nothing.
        for expected in ["nothing", "kept"] {
            let fresh = Workshop::new();
            let app = Context::new(&[("file", expected)]);
            let build = fresh.build(&app, &builder, flow).arg("--cache-image").arg(&cache);
            let said = build.run().success().log("[build] test/cacher@1.0.0");
            assert_eq!(said, expected, "{flow:?}");
        }
        let image = workshop.pull(&format!("cache-{}", flow.name()));
        let metadata = label(&image, "io.buildpacks.lifecycle.cache.metadata");
        assert_eq!(metadata["buildpacks"][0]["layers"]["c"]["cache"], true, "{metadata}");
    }
}

#[test]
fn a_cache_image_of_the_untrusted_flow_is_nothing_to_the_trusted_one() {
    let workshop = Workshop::new();
    let script = r#"cat "$CNB_LAYERS_DIR/c/data" 2>/dev/null || echo nothing
        mkdir -p "$CNB_LAYERS_DIR/c"; echo of $CNB_EXEC_ENV > "$CNB_LAYERS_DIR/c/data"
        printf '[types]\ncache = true\n' > "$CNB_LAYERS_DIR/c.toml""#;
    workshop.buildpack("cacher", "exit 0", script);
    let builder = workshop.image("builder", &["cacher"]);
    let cache = workshop.reference("shared-cache");
    let app = Context::new(&[]);
    // One image for both, and each build with a daemon that has seen nothing.
    let build = |flow, exec_env: &str| {
        let fresh = Workshop::new();
        let build = fresh.build(&app, &builder, flow).args("--exec-env").arg(exec_env);
        build.arg("--cache-image").arg(&cache).run().success().log("[build] test/cacher@1.0.0")
    };
    assert_eq!(build(Flow::Untrusted, "one"), "nothing");
    assert_eq!(build(Flow::Untrusted, "two"), "of one", "its own flow gets it back");
    assert_eq!(build(Flow::Trusted, "three"), "nothing", "the other does not");
    assert_eq!(build(Flow::Trusted, "four"), "of three");
}

#[test]
fn slices_are_layers_of_their_own() {
    let workshop = Workshop::new();
    let script = r#"cat > "$CNB_LAYERS_DIR/launch.toml" <<'TOML'
[[slices]]
paths = ["static/*", "*.md"]
[[slices]]
paths = ["nothing-like-this"]
TOML"#;
    workshop.buildpack("slicer", "exit 0", script);
    let builder = workshop.image("builder", &["slicer"]);
    let app = Context::new(&[("static/logo", "logo"), ("README.md", "text"), ("main", "program")]);
    for flow in FLOWS {
        let _ = workshop.build(&app, &builder, flow).run().success();
        let image = workshop.app(flow);
        let metadata = label(&image, LIFECYCLE);
        let slices = metadata["app"].as_array().unwrap();
        assert_eq!(slices.len(), 3, "{metadata}");
        let ids = image.config["rootfs"]["diff_ids"].as_array().unwrap();
        let files = |slice: usize| {
            let index = ids.iter().position(|id| *id == slices[slice]["sha"]).unwrap();
            let files = image.layer(index).into_iter().filter(|(_, entry)| entry.kind == 'f');
            files.map(|(path, _)| path).collect::<Vec<_>>()
        };
        assert_eq!(files(0), ["workspace/README.md", "workspace/static/logo"]);
        assert_eq!(files(1), Vec::<String>::new());
        assert_eq!(files(2), ["workspace/main"]);
    }
}

#[test]
fn the_user_that_builds_can_be_another() {
    let workshop = Workshop::new();
    workshop.buildpack("who", "exit 0", "id -u; id -g; mkdir $CNB_LAYERS_DIR/l; printf '[types]\\nlaunch = true\\n' > $CNB_LAYERS_DIR/l.toml");
    let builder = workshop.image("builder", &["who"]);
    for flow in FLOWS {
        let app = Context::new(&[("file", "")]);
        let build = workshop.build(&app, &builder, flow).args("--uid 2000 --gid 2001");
        assert_eq!(build.run().success().log("[build] test/who@1.0.0"), "2000\n2001");
        let files = workshop.app(flow).files();
        for path in ["workspace/file", "layers/test_who/l"] {
            assert_eq!((files[path].uid, files[path].gid), (2000, 2001), "{path}");
        }
    }
}

#[test]
fn modules_may_be_for_one_execution_environment() {
    let workshop = Workshop::new();
    let script = "printf '[[processes]]\\ntype = \"web\"\\ncommand = [\"x\"]\\n' > $CNB_LAYERS_DIR/launch.toml; echo \"for $CNB_EXEC_ENV\"";
    for (name, environment) in [("always", "production\", \"test"), ("tester", "test")] {
        let descriptor = format!(
            "api = \"0.12\"\n[buildpack]\nid = \"test/{name}\"\nversion = \"1.0.0\"\nexec-env = [\"{environment}\"]\n"
        );
        workshop.module(name, "buildpack", &descriptor, &[("detect", "exit 0"), ("build", script)]);
    }
    let builder = workshop.image("builder", &["always", "tester"]);
    for flow in FLOWS {
        for (environment, both) in [("production", false), ("test", true)] {
            let app = Context::new(&[]);
            let build = workshop.build(&app, &builder, flow).arg("--exec-env").arg(environment);
            let outcome = build.run().success();
            assert_eq!(outcome.log("[build] test/always@1.0.0"), format!("for {environment}"));
            assert_eq!(outcome.mentions("[build] test/tester@1.0.0"), both, "{}", outcome.stderr);
        }
    }
}

#[test]
fn flags_of_dockerfiles_are_refused() {
    let setup = Setup::new();
    let error = setup.run(Flow::Trusted, "--target x --build-arg A=1").failure();
    assert!(error.contains("--target") && error.contains("--build-arg"), "{error}");
}
