//! Forms in which a buildpack comes: a directory, an archive, an image, a `.cnb` file.

use std::process::Command;

use cofferdam_tests::buildpacks::{Flow, Workshop};
use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Context, Options, Outcome};

struct Setup {
    workshop: Workshop,
    builder: String,
}

impl Setup {
    fn new() -> Self {
        let workshop = Workshop::new();
        workshop.buildpack("own", "exit 0", "exit 0");
        workshop.buildpack("packed", "exit 0", "echo packed ran");
        let builder = workshop.image("builder", &["own"]);
        Self { workshop, builder }
    }

    /// A build with a locator in place of the order. What is added is untrusted.
    fn build(&self, locator: &str) -> Outcome {
        let app = Context::new(&[]);
        let build = self.workshop.build(&app, &self.builder, Flow::Trusted);
        build.args("--no-cache --buildpack").arg(locator).run()
    }

    fn ran(&self, locator: &str) {
        let outcome = self.build(locator).success();
        assert_eq!(outcome.log("[build] test/packed@1.0.0"), "packed ran", "{locator}");
        assert!(outcome.stderr.contains("Flow: untrusted"), "{locator}: {}", outcome.stderr);
    }

    fn package(&self, name: &str, flags: &str) -> Outcome {
        let command = self.workshop.command("buildpack package").arg(name).args(flags);
        command.arg("--path").arg(self.workshop.path("packed")).run()
    }

    fn archive(&self) -> String {
        let file = self.workshop.path("packed.tgz");
        let done = Command::new("tar")
            .arg("-czf")
            .arg(&file)
            .arg("-C")
            .arg(self.workshop.path("packed"))
            .arg(".")
            .status();
        assert!(done.unwrap().success());
        file.display().to_string()
    }
}

#[test]
fn a_directory() {
    let setup = Setup::new();
    let path = setup.workshop.path("packed").display().to_string();
    setup.ran(&path);
    setup.ran(&format!("file://{path}"));
}

#[test]
fn an_archive() {
    let setup = Setup::new();
    setup.ran(&setup.archive());
}

#[test]
fn an_archive_from_the_web() {
    let setup = Setup::new();
    let bytes = std::fs::read(setup.archive()).unwrap();
    let server = Server::start(move |_| Response::ok(bytes.clone()));
    let open = Workshop::with(&Options {
        config: format!("[egress]\nallow = [\"127.0.0.1:{}\"]\n", server.port()),
        ..Options::default()
    });
    let app = Context::new(&[]);
    let build = open.build(&app, &setup.builder, Flow::Trusted);
    let outcome = build.arg("--buildpack").arg(server.url("packed.tgz")).run().success();
    assert_eq!(outcome.log("[build] test/packed@1.0.0"), "packed ran");
}

#[test]
fn a_buildpackage_as_an_image() {
    let setup = Setup::new();
    let reference = setup.workshop.reference("package");
    let _ = setup.package(&reference, "--push").success();
    setup.ran(&format!("docker://{reference}"));
    setup.ran(&reference);
}

#[test]
fn a_buildpackage_as_a_file() {
    let setup = Setup::new();
    let file = setup.workshop.path("packed.cnb").display().to_string();
    let _ = setup.package(&file, "--format file").success();
    setup.ran(&file);
}

#[test]
fn a_builder_can_be_made_of_each() {
    let setup = Setup::new();
    setup.archive();
    let reference = setup.workshop.reference("package");
    let _ = setup.package(&reference, "--push").success();
    let file = setup.workshop.path("packed.cnb").display().to_string();
    let _ = setup.package(&file, "--format file").success();
    let mut layers = Vec::new();
    for (number, uri) in
        ["packed", "packed.tgz", "packed.cnb", &format!("docker://{reference}")].iter().enumerate()
    {
        let text = format!(
            "[[buildpacks]]\nuri = \"{uri}\"\n[[order]]\n[[order.group]]\nid = \"test/packed\"\n"
        );
        let name = format!("made-{number}");
        let _ = setup.workshop.create(&name, &text).success();
        let app = Context::new(&[]);
        let build = setup.workshop.build(&app, &setup.workshop.reference(&name), Flow::Trusted);
        let outcome = build.args("--no-cache").run().success();
        assert_eq!(outcome.log("[build] test/packed@1.0.0"), "packed ran", "{uri}");
        layers.push(
            setup.workshop.pull(&name).config["config"]["Labels"]["io.buildpacks.buildpack.layers"]
                .clone(),
        );
    }
    assert!(layers.iter().all(|layer| *layer == layers[0]), "the same layer each time: {layers:?}");
}

#[test]
fn what_is_no_buildpack_is_refused() {
    let setup = Setup::new();
    setup.workshop.write("empty/readme", "");
    setup.workshop.write("broken.tgz", "no archive");
    setup.workshop.write("broken.cnb", "no archive");
    for name in ["empty", "broken.tgz", "broken.cnb"] {
        let path = setup.workshop.path(name).display().to_string();
        let error = setup.build(&path).failure();
        assert!(error.contains(name), "{name}: {error}");
    }
    let error = setup.build("test/unknown").failure();
    assert!(error.contains("test/unknown"), "{error}");
    let error = setup.build("urn:cnb:builder:test/unknown").failure();
    assert!(error.contains("test/unknown"), "{error}");
}
