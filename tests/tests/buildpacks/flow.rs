//! Which flow a build takes, and why it says so: one test for each row of the decision.
//!
//! A builder is known by name only in ways that are compiled in, so that here trust comes from entries and flags.

use std::path::PathBuf;

use cofferdam_tests::buildpacks::{Workshop, modules};
use cofferdam_tests::{Build, Context, Outcome};
use tempfile::TempDir;

const WARNING: &str = "Builder is trusted but additional modules were added; using the untrusted (5 phases) build flow";
const TRUSTED: &str = "Flow: trusted (prepare, build, export): ";
const UNTRUSTED: &str = "Flow: untrusted (analyze, detect, restore, build, export): ";

struct Setup {
    workshop: Workshop,
    builder: String,
    app: Context,
    configuration: TempDir,
}

impl Setup {
    fn new() -> Self {
        let workshop = Workshop::new();
        workshop.buildpack("own", "exit 0", "exit 0");
        workshop.buildpack("spare", "exit 0", "exit 0");
        let builder = workshop.image_with_order("builder", &["own", "spare"], &["\"test/own\""]);
        workshop.buildpack("added", "exit 0", "exit 0");
        let app = Context::new(&[("file", "")]);
        Self { workshop, builder, app, configuration: tempfile::tempdir().unwrap() }
    }

    /// `cofferdam trust` with these words, of the user whose builds these are.
    fn trust(&self, words: &str) {
        let command = self.workshop.plain_command(&format!("trust {words}"));
        let _ = command.env("XDG_CONFIG_HOME", self.configuration.path()).success();
    }

    fn build(&self) -> Build {
        let build = self.workshop.build_as("app", &self.app, &self.builder);
        build.env("XDG_CONFIG_HOME", self.configuration.path())
    }

    fn trusting(&self) -> Build {
        self.build().arg("--trust-builder")
    }

    fn added(&self) -> PathBuf {
        self.workshop.path("added")
    }

    /// The reference of the builder without its tag.
    fn repository(&self) -> &str {
        self.builder.rsplit_once(':').unwrap().0
    }
}

/// The line that a build ends with says this, and so does the step at its beginning.
fn says(outcome: &Outcome, line: &str) {
    let outcome = outcome.clone().success();
    let found = outcome.stderr.lines().find(|line| line.starts_with("Flow: "));
    let found = found.unwrap_or_else(|| panic!("no flow:\n{}", outcome.stderr));
    assert!(found.starts_with(line), "{found}");
    let step = outcome.step("[flow] ").name;
    assert_eq!(step.strip_prefix("[flow] "), found.strip_prefix("Flow: "));
}

fn is_trusted(build: Build, why: &str) -> Outcome {
    let outcome = build.run();
    says(&outcome, &format!("{TRUSTED}{why}"));
    assert!(!outcome.stderr.contains(WARNING), "{}", outcome.stderr);
    assert!(!outcome.mentions("[detect] "), "{}", outcome.stderr);
    outcome
}

fn is_untrusted(build: Build, why: &str) -> Outcome {
    let outcome = build.run();
    says(&outcome, &format!("{UNTRUSTED}{why}"));
    assert!(!outcome.mentions("[prepare] "), "{}", outcome.stderr);
    outcome
}

/// An untrusted flow of a trusted builder: there is a warning.
fn is_downgraded(build: Build, why: &str) {
    let outcome = is_untrusted(build, why);
    assert!(outcome.stderr.contains(WARNING), "{}", outcome.stderr);
}

#[test]
fn a_builder_that_nobody_trusts() {
    let setup = Setup::new();
    let outcome = is_untrusted(setup.build(), "the builder is neither known nor trusted");
    assert!(!outcome.stderr.contains(WARNING), "{}", outcome.stderr);
    let build = setup.build().arg("--trust-extra-buildpacks");
    let _ = is_untrusted(build, "the builder is neither known nor trusted");
}

#[test]
fn a_builder_that_is_trusted_for_once() {
    let setup = Setup::new();
    let why = "the builder is trusted by --trust-builder and only its own modules take part";
    let _ = is_trusted(setup.trusting(), why);
    let _ = is_untrusted(setup.build(), "the builder is neither");
}

#[test]
fn an_entry_names_a_repository_a_tag_or_a_digest() {
    let setup = Setup::new();
    let digest = setup.workshop.pull("builder").manifest_digest;
    let other = format!("{}@sha256:{}", setup.repository(), "0".repeat(64));
    let mismatched = [
        format!("{}:2", setup.repository()),
        other,
        // pack would look at the repository alone.
        setup.repository().replace("127.0.0.1", "registry.example"),
        format!("{}-2", setup.repository()),
    ];
    for entry in mismatched {
        setup.trust(&format!("add builder {entry}"));
        let _ = is_untrusted(setup.build(), "the builder is neither known nor trusted by an entry");
    }
    for entry in [
        setup.repository().to_owned(),
        setup.builder.clone(),
        format!("{}@{digest}", setup.repository()),
    ] {
        setup.trust(&format!("add builder {entry}"));
        let _ =
            is_trusted(setup.build(), &format!("the builder is trusted by the entry {entry} and"));
        setup.trust(&format!("remove {entry}"));
        let _ = is_untrusted(setup.build(), "the builder is neither known");
    }
}

#[test]
fn a_name_with_a_digest_has_no_tag() {
    let mut setup = Setup::new();
    setup.trust(&format!("add builder {}", setup.builder));
    let digest = setup.workshop.pull("builder").manifest_digest;
    setup.builder = format!("{}@{digest}", setup.builder);
    let _ = is_untrusted(setup.build(), "the builder is neither known nor trusted by an entry");
}

#[test]
fn a_deny_entry_wins_over_everything() {
    let setup = Setup::new();
    setup.trust(&format!("add builder {}", setup.builder));
    setup.trust(&format!("deny {}", setup.repository()));
    let why = format!("the builder is denied by the entry {}", setup.repository());
    let _ = is_untrusted(setup.build(), &why);
    let _ = is_untrusted(setup.trusting(), &why);
}

#[test]
fn the_operator_may_trust_and_deny() {
    let workshop = Workshop::new();
    workshop.buildpack("own", "exit 0", "exit 0");
    let builder = workshop.image("builder", &["own"]);
    drop(workshop);
    let (repository, _) = builder.rsplit_once(':').unwrap();
    for (key, flow) in [("trusted", TRUSTED), ("denied", UNTRUSTED)] {
        let options = cofferdam_tests::Options {
            config: format!("[buildpacks]\n{key} = [\"{repository}\"]\n"),
            ..Default::default()
        };
        let operated = Workshop::with(&options);
        let app = Context::new(&[]);
        let build = operated.build_as("app", &app, &builder);
        let build = if key == "denied" { build.arg("--trust-builder") } else { build };
        says(&build.run(), flow);
    }
}

#[test]
fn modules_of_the_builder_change_nothing() {
    let setup = Setup::new();
    for locator in
        ["test/spare", "test/spare@1.0.0", "urn:cnb:builder:test/spare", "from=builder:test/spare"]
    {
        let build = setup.trusting().arg("--buildpack").arg(locator);
        let outcome =
            is_trusted(build, "the builder is trusted by --trust-builder and only its own");
        assert!(outcome.mentions("[build] test/spare@1.0.0"), "{}", outcome.stderr);
        assert!(!outcome.mentions("[build] test/own@1.0.0"), "{}", outcome.stderr);
    }
}

#[test]
fn a_buildpack_that_is_added_is_named() {
    let setup = Setup::new();
    for option in ["--buildpack", "--pre-buildpack", "--post-buildpack"] {
        let why = format!(
            "buildpacks were added that are not in the builder: test/added@1.0.0 ({option})"
        );
        is_downgraded(setup.trusting().arg(option).arg(setup.added()), &why);
        let build = setup.trusting().arg(option).arg(setup.added()).arg("--trust-extra-buildpacks");
        let why = "the builder is trusted by --trust-builder and --trust-extra-buildpacks covers what was added";
        let _ = is_trusted(build, why);
    }
    let why = "the builder is neither known nor trusted by an entry; buildpacks were added";
    let _ = is_untrusted(setup.build().arg("--buildpack").arg(setup.added()), why);
}

#[test]
fn extensions_are_never_trusted() {
    let setup = Setup::new();
    let descriptor = "api = \"0.12\"\n[extension]\nid = \"test/ext\"\nversion = \"1.0.0\"\n";
    let extension = setup.workshop.module(
        "ext",
        "extension",
        descriptor,
        &[("detect", "exit 100"), ("generate", "exit 0")],
    );
    for flag in ["--trust-builder", "--trust-extra-buildpacks"] {
        let build = setup.trusting().arg(flag).arg("--extension").arg(&extension);
        let build = if flag == "--trust-builder" {
            setup.trusting().arg("--extension").arg(&extension)
        } else {
            build
        };
        is_downgraded(build, "extensions were added: test/ext@1.0.0 (--extension)");
    }
}

#[test]
fn extensions_of_the_builder_are_not_trusted_either() {
    let setup = Setup::new();
    let descriptor = "api = \"0.12\"\n[extension]\nid = \"test/ext\"\nversion = \"1.0.0\"\n";
    setup.workshop.module(
        "ext",
        "extension",
        descriptor,
        &[("detect", "exit 100"), ("generate", "exit 0")],
    );
    let text = format!(
        "{}{}[[order]]\n[[order.group]]\nid = \"test/own\"\n[[order-extensions]]\n[[order-extensions.group]]\nid = \"test/ext\"\n",
        modules("buildpacks", &["own"]),
        modules("extensions", &["ext"])
    );
    let _ = setup.workshop.create("extended", &text).success();
    let extended = setup.workshop.reference("extended");
    let build = setup.workshop.build_as("app", &setup.app, &extended).arg("--trust-builder");
    let _ = is_untrusted(build, "the builder's order has extensions");
}

const INLINE: &str = "[_]\nschema-version = \"0.2\"\n[[io.buildpacks.group]]\nid = \"test/script\"\n[io.buildpacks.group.script]\napi = \"0.12\"\ninline = \"echo inline ran\"\n";

#[test]
fn inline_scripts_alone_change_nothing() {
    let setup = Setup::new();
    setup.app.write("project.toml", INLINE);
    let why = "the builder is trusted by --trust-builder and only its own modules and inline scripts take part";
    let outcome = is_trusted(setup.trusting(), why);
    assert!(outcome.stderr.contains("inline ran"), "{}", outcome.stderr);
}

#[test]
fn modules_of_a_project_count_like_those_of_the_command_line() {
    let setup = Setup::new();
    let add = "buildpacks were added that are not in the builder: test/added@1.0.0 (project.toml)";
    let uri = format!("[[io.buildpacks.group]]\nuri = \"{}\"\n", setup.added().display());
    setup.app.write("project.toml", format!("{INLINE}{uri}"));
    is_downgraded(setup.trusting(), add);
    for place in ["group", "pre.group", "post.group"] {
        let text = format!("[_]\nschema-version = \"0.2\"\n{}", uri.replace("group", place));
        setup.app.write("project.toml", text);
        is_downgraded(setup.trusting(), add);
    }
    setup.app.write(
        "project.toml",
        "[_]\nschema-version = \"0.2\"\n[[io.buildpacks.group]]\nid = \"test/spare\"\n",
    );
    let _ = is_trusted(
        setup.trusting(),
        "the builder is trusted by --trust-builder and only its own modules",
    );
}

#[test]
fn what_the_command_line_replaces_takes_no_part() {
    let setup = Setup::new();
    let uri = format!(
        "[_]\nschema-version = \"0.2\"\n[[io.buildpacks.group]]\nuri = \"{}\"\n",
        setup.added().display()
    );
    setup.app.write("project.toml", uri);
    let build = setup.trusting().args("--buildpack test/spare");
    let _ = is_trusted(build, "the builder is trusted by --trust-builder and only its own modules");
}

#[test]
fn the_metadata_file_has_the_decision() {
    let setup = Setup::new();
    let file = setup.configuration.path().join("metadata.json");
    let build = setup.trusting().arg("--buildpack").arg(setup.added());
    let _ = build.arg("--metadata-file").arg(&file).run().success();
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let flow = &metadata["buildpacks.flow"];
    assert_eq!(flow["flow"], "untrusted", "{metadata}");
    assert_eq!(flow["modules"], serde_json::json!(["test/added@1.0.0"]), "{metadata}");
    let builder = flow["builder"].as_str().unwrap();
    assert_eq!(
        builder,
        format!("{}@{}", setup.builder, setup.workshop.pull("builder").manifest_digest)
    );
}
