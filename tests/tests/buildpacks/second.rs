//! What a second build gets back from the first.

use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop, label};
use cofferdam_tests::{Context, Image};

/// Says what it finds, and makes what is missing.
const REMEMBERS: &str = r#"
cd "$CNB_LAYERS_DIR"
echo "found: $(ls | sort | tr '\n' ' ')"
echo "cached contents: $(cat cached/data 2>/dev/null)"
echo "launch metadata: $(grep mark launched.toml 2>/dev/null)"
echo "store: $(grep count store.toml 2>/dev/null)"
if [ ! -f cached.toml ]; then
    mkdir cached
    echo "of the first build" > cached/data
fi
printf '[types]\ncache = true\n[metadata]\nmark = "c"\n' > cached.toml
if [ ! -f launched.toml ]; then
    mkdir launched
    # Different each time it is made.
    cat /proc/sys/kernel/random/uuid > launched/data
fi
printf '[types]\nlaunch = true\n[metadata]\nmark = "l"\n' > launched.toml
count=$(sed -n 's/count = //p' store.toml 2>/dev/null)
printf '[metadata]\ncount = %s\n' $((${count:-0} + 1)) > store.toml
mkdir -p lost
printf '[types]\nbuild = true\n' > lost.toml
"#;

struct Setup {
    workshop: Workshop,
    builder: String,
    app: Context,
}

impl Setup {
    fn new() -> Self {
        let workshop = Workshop::new();
        workshop.buildpack("memory", "exit 0", REMEMBERS);
        let builder = workshop.image("builder", &["memory"]);
        Self { workshop, builder, app: Context::new(&[("file", "1")]) }
    }

    /// A build; gives what the buildpack said. The app changes, so that no step is one that ran before.
    fn build(&self, flow: Flow, flags: &str) -> String {
        self.app.write("file", format!("{:?}", std::time::Instant::now()));
        let build = self.workshop.build(&self.app, &self.builder, flow).args(flags);
        build.run().success().log("[build] test/memory@1.0.0")
    }
}

fn launched(image: &Image) -> String {
    image.text("layers/test_memory/launched/data")
}

#[test]
fn cached_layers_have_contents_and_launch_layers_only_what_is_said_of_them() {
    let setup = Setup::new();
    for flow in FLOWS {
        let said = setup.build(flow, "");
        assert!(said.contains("found: \n") && said.contains("cached contents: \n"), "{said}");
        let first = setup.workshop.app(flow);
        let said = setup.build(flow, "");
        assert!(said.contains("found: cached cached.toml launched.toml store.toml"), "{said}");
        assert!(said.contains("cached contents: of the first build"), "{said}");
        assert!(said.contains("launch metadata: mark = \"l\""), "{said}");
        let second = setup.workshop.app(flow);
        assert_eq!(launched(&first), launched(&second), "the layer is that of the first image");
        assert_ne!(first.digest, second.digest, "control: the app changed");
    }
}

#[test]
fn the_store_is_kept() {
    let setup = Setup::new();
    for flow in FLOWS {
        for count in ["", "count = 1", "count = 2"] {
            let said = setup.build(flow, "");
            assert!(
                said.lines().any(|line| line.trim() == format!("store: {count}").trim()),
                "{said}"
            );
        }
        let metadata = label(&setup.workshop.app(flow), "io.buildpacks.lifecycle.metadata");
        assert_eq!(metadata["buildpacks"][0]["store"]["metadata"]["count"], 3, "{metadata}");
    }
}

#[test]
fn a_cleared_cache_gives_no_layers_back() {
    let setup = Setup::new();
    for flow in FLOWS {
        let _ = setup.build(flow, "");
        let first = setup.workshop.app(flow);
        let said = setup.build(flow, "--clear-cache");
        assert!(!said.contains("cached") || said.contains("cached contents: \n"), "{said}");
        assert!(!said.contains("mark ="), "{said}");
        assert_ne!(launched(&first), launched(&setup.workshop.app(flow)), "it was made again");
        let said = setup.build(flow, "");
        assert!(said.contains("cached contents: of the first build"), "the cache is back: {said}");
    }
}

#[test]
fn flows_have_caches_of_their_own() {
    for (first, second) in [(Flow::Trusted, Flow::Untrusted), (Flow::Untrusted, Flow::Trusted)] {
        let setup = Setup::new();
        let build = |flow: Flow| {
            setup.app.write("file", format!("{:?}", std::time::Instant::now()));
            let build = setup.workshop.build_as("shared", &setup.app, &setup.builder);
            let trust = if flow == Flow::Trusted { "--trust-builder" } else { "" };
            build.args(trust).run().success().log("[build] test/memory@1.0.0")
        };
        let _ = build(first);
        let said = build(second);
        assert!(
            said.contains("cached contents: \n"),
            "{second:?} saw what {first:?} cached: {said}"
        );
        let said = build(second);
        assert!(said.contains("cached contents: of the first"), "control: its own cache: {said}");
    }
}

#[test]
fn images_have_caches_of_their_own() {
    for flow in FLOWS {
        let setup = Setup::new();
        let trust = if flow == Flow::Trusted { "--trust-builder" } else { "" };
        for (name, found) in [("one", false), ("other", false), ("one", true)] {
            setup.app.write("file", format!("{:?}", std::time::Instant::now()));
            let build = setup.workshop.build_as(name, &setup.app, &setup.builder).args(trust);
            let said = build.run().success().log("[build] test/memory@1.0.0");
            assert_eq!(said.contains("cached contents: of the first"), found, "{name}: {said}");
        }
    }
}

#[test]
fn a_lost_image_loses_launch_layers_and_not_the_cache() {
    let setup = Setup::new();
    let _ = setup.build(Flow::Trusted, "");
    let nothing = setup.workshop.reference("no-such-image");
    let said = setup.build(Flow::Trusted, &format!("--previous-image {nothing}"));
    assert!(said.starts_with("found: cached cached.toml \n"), "{said}");
}

#[test]
fn reuse_of_a_layer_that_nobody_has_is_an_error() {
    let workshop = Workshop::new();
    let script = r#"printf '[types]\nlaunch = true\n' > "$CNB_LAYERS_DIR/ghost.toml""#;
    workshop.buildpack("ghost", "exit 0", script);
    let builder = workshop.image("builder", &["ghost"]);
    for flow in FLOWS {
        let outcome = workshop.build(&Context::new(&[]), &builder, flow).run();
        assert_eq!(outcome.code, Some(62), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("ghost"), "{}", outcome.stderr);
        assert!(!workshop.has(&format!("app-{}", flow.name())));
    }
}
