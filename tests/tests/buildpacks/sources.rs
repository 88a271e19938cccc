//! Where modules and run images come from: git, addresses, buildpackages with dependencies, mirrors.

use std::path::Path;
use std::process::Command;

use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop, label, order, run_base};
use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Context, Options, Outcome, Registry, digest, images, sh};

/// A daemon whose steps may reach what a test serves.
pub(crate) fn open_to(server: &Server) -> Workshop {
    Workshop::with(&Options {
        config: format!("[egress]\nallow = [\"127.0.0.1:{}\"]\n", server.port()),
        ..Options::default()
    })
}

/// Makes a repository `repo.git` that any web server can serve, of the files in `work`: a commit with the tag `v1`, and one more
/// in which `change` was done to them.
pub(crate) fn repository(directory: &Path, change: &str) {
    let script = format!(
        "cd work && git init -q -b main && git config user.email t@example.com && git config user.name t && \
        git add . && git commit -qm one && git tag v1 && {change} && git commit -qam two && git checkout -q --detach && \
        cd .. && git clone -q --bare work repo.git && cd repo.git && git update-server-info"
    );
    sh(directory, &script);
}

fn build(workshop: &Workshop, builder: &str, locator: &str) -> Outcome {
    let app = Context::new(&[]);
    let build = workshop.build(&app, builder, Flow::Trusted);
    build.args("--no-cache --buildpack").arg(locator).run()
}

#[test]
fn a_git_repository_by_reference_and_directory() {
    let files = Workshop::new();
    files.buildpack("own", "exit 0", "exit 0");
    files.buildpack("work/sub/cloned", "exit 0", "echo of the tag");
    let descriptor = std::fs::read_to_string(files.path("work/sub/cloned/buildpack.toml")).unwrap();
    files.write("work/sub/cloned/buildpack.toml", &descriptor.replace("work/sub/cloned", "cloned"));
    repository(&files.path(""), "sed -i 's/the tag/the branch/' sub/cloned/bin/build");
    let builder = files.image("builder", &["own"]);
    let server = Server::files(&files.path(""));
    let workshop = open_to(&server);
    let url = server.url("repo.git");
    for (reference, expected) in [("v1", "of the tag"), ("main", "of the branch")] {
        for address in [url.clone(), format!("git+{url}")] {
            let locator = format!("{address}#{reference}:sub/cloned");
            let outcome = build(&workshop, &builder, &locator).success();
            assert_eq!(outcome.log("[build] test/cloned@1.0.0"), expected, "{locator}");
            let why = "buildpacks were added that are not in the builder: test/cloned@1.0.0";
            assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
        }
    }
    for wrong in ["v2:sub/cloned", "v1:sub", "v1:../cloned", "--upload-pack=x"] {
        let error = build(&workshop, &builder, &format!("{url}#{wrong}")).failure();
        assert!(error.contains("repo.git"), "{wrong}: {error}");
    }
}

#[test]
fn an_archive_from_the_web_is_what_its_digest_says() {
    let files = Workshop::new();
    files.buildpack("own", "exit 0", "exit 0");
    files.buildpack("packed", "exit 0", "echo packed ran");
    let builder = files.image("builder", &["own"]);
    let tar = Command::new("tar")
        .args(["-czf", "-", "-C"])
        .arg(files.path("packed"))
        .arg(".")
        .output()
        .unwrap();
    assert!(tar.status.success());
    let right = digest(&tar.stdout);
    let bytes = tar.stdout;
    let server = Server::start(move |_| Response::ok(bytes.clone()));
    let workshop = open_to(&server);
    let url = server.url("packed.tgz");

    let outcome = build(&workshop, &builder, &format!("{url}#{right}")).success();
    assert_eq!(outcome.log("[build] test/packed@1.0.0"), "packed ran");
    assert!(!outcome.stderr.contains("neither encrypted nor pinned"), "{}", outcome.stderr);

    // Of somebody who has seen the right one before, and of somebody who has not.
    let wrong = digest(b"something else");
    for workshop in [workshop, open_to(&server)] {
        let error = build(&workshop, &builder, &format!("{url}#{wrong}")).failure();
        assert!(error.contains("packed.tgz") && error.contains(&wrong), "{error}");
        assert!(!error.contains("packed ran"), "{error}");
    }

    let outcome = build(&open_to(&server), &builder, &url).success();
    assert!(outcome.stderr.contains("neither encrypted nor pinned"), "{}", outcome.stderr);
}

#[test]
fn an_address_with_nothing_behind_it_is_an_error() {
    let files = Workshop::new();
    files.buildpack("own", "exit 0", "exit 0");
    let builder = files.image("builder", &["own"]);
    let server = Server::start(|_| Response::status(404));
    let error = build(&open_to(&server), &builder, &server.url("packed.tgz")).failure();
    assert!(error.contains("404"), "{error}");
}

#[test]
fn a_buildpackage_brings_its_dependencies() {
    let workshop = Workshop::new();
    for name in ["own", "one", "two"] {
        workshop.buildpack(name, "exit 0", &format!("echo {name} ran"));
    }
    let descriptor = format!(
        "api = \"0.12\"\n[buildpack]\nid = \"test/both\"\nversion = \"1.0.0\"\n{}",
        order(&["one", "two"])
    );
    workshop.module("both", "buildpack", &descriptor, &[]);
    let two = workshop.reference("two");
    let package = |name: &str, config: &Path, format: &str| {
        let command = workshop.command("buildpack package").arg(name).args(format);
        command.arg("--config").arg(config).run()
    };
    let config = workshop.write("two.toml", "[buildpack]\nuri = \"two\"\n");
    let _ = package(&two, &config, "--push").success();
    let text = format!(
        "[buildpack]\nuri = \"both\"\n[[dependencies]]\nuri = \"one\"\n[[dependencies]]\nimage = \"{two}\"\n"
    );
    let config = workshop.write("both-package.toml", &text);
    let image = workshop.reference("both");
    let _ = package(&image, &config, "--push").success();
    let file = workshop.path("both.cnb").display().to_string();
    let _ = package(&file, &config, "--format file").success();

    let layers = label(&workshop.pull("both"), "io.buildpacks.buildpack.layers");
    let names: Vec<&String> = layers.as_object().unwrap().keys().collect();
    assert_eq!(names, ["test/both", "test/one", "test/two"]);
    let builder = workshop.image("builder", &["own"]);
    for locator in [format!("docker://{image}"), file] {
        let outcome = build(&workshop, &builder, &locator).success();
        for name in ["one", "two"] {
            let said = outcome.log(&format!("[build] test/{name}@1.0.0"));
            assert_eq!(said, format!("{name} ran"), "{locator}");
        }
        assert!(!outcome.mentions("[build] test/own@1.0.0"), "{}", outcome.stderr);
    }
}

#[test]
fn a_buildpackage_without_one_of_its_dependencies_is_not_used() {
    let workshop = Workshop::new();
    workshop.buildpack("own", "exit 0", "exit 0");
    let descriptor = "api = \"0.12\"\n[buildpack]\nid = \"test/both\"\nversion = \"1.0.0\"\n[[order]]\n[[order.group]]\nid = \"test/missing\"\nversion = \"1.0.0\"\n";
    workshop.module("both", "buildpack", descriptor, &[]);
    let builder = workshop.image("builder", &["own"]);
    let config = workshop.write("both.toml", "[buildpack]\nuri = \"both\"\n");
    let file = workshop.path("both.cnb").display().to_string();
    let command = workshop.command("buildpack package").arg(&file).args("--format file");
    let packaged = command.arg("--config").arg(config).run();
    let error = if packaged.code == Some(0) {
        build(&workshop, &builder, &file).failure()
    } else {
        packaged.failure()
    };
    assert!(error.contains("test/missing"), "{error}");
}

/// Puts the image that apps run on into another registry, with a mark in its environment.
fn mirror(registry: &Registry, name: &str, mark: &str) -> String {
    let base = run_base();
    let path = base.strip_prefix(images::registry().address()).unwrap();
    let (name_of_base, tag) = path.trim_start_matches('/').rsplit_once(':').unwrap();
    let image = images::registry().pull(name_of_base, tag);
    let mut config = image.config.clone();
    let env = config["config"]["Env"].as_array_mut().unwrap();
    env.push(format!("MIRROR={mark}").into());
    registry.push_image(name, "1", &image.layers, &config);
    registry.reference(&format!("{name}:1"))
}

/// A builder whose run image has these names; gives its reference.
fn with_mirrors(workshop: &Workshop, image: &str, mirrors: &[String]) -> String {
    workshop.buildpack("own", "exit 0", "exit 0");
    let text = format!(
        "[[buildpacks]]\nuri = \"own\"\n[[order]]\n[[order.group]]\nid = \"test/own\"\n[build]\nimage = \"{}\"\n[[run.images]]\nimage = \"{image}\"\nmirrors = {mirrors:?}\n",
        cofferdam_tests::buildpacks::build_base()
    );
    let config = workshop.write("mirrored.toml", &text);
    let reference = workshop.reference("mirrored");
    let create = workshop.command("builder-image create").arg(&reference);
    let _ = create.arg("--config").arg(config).arg("--push").success();
    reference
}

#[test]
fn a_mirror_stands_in_for_a_run_image_that_is_not_there() {
    let registry = Registry::start();
    let there = mirror(&registry, "run", "there");
    let gone = images::registry().reference("cnb/no-such-run:1");
    let also_gone = registry.reference("no-such-run:1");
    let workshop = Workshop::new();
    let builder = with_mirrors(&workshop, &gone, &[also_gone, there.clone()]);
    for flow in FLOWS {
        let _ = workshop.build(&Context::new(&[]), &builder, flow).run().success();
        let image = workshop.app(flow);
        assert!(image.env().contains(&"MIRROR=there"), "{:?}", image.env());
        let run = label(&image, "io.buildpacks.lifecycle.metadata")["runImage"].clone();
        assert_eq!(run["image"], gone.as_str(), "{run}");
        assert_eq!(run["mirrors"][1], there.as_str(), "{run}");
        let digest = registry.pull("run", "1").manifest_digest;
        assert!(run["reference"].as_str().unwrap().ends_with(&digest), "{run}");
    }
}

#[test]
fn a_mirror_on_the_registry_of_the_output_is_preferred() {
    let registry = Registry::start();
    let near = mirror(&registry, "run", "near");
    let workshop = Workshop::new();
    let builder = with_mirrors(&workshop, &run_base(), std::slice::from_ref(&near));
    let app = Context::new(&[]);
    for flow in FLOWS {
        let trust = if flow == Flow::Trusted { "--trust-builder" } else { "" };
        let tag = registry.reference("app:1");
        let build = workshop.daemon().build(&app).arg("--builder").arg(&builder).args(trust);
        let _ = build.arg("--push").arg("--tag").arg(&tag).run().success();
        assert!(registry.pull("app", "1").env().contains(&"MIRROR=near"));
        // On the registry of the first name it is the first name.
        let _ = workshop.build(&app, &builder, flow).run().success();
        let image = workshop.app(flow);
        assert!(!image.env().iter().any(|entry| entry.starts_with("MIRROR")), "{:?}", image.env());
    }
}

#[test]
fn a_run_image_that_is_nowhere_is_an_error_with_every_name() {
    let workshop = Workshop::new();
    let names =
        ["a", "b"].map(|name| images::registry().reference(&format!("cnb/no-run-{name}:1")));
    let builder = with_mirrors(&workshop, &names[0], &names[1..]);
    for flow in FLOWS {
        let outcome = workshop.build(&Context::new(&[]), &builder, flow).run();
        assert_eq!(outcome.code, Some(32), "{}", outcome.stderr);
        assert!(names.iter().all(|name| outcome.stderr.contains(name)), "{}", outcome.stderr);
    }
}

#[test]
fn a_buildpack_registry_names_pinned_images() {
    let files = Workshop::new();
    files.buildpack("own", "exit 0", "exit 0");
    files.buildpack("listed", "exit 0", "echo listed ran");
    let builder = files.image("builder", &["own"]);
    files.write("package.toml", "[buildpack]\nuri = \"listed\"\n");
    let package = files.reference("listed");
    let config = files.path("package.toml");
    let made =
        files.command("buildpack package").arg(&package).args("--push --config").arg(&config).run();
    let _ = made.success();
    let digest = files.pull("listed").digest;
    let pinned = format!("{}@{digest}", package.trim_end_matches(":1"));
    let line = |version: &str, yanked: bool| {
        format!(
            "{{\"ns\":\"test\",\"name\":\"listed\",\"version\":\"{version}\",\"yanked\":{yanked},\"addr\":\"{pinned}\"}}\n"
        )
    };
    files.write("work/li/st/test_listed", &(line("1.0.0", false) + &line("2.0.0", true)));
    repository(&files.path(""), "echo >> li/st/test_listed");
    let server = Server::files(&files.path(""));
    let workshop = Workshop::with(&Options {
        config: format!("[buildpacks]\nregistry = \"{}\"\n", server.url("repo.git")),
        ..Options::default()
    });
    for locator in ["urn:cnb:registry:test/listed", "urn:cnb:registry:test/listed@1.0.0"] {
        let outcome = build(&workshop, &builder, locator).success();
        assert_eq!(outcome.log("[build] test/listed@1.0.0"), "listed ran", "{locator}");
    }
    let withdrawn = build(&workshop, &builder, "urn:cnb:registry:test/listed@2.0.0").failure();
    assert!(withdrawn.contains("withdrawn"), "{withdrawn}");
    let unknown = build(&workshop, &builder, "urn:cnb:registry:test/other").failure();
    assert!(unknown.contains("not in the registry"), "{unknown}");
    let none = build(&files, &builder, "urn:cnb:registry:test/listed").failure();
    assert!(none.contains("no buildpack registry is configured"), "{none}");
}
