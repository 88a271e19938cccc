//! Composites, system buildpacks, targets, execution environments, and variables from one buildpack to the next.

use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop, modules, order};
use cofferdam_tests::{Context, Outcome};

/// A component with further keys in its descriptor.
fn component(workshop: &Workshop, name: &str, more: &str, build: &str) {
    let descriptor =
        format!("api = \"0.12\"\n[buildpack]\nid = \"test/{name}\"\nversion = \"1.0.0\"\n{more}");
    workshop.module(name, "buildpack", &descriptor, &[("detect", "exit 0"), ("build", build)]);
}

fn ran(outcome: &Outcome, name: &str) -> bool {
    outcome.mentions(&format!("[build] test/{name}@1.0.0"))
}

#[test]
fn a_composite_stands_for_its_groups() {
    let workshop = Workshop::new();
    workshop.buildpack("fails", "exit 100", "exit 0");
    workshop.buildpack("one", "exit 0", "exit 0");
    workshop.buildpack("two", "exit 0", "exit 0");
    let descriptor = format!(
        "api = \"0.12\"\n[buildpack]\nid = \"test/both\"\nversion = \"1.0.0\"\n{}{}",
        order(&["fails"]),
        order(&["one"])
    );
    workshop.module("both", "buildpack", &descriptor, &[]);
    let text = format!(
        "{}{}",
        modules("buildpacks", &["fails", "one", "two", "both"]),
        order(&["both", "two"])
    );
    let _ = workshop.create("builder", &text).success();
    for flow in FLOWS {
        let app = Context::new(&[]);
        let outcome = workshop.build(&app, &workshop.reference("builder"), flow).run().success();
        let found = ["fails", "one", "two", "both"].map(|name| ran(&outcome, name));
        assert_eq!(found, [false, true, true, false], "{}", outcome.stderr);
    }
}

#[test]
fn system_buildpacks_come_before_and_after() {
    let workshop = Workshop::new();
    for name in ["before", "own", "after"] {
        workshop.buildpack(name, "exit 0", &format!("echo {name} ran"));
    }
    let text = format!(
        "{}[[order]]\n[[order.group]]\nid = \"test/own\"\n[system]\n[[system.pre.buildpacks]]\nid = \"test/before\"\nversion = \"1.0.0\"\n[[system.post.buildpacks]]\nid = \"test/after\"\nversion = \"1.0.0\"\n",
        modules("buildpacks", &["before", "own", "after"])
    );
    let _ = workshop.create("builder", &text).success();
    let builder = workshop.reference("builder");
    for flow in FLOWS {
        let app = Context::new(&[]);
        let outcome = workshop.build(&app, &builder, flow).run().success();
        let places =
            ["before ran", "own ran", "after ran"].map(|text| outcome.stderr.find(text).unwrap());
        assert!(places[0] < places[1] && places[1] < places[2], "{}", outcome.stderr);
        let build = workshop.build(&app, &builder, flow).arg("--disable-system-buildpacks");
        let outcome = build.run().success();
        assert!(ran(&outcome, "own") && !ran(&outcome, "before") && !ran(&outcome, "after"));
    }
}

#[test]
fn a_target_that_is_not_the_run_images_fails_detection() {
    let workshop = Workshop::new();
    component(
        &workshop,
        "fits",
        "[[targets]]\nos = \"linux\"\n[[targets.distros]]\nname = \"test\"\nversion = \"1\"\n",
        "exit 0",
    );
    component(
        &workshop,
        "foreign",
        "[[targets]]\nos = \"linux\"\n[[targets.distros]]\nname = \"elsewhere\"\nversion = \"1\"\n",
        "exit 0",
    );
    let builder = workshop.image("builder", &["fits"]);
    let foreign = workshop.image("foreign-builder", &["foreign"]);
    for flow in FLOWS {
        let app = Context::new(&[]);
        let _ = workshop.build(&app, &builder, flow).run().success();
        let outcome = workshop.build(&app, &foreign, flow).run();
        assert_eq!(outcome.code, Some(21), "{}", outcome.stderr);
        assert!(!outcome.mentions(&flow.detect("test/foreign@1.0.0")), "it does not even detect");
    }
}

#[test]
fn variables_of_layers_reach_later_buildpacks() {
    let workshop = Workshop::new();
    let first = r#"
        layer=$CNB_LAYERS_DIR/l; mkdir -p $layer/env $layer/env.build $layer/env.launch $layer/bin $layer/lib
        printf default > $layer/env/SHOWN_DEFAULT.default
        printf front > $layer/env.build/SHOWN_LIST.prepend
        printf : > $layer/env.build/SHOWN_LIST.delim
        printf override > $layer/env/SHOWN_OVER.override
        printf launch > $layer/env.launch/SHOWN_LAUNCH
        printf '#!/bin/sh\necho SHOWN_TOOL=found\n' > $layer/bin/tool; chmod +x $layer/bin/tool
        printf '[types]\nbuild = true\n' > $layer.toml
    "#;
    workshop.buildpack("first", "exit 0", first);
    let second = r#"
        layer=$CNB_LAYERS_DIR/l; mkdir -p $layer/env.build
        printf back > $layer/env.build/SHOWN_LIST.append
        printf : > $layer/env.build/SHOWN_LIST.delim
        printf '[types]\nbuild = true\n' > $layer.toml
        tool
    "#;
    workshop.buildpack("second", "exit 0", second);
    workshop.buildpack("third", "exit 0", "env | grep ^SHOWN | sort; echo $LD_LIBRARY_PATH");
    component(&workshop, "clear", "clear-env = true\n", "env | grep ^SHOWN | sort");
    let builder = workshop.image("builder", &["first", "second", "third", "clear"]);
    for flow in FLOWS {
        let app = Context::new(&[]);
        let build = workshop
            .build(&app, &builder, flow)
            .args("--env SHOWN_OVER=user --env SHOWN_USER=user");
        let outcome = build.run().success();
        assert_eq!(outcome.log("[build] test/second@1.0.0"), "SHOWN_TOOL=found");
        let said = outcome.log("[build] test/third@1.0.0");
        assert_eq!(
            said,
            "SHOWN_DEFAULT=default\nSHOWN_LIST=front:back\nSHOWN_OVER=user\nSHOWN_USER=user\n/layers/test_first/l/lib",
            "{flow:?}"
        );
        let cleared = outcome.log("[build] test/clear@1.0.0");
        assert!(!cleared.contains("SHOWN_USER") && cleared.contains("SHOWN_DEFAULT"), "{cleared}");
    }
}

#[test]
fn the_operators_variables_of_a_builder_reach_buildpacks() {
    let workshop = Workshop::new();
    workshop.buildpack("show", "echo detect $SHOWN", "echo build $SHOWN");
    let base = cofferdam_tests::buildpacks::build_base();
    let text = format!(
        "{}[[order]]\n[[order.group]]\nid = \"test/show\"\n[build]\nimage = \"{base}\"\n[[build.env]]\nname = \"SHOWN\"\nvalue = \"operator\"\nsuffix = \"override\"\n[[run.images]]\nimage = \"{}\"\n",
        modules("buildpacks", &["show"]),
        cofferdam_tests::buildpacks::run_base()
    );
    let config = workshop.write("configured.toml", &text);
    let name = workshop.reference("configured");
    let _ = workshop
        .command("builder-image create")
        .arg(&name)
        .arg("--config")
        .arg(config)
        .arg("--push")
        .success();
    let app = Context::new(&[]);
    let build = workshop.build(&app, &name, Flow::Untrusted).args("--env SHOWN=user");
    let outcome = build.run().success();
    assert_eq!(outcome.log("[build] test/show@1.0.0"), "build operator");
}

#[test]
fn volumes_are_what_the_user_gave() {
    let workshop = Workshop::new();
    let script = "cat /given/file; (echo x > /given/new) 2>/dev/null && echo WROTE; true";
    workshop.buildpack("reader", script, script);
    let builder = workshop.image("builder", &["reader"]);
    let given = Context::new(&[("file", "given\n")]);
    for flow in FLOWS {
        let app = Context::new(&[]);
        let volume = format!("{}:/given", given.path().display());
        let outcome =
            workshop.build(&app, &builder, flow).arg("--volume").arg(volume).run().success();
        for step in [&*flow.detect("test/reader@1.0.0"), "[build] test/reader@1.0.0"] {
            assert_eq!(outcome.log(step), "given", "{flow:?}");
        }
        let warned = outcome.stderr.contains("is not trusted");
        assert_eq!(warned, flow == Flow::Untrusted, "{}", outcome.stderr);
        assert!(!given.join("new").exists());
        let inside = format!("{}:/cnb/x", given.path().display());
        let outcome = workshop.build(&app, &builder, flow).arg("--volume").arg(inside).run();
        assert!(outcome.stderr.contains("/cnb"), "{}", outcome.stderr);
    }
}
