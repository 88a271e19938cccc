//! Commands that tell what is in an image.

use cofferdam_tests::Context;
use cofferdam_tests::buildpacks::{Flow, Workshop, debian_base, run_base};

fn built() -> Workshop {
    let workshop = Workshop::new();
    workshop.fixture("web");
    let builder = workshop.image("builder", &["web"]);
    let app = Context::new(&[("start.sh", "")]);
    let _ = workshop.build(&app, &builder, Flow::Trusted).run().success();
    workshop
}

#[test]
fn an_app_is_inspected() {
    let workshop = built();
    let name = workshop.reference("app-trusted");
    let text = workshop.plain_command("inspect").arg(&name).success().text();
    for part in ["test/web", "1.0.0", "web", "other", "start.sh", &run_base()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = workshop.plain_command("inspect --output json").arg(&name).success().json();
    assert!(json.to_string().contains("\"test/web\""), "{json}");
}

#[test]
fn a_builder_is_inspected() {
    let workshop = built();
    let name = workshop.reference("builder");
    let text = workshop.plain_command("builder-image inspect").arg(&name).success().text();
    for part in ["test/web", "1.0.0", &run_base()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json =
        workshop.plain_command("builder-image inspect --output json").arg(&name).success().json();
    assert!(json.to_string().contains("\"test/web\""), "{json}");
}

#[test]
fn a_buildpack_is_inspected() {
    let workshop = built();
    let text =
        workshop.plain_command("buildpack inspect").arg(workshop.path("web")).success().text();
    assert!(text.contains("test/web") && text.contains("1.0.0"), "{text}");
}

#[test]
fn sboms_are_downloaded() {
    let workshop = built();
    let out = tempfile::tempdir().unwrap();
    let download = workshop.plain_command("sbom download --output-dir").arg(out.path());
    let _ = download.arg(workshop.reference("app-trusted")).success();
    let path = out.path().join("layers/sbom/launch/test_web/tool/sbom.cdx.json");
    assert!(std::fs::read_to_string(&path).unwrap().contains("CycloneDX"));
}

#[test]
fn a_new_buildpack_builds() {
    let workshop = Workshop::new();
    let path = workshop.path("fresh");
    let _ = workshop.plain_command("buildpack new test/fresh --path").arg(&path).success();
    // Its programs want a bash.
    let text = "[[buildpacks]]\nuri = \"fresh\"\n[[order]]\n[[order.group]]\nid = \"test/fresh\"\n";
    let base = debian_base();
    let _ = workshop.create_on(&base, &base, "builder", text).success();
    let app = Context::new(&[]);
    let build = workshop.build(&app, &workshop.reference("builder"), Flow::Untrusted);
    let outcome = build.run().success();
    assert!(outcome.mentions("[build] test/fresh@"), "{}", outcome.stderr);
}

#[test]
fn builders_are_made_only_of_what_fits() {
    let workshop = Workshop::new();
    workshop.buildpack("own", "exit 0", "exit 0");
    let order = "[[order]]\n[[order.group]]\nid = \"test/own\"\n";
    for (text, named) in [
        (
            "[[buildpacks]]\nuri = \"own\"\n[[order]]\n[[order.group]]\nid = \"test/other\"\n"
                .to_owned(),
            "test/other",
        ),
        (format!("[[buildpacks]]\nuri = \"own\"\nversion = \"2.0.0\"\n{order}"), "2.0.0"),
        (format!("[[buildpacks]]\nuri = \"nowhere\"\n{order}"), "nowhere"),
        (format!("unknown = 1\n[[buildpacks]]\nuri = \"own\"\n{order}"), "unknown"),
        ("[[buildpacks]]\n".to_owned(), "uri"),
    ] {
        let error = workshop.create("refused", &text).failure();
        assert!(error.contains(named), "{text}: {error}");
        assert!(!workshop.has("refused"));
    }
}
