//! `project.toml`, and variables: what an app says about its own build.

use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop};
use cofferdam_tests::{Build, Context};

/// A buildpack that shows the app and the variables it got.
fn show() -> (Workshop, String) {
    let workshop = Workshop::new();
    let script = "find . -type f | sort | tr '\\n' ' '; echo; env | grep ^SHOWN | sort; cd \"$CNB_PLATFORM_DIR/env\" && grep -r . . | sort";
    workshop.buildpack("show", "exit 0", script);
    let builder = workshop.image("builder", &["show"]);
    (workshop, builder)
}

fn said(build: Build) -> String {
    build.args("--no-cache").run().success().log("[build] test/show@1.0.0")
}

const HEAD: &str = "[_]\nschema-version = \"0.2\"\n";

#[test]
fn excluded_files_are_not_in_the_app() {
    let (workshop, builder) = show();
    let app = Context::new(&[
        ("keep", ""),
        ("a.log", ""),
        ("deep/b.log", ""),
        ("secret/key", ""),
        ("deep/important.log", ""),
    ]);
    app.write(
        "project.toml",
        format!("{HEAD}[io.buildpacks]\nexclude = [\"*.log\", \"/secret/\", \"!important.log\"]\n"),
    );
    for flow in FLOWS {
        let said = said(workshop.build(&app, &builder, flow));
        assert_eq!(
            said.lines().next().unwrap().trim(),
            "./deep/important.log ./keep ./project.toml"
        );
        let files = workshop.app(flow).files();
        assert!(
            files.contains_key("workspace/keep") && !files.contains_key("workspace/secret/key")
        );
    }
}

#[test]
fn only_included_files_are_in_the_app() {
    let (workshop, builder) = show();
    let app = Context::new(&[("keep", ""), ("other", ""), ("src/a", ""), ("src/deep/b", "")]);
    for text in [
        format!("{HEAD}[io.buildpacks]\ninclude = [\"keep\", \"src/\"]\n"),
        "[project]\nid = \"x\"\n[build]\ninclude = [\"keep\", \"src/\"]\n".to_owned(),
    ] {
        app.write("project.toml", text);
        let said = said(workshop.build(&app, &builder, Flow::Trusted));
        assert_eq!(said.lines().next().unwrap().trim(), "./keep ./src/a ./src/deep/b");
    }
}

#[test]
fn variables_of_the_project_give_way_to_those_of_the_command() {
    let (workshop, builder) = show();
    let app = Context::new(&[]);
    app.write(
        "project.toml",
        format!("{HEAD}[[io.buildpacks.build.env]]\nname = \"SHOWN_A\"\nvalue = \"project\"\n[[io.buildpacks.build.env]]\nname = \"SHOWN_B\"\nvalue = \"project\"\n"),
    );
    let file = workshop.write("variables", "# a note\nSHOWN_B=file\nSHOWN_C=file\nSHOWN_D=file\n");
    for flow in FLOWS {
        let build = workshop.build(&app, &builder, flow).arg("--env-file").arg(&file);
        let build =
            build.args("--env SHOWN_C=flag --env SHOWN_E --env SHOWN_F").env("SHOWN_E", "caller");
        let said = said(build);
        for wanted in [
            "SHOWN_A=project",
            "SHOWN_B=file",
            "SHOWN_C=flag",
            "SHOWN_D=file",
            "SHOWN_E=caller",
            "./SHOWN_A:project",
        ] {
            assert!(said.lines().any(|line| line == wanted), "{wanted}: {said}");
        }
        assert!(!said.contains("SHOWN_F"), "{said}");
        let env = workshop.app(flow).env().join(" ");
        assert!(!env.contains("SHOWN"), "variables of the build are not those of the image: {env}");
    }
}

#[test]
fn buildpacks_in_the_app_and_inline_scripts_replace_the_order() {
    let (workshop, builder) = show();
    let app = Context::new(&[
        (
            "bp/buildpack.toml",
            "api = \"0.12\"\n[buildpack]\nid = \"test/local\"\nversion = \"1.0.0\"\n",
        ),
        ("bp/bin/detect", "#!/bin/sh\nexit 0\n"),
        ("bp/bin/build", "#!/bin/sh\necho local ran\n"),
    ]);
    app.mode("bp/bin/detect", 0o755).mode("bp/bin/build", 0o755);
    let script = "[[io.buildpacks.group]]\nid = \"test/script\"\nversion = \"2.0.0\"\n[io.buildpacks.group.script]\napi = \"0.12\"\ninline = \"echo script ran in $(pwd)\"\n";
    app.write("project.toml", format!("{HEAD}[[io.buildpacks.group]]\nuri = \"bp\"\n{script}[[io.buildpacks.group]]\nid = \"test/show\"\n"));
    for flow in FLOWS {
        // What is in the app is not in the builder: both builds are untrusted.
        let outcome = workshop.build(&app, &builder, flow).args("--no-cache").run().success();
        let places = ["local ran", "script ran in /workspace", "SHOWN"]
            .map(|text| outcome.stderr.find(text));
        assert!(places[0].is_some() && places[0] < places[1], "{}", outcome.stderr);
        assert!(outcome.mentions("[build] test/script@2.0.0"), "{}", outcome.stderr);
        assert!(outcome.mentions("[build] test/show@1.0.0"), "{}", outcome.stderr);
    }
}

#[test]
fn before_and_after_the_order() {
    let (workshop, builder) = show();
    let app = Context::new(&[]);
    let inline = |place: &str| {
        format!(
            "[[io.buildpacks.{place}.group]]\nid = \"test/{place}\"\n[io.buildpacks.{place}.group.script]\napi = \"0.12\"\ninline = \"echo {place} ran\"\n"
        )
    };
    app.write("project.toml", format!("{HEAD}{}{}", inline("post"), inline("pre")));
    let outcome = workshop.build(&app, &builder, Flow::Trusted).run().success();
    let at = |text: &str| {
        outcome.stderr.find(text).unwrap_or_else(|| panic!("{text}: {}", outcome.stderr))
    };
    let own = at("[build] test/show@1.0.0");
    assert!(at("pre ran") < own && own < at("post ran"), "{}", outcome.stderr);
}

#[test]
fn the_builder_may_be_the_projects() {
    let (workshop, builder) = show();
    let app = Context::new(&[]);
    app.write("project.toml", format!("{HEAD}[io.buildpacks]\nbuilder = \"{builder}\"\n"));
    let outcome = workshop.daemon().build(&app).run().success();
    assert!(outcome.mentions("[build] test/show@1.0.0"), "{}", outcome.stderr);
}

#[test]
fn another_descriptor_within_the_app_or_without() {
    let (workshop, builder) = show();
    let app = Context::new(&[("keep", ""), ("drop", ""), ("project.toml", "this is [no TOML")]);
    let text = format!("{HEAD}[io.buildpacks]\nexclude = [\"drop\"]\n");
    app.write("ci/other.toml", &text);
    let outside = workshop.write("outside.toml", &text);
    for path in [app.join("ci/other.toml"), outside] {
        let build = workshop.build(&app, &builder, Flow::Trusted).arg("--descriptor").arg(path);
        let said = said(build);
        assert_eq!(said.lines().next().unwrap().trim(), "./ci/other.toml ./keep ./project.toml");
    }
}

#[test]
fn mistakes_name_the_file_and_the_key() {
    let (workshop, builder) = show();
    for (text, named) in [
        ("this is [no TOML".to_owned(), "line 1"),
        (format!("{HEAD}[io.buildpacks]\nexclude = [\"a\"]\ninclude = [\"b\"]\n"), "include"),
        (format!("{HEAD}[[io.buildpacks.group]]\nversion = \"1\"\n"), "id"),
        (format!("{HEAD}[[io.buildpacks.group]]\nuri = \"x\"\nversion = \"1\"\n"), "version"),
        (
            format!(
                "{HEAD}[[io.buildpacks.group]]\nid = \"a\"\n[io.buildpacks.group.script]\ninline = \"x\"\n"
            ),
            "script",
        ),
        ("[_]\nschema-version = \"9.9\"\n".to_owned(), "9.9"),
    ] {
        let app = Context::new(&[("project.toml", &text)]);
        let error = workshop.build(&app, &builder, Flow::Trusted).run().failure();
        assert!(error.contains("project.toml") && error.contains(named), "{text}: {error}");
        assert!(!workshop.has("app-trusted"));
    }
}
