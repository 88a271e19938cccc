//! The buildpack in real builds: what `libcnb` expects of a lifecycle is what it finds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::os::unix::fs::symlink;
use std::path::Path;

use cofferdam_tests::Context;
use cofferdam_tests::buildpacks::{FLOWS, Workshop, debian_base, modules};

/// A builder on Debian with the buildpack: one program under two names.
fn builder(workshop: &Workshop) -> String {
    let bin = workshop.path("libcnb/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_cofferdam-libcnb-buildpack"), bin.join("build")).unwrap();
    symlink("build", bin.join("detect")).unwrap();
    let descriptor = Path::new(env!("CARGO_MANIFEST_DIR")).join("buildpack.toml");
    std::fs::copy(descriptor, workshop.path("libcnb/buildpack.toml")).unwrap();
    let order = "[[order]]\n[[order.group]]\nid = \"test/libcnb\"\n";
    let text = format!("{}{order}", modules("buildpacks", &["libcnb"]));
    let base = debian_base();
    let _ = workshop.create_on(&base, &base, "builder", &text).success();
    workshop.reference("builder")
}

#[test]
fn a_buildpack_written_with_libcnb_builds_and_remembers() {
    let workshop = Workshop::new();
    let builder = builder(&workshop);
    let app = Context::new(&[("Procfile", "web: x")]);
    for flow in FLOWS {
        let mut found = Vec::new();
        for _ in 0..2 {
            let build = workshop.build(&app, &builder, flow).args("--env GREETING=hello");
            found.push(build.run().success().log("[build] test/libcnb@0.1.0"));
        }
        for said in ["target linux amd64 test", "platform hello", "plan procfile"] {
            assert!(found.iter().all(|log| log.contains(said)), "{said}: {found:?}");
        }
        assert!(found[0].contains("cached layer: made"), "{found:?}");
        assert!(found[1].contains("cached layer: restored"), "{found:?}");
        let image = workshop.reference(&format!("app-{}", flow.name()));
        let dockerfile = format!("FROM {image}\nRUN [\"/cnb/process/web\"]\n");
        let run = Context::new(&[("Dockerfile", &dockerfile)]);
        let said = workshop
            .daemon()
            .build(&run)
            .args("--no-cache")
            .run()
            .success()
            .log("[2/2] RUN [\"/cnb/process/web\"]");
        assert_eq!(said, "by libcnb kept");
    }
}

#[test]
fn it_takes_no_part_without_a_procfile() {
    let workshop = Workshop::new();
    let builder = builder(&workshop);
    let outcome = workshop.build_as("app", &Context::new(&[("file", "")]), &builder).run();
    assert_eq!(outcome.code, Some(20), "{}", outcome.stderr);
    assert!(!workshop.has("app"));
}
