//! Files of buildpacks that are not what they should be: nothing is exported, and the error names the file and the key.

use cofferdam_tests::Context;
use cofferdam_tests::buildpacks::{FLOWS, Workshop};

/// Builds with a buildpack whose `bin/build` writes `content` into `file` of its layers directory.
fn refused(file: &str, content: &str, named: &[&str]) {
    let workshop = Workshop::new();
    let script = format!(
        "mkdir -p $CNB_LAYERS_DIR/l\ncat > \"$CNB_LAYERS_DIR/{file}\" <<'TOML'\n{content}\nTOML"
    );
    workshop.buildpack("bad", "exit 0", &script);
    let builder = workshop.image("builder", &["bad"]);
    for flow in FLOWS {
        let outcome = workshop.build(&Context::new(&[]), &builder, flow).run();
        assert!(
            outcome.code.is_some_and(|code| (51..=62).contains(&code)),
            "{file} {content}: {}",
            outcome.stderr
        );
        let error = outcome.failure();
        for part in named.iter().chain(&["test/bad@1.0.0", file]) {
            assert!(error.contains(part), "{file}: {content}: no {part:?} in\n{error}");
        }
        assert!(!workshop.has(&format!("app-{}", flow.name())), "{file}: {content}: pushed");
    }
}

#[test]
fn launch_toml() {
    refused("launch.toml", "[[processes", &["line 1"]);
    refused("launch.toml", "[[processes]]\ntype = \"web\"\ncommand = \"text\"", &["command"]);
    refused("launch.toml", "[[processes]]\ntype = \"a/b\"\ncommand = [\"x\"]", &["type", "a/b"]);
    refused(
        "launch.toml",
        "[[processes]]\ntype = \"a\"\ncommand = [\"x\"]\ndefault = true\n[[processes]]\ntype = \"b\"\ncommand = [\"x\"]\ndefault = true",
        &["default"],
    );
    refused(
        "launch.toml",
        "[[processes]]\ntype = \"a\"\ncommand = [\"x\"]\ndirect = true",
        &["direct"],
    );
}

#[test]
fn layer_toml() {
    refused("l.toml", "[types\n", &["line 1"]);
    refused("l.toml", "launch = true", &["launch"]);
    refused("l.toml", "[types]\nlaunch = \"yes\"", &["launch"]);
}

#[test]
fn build_toml() {
    refused("build.toml", "[[unmet]", &["line 1"]);
    refused("build.toml", "[[unmet]]\nname = \"stranger\"", &["unmet", "stranger"]);
}

#[test]
fn store_toml() {
    refused("store.toml", "metadata = 1", &["metadata"]);
}

#[test]
fn slices() {
    refused("launch.toml", "[[slices]]\npaths = [\"[\"]", &["slices", "paths"]);
}

#[test]
fn an_sbom_of_a_kind_that_was_not_announced() {
    refused("l.sbom.spdx.json", "{}", &["sbom-formats"]);
}

#[test]
fn text_of_another_encoding_and_of_any_length() {
    let workshop = Workshop::new();
    workshop.buildpack("bytes", "exit 0", r#"printf '\377\376' > "$CNB_LAYERS_DIR/launch.toml""#);
    workshop.buildpack(
        "long",
        "exit 0",
        r#"yes '# a' | head -c 9000000 > "$CNB_LAYERS_DIR/launch.toml""#,
    );
    for (name, said) in [("bytes", "UTF-8"), ("long", "larger than")] {
        let builder = workshop.image(&format!("builder-{name}"), &[name]);
        for flow in FLOWS {
            let outcome = workshop.build(&Context::new(&[]), &builder, flow).run();
            let error = outcome.failure();
            assert!(error.contains(said) && error.contains("launch.toml"), "{error}");
            assert!(!workshop.has(&format!("app-{}", flow.name())));
        }
    }
}

#[test]
fn the_plan_of_detection() {
    for content in [
        "[[provides",
        "provides = 1",
        "[[provides]]\nname = 1",
        "[[requires]]\nname = \"x\"\nversion = \"1\"",
    ] {
        let workshop = Workshop::new();
        let script = format!("cat > \"$CNB_BUILD_PLAN_PATH\" <<'TOML'\n{content}\nTOML");
        workshop.buildpack("bad", &script, "exit 0");
        let builder = workshop.image("builder", &["bad"]);
        for flow in FLOWS {
            let outcome = workshop.build(&Context::new(&[]), &builder, flow).run();
            assert_eq!(outcome.code, Some(21), "{content}: {}", outcome.stderr);
            assert!(outcome.stderr.contains("plan"), "{content}: {}", outcome.stderr);
            assert!(!workshop.has(&format!("app-{}", flow.name())));
        }
    }
}

#[test]
fn an_api_that_nobody_knows() {
    let workshop = Workshop::new();
    let descriptor = "api = \"0.99\"\n[buildpack]\nid = \"test/new\"\nversion = \"1.0.0\"\n";
    let directory = workshop.module(
        "new",
        "buildpack",
        descriptor,
        &[("detect", "exit 0"), ("build", "exit 0")],
    );
    let outcome = workshop.create(
        "builder",
        "[[buildpacks]]\nuri = \"new\"\n[[order]]\n[[order.group]]\nid = \"test/new\"\n",
    );
    assert_eq!(outcome.code, Some(12), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("0.99"), "{}", outcome.stderr);
    assert!(!workshop.has("builder"));

    workshop.buildpack("old", "exit 0", "exit 0");
    let builder = workshop.image("builder", &["old"]);
    let app = Context::new(&[]);
    for flow in FLOWS {
        let build = workshop.build(&app, &builder, flow);
        let outcome = build.arg("--buildpack").arg(&directory).run();
        assert_eq!(outcome.code, Some(12), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("0.99"), "{}", outcome.stderr);
    }
}

#[test]
fn descriptors() {
    for (descriptor, named) in [
        ("api = 1", "api"),
        ("api = \"0.12\"\n[buildpack]\nversion = \"1.0.0\"\n", "id"),
        ("api = \"0.12\"\n[buildpack]\nid = \"../up\"\nversion = \"1.0.0\"\n", "id"),
        ("api = \"0.12\"\n[buildpack]\nid = \"app\"\nversion = \"1.0.0\"\n", "app"),
        ("api = \"0.12\"\n[buildpack]\nid = \"a\"\nversion = \"../../1\"\n", "version"),
        ("[[", "buildpack.toml"),
    ] {
        let workshop = Workshop::new();
        workshop.buildpack("good", "exit 0", "exit 0");
        let builder = workshop.image("builder", &["good"]);
        let directory = workshop.module("bad", "buildpack", descriptor, &[]);
        let app = Context::new(&[]);
        let build = workshop.build(&app, &builder, FLOWS[0]);
        let error = build.arg("--buildpack").arg(&directory).run().failure();
        assert!(error.contains("buildpack.toml") && error.contains(named), "{descriptor}: {error}");
    }
}
