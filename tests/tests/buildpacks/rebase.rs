//! `cofferdam rebase`: the same app on a newer run image.

use cofferdam_tests::buildpacks::{FLOWS, Podman, Workshop, label, push_base};
use cofferdam_tests::{Context, Image};

fn digests(image: &Image) -> Vec<String> {
    let layers = image.manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn layers_of_the_app_stay_and_those_of_the_base_change() {
    let workshop = Workshop::new();
    workshop.fixture("web");
    let builder = workshop.image("builder", &["web"]);
    let old = push_base(&format!("cnb/moving-{}", std::process::id()), &[], "old");
    let app = Context::new(&[("start.sh", "cat /etc/base; tool")]);
    for flow in FLOWS {
        let _ = push_base(&format!("cnb/moving-{}", std::process::id()), &[], "old");
        let _ = workshop.build(&app, &builder, flow).arg("--run-image").arg(&old).run().success();
        let before = workshop.app(flow);
        let _ = push_base(&format!("cnb/moving-{}", std::process::id()), &["NEWER=yes"], "new");
        let name = workshop.reference(&format!("app-{}", flow.name()));
        let _ = workshop.command("rebase").arg(&name).arg("--push").success();
        let after = workshop.app(flow);

        assert_eq!(after.text("etc/base"), "new");
        assert_eq!(digests(&before)[2..], digests(&after)[2..], "{flow:?}");
        assert_ne!(digests(&before)[1], digests(&after)[1]);
        let (old, new) =
            [&before, &after].map(|image| label(image, "io.buildpacks.lifecycle.metadata")).into();
        assert_ne!(old["runImage"]["topLayer"], new["runImage"]["topLayer"]);
        assert_eq!(old["buildpacks"], new["buildpacks"]);
        assert!(after.env().contains(&"CNB_APP_DIR=/workspace"), "{:?}", after.env());
        let said = Podman::new().run(&name, "", &[]).success().text();
        assert_eq!(said, "newthe tool of the layer\n");
    }
}

#[test]
fn a_run_image_of_another_kind_needs_force() {
    let workshop = Workshop::new();
    workshop.fixture("web");
    let builder = workshop.image("builder", &["web"]);
    let app = Context::new(&[("start.sh", "")]);
    let _ = workshop.build(&app, &builder, FLOWS[0]).run().success();
    let before = workshop.app(FLOWS[0]);
    let name = workshop.reference("app-trusted");
    let stranger = push_base("cnb/stranger", &[], "stranger");
    let rebase = |flags: &str| {
        workshop
            .command("rebase")
            .arg(&name)
            .args("--push --run-image")
            .arg(&stranger)
            .args(flags)
            .run()
    };
    let refused = rebase("");
    assert_eq!(refused.code, Some(72), "{}", refused.stderr);
    assert_eq!(workshop.app(FLOWS[0]).digest, before.digest, "nothing was pushed");
    let _ = rebase("--force").success();
    assert_eq!(workshop.app(FLOWS[0]).text("etc/base"), "stranger");
}

#[test]
fn what_was_not_built_by_buildpacks_is_refused() {
    let workshop = Workshop::new();
    let other = push_base("cnb/no-app", &[], "");
    let outcome = workshop.command("rebase").arg(&other).arg("--push").run();
    assert!(outcome.failure().contains("lifecycle"));
}
