//! The image that comes out: its labels, its config, and layers that any other lifecycle would make the same.

use cofferdam_tests::buildpacks::{FLOWS, Flow, LAYER_TIME, OWNER, Workshop, label, run_base};
use cofferdam_tests::{Context, Image};

const LIFECYCLE: &str = "io.buildpacks.lifecycle.metadata";
const BUILD: &str = "io.buildpacks.build.metadata";

fn app() -> Context {
    Context::new(&[("start.sh", "echo started\n"), ("deep/er/file", "data")])
}

fn built(workshop: &Workshop, flow: Flow) -> Image {
    workshop.fixture("web");
    let builder = workshop.image("builder", &["web"]);
    let _ = workshop.build(&app(), &builder, flow).run().success();
    workshop.app(flow)
}

/// The layer whose uncompressed digest a label names.
fn place(image: &Image, diff_id: &serde_json::Value) -> usize {
    let ids = image.config["rootfs"]["diff_ids"].as_array().unwrap();
    let found = ids.iter().position(|id| id == diff_id);
    found.unwrap_or_else(|| panic!("no layer {diff_id}: {ids:?}"))
}

#[test]
fn labels_say_what_is_in_the_layers() {
    let workshop = Workshop::new();
    for flow in FLOWS {
        let image = built(&workshop, flow);
        let metadata = label(&image, LIFECYCLE);
        let buildpack = &metadata["buildpacks"][0];
        assert_eq!(buildpack["key"], "test/web", "{metadata}");
        assert_eq!(buildpack["version"], "1.0.0");
        let tool = &buildpack["layers"]["tool"];
        assert_eq!(tool["launch"], true, "{metadata}");
        assert_eq!(tool["data"]["version"], "1.2.3");

        let files = image.layer(place(&image, &tool["sha"]));
        assert_eq!(files["layers/test_web/tool/env/GREETING.default"].text(), "greetings");
        let files = image.layer(place(&image, &metadata["app"][0]["sha"]));
        assert_eq!(files["workspace/deep/er/file"].text(), "data");
        let files = image.layer(place(&image, &metadata["launcher"]["sha"]));
        assert_eq!(files["cnb/lifecycle/launcher"].mode, 0o755);
        let files = image.layer(place(&image, &metadata["config"]["sha"]));
        assert!(files["layers/config/metadata.toml"].text().contains("test/web"));
        let files = image.layer(place(&image, &metadata["process-types"]["sha"]));
        assert_eq!(files["cnb/process/web"].link, "/cnb/lifecycle/launcher");
        let files = image.layer(place(&image, &metadata["sbom"]["sha"]));
        let sbom = &files["layers/sbom/launch/test_web/tool/sbom.cdx.json"];
        assert!(sbom.text().contains("CycloneDX"), "{sbom:?}");

        let run = workshop.registry().pull("cnb/run", "1");
        let ids = run.config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(&metadata["runImage"]["topLayer"], ids.last().unwrap());
        assert_eq!(metadata["runImage"]["image"], run_base());
        assert_eq!(metadata["stack"]["runImage"]["image"], run_base());
        assert_eq!(image.config["rootfs"]["diff_ids"].as_array().unwrap()[..2], ids[..]);

        let build = label(&image, BUILD);
        assert_eq!(build["buildpacks"][0]["id"], "test/web", "{build}");
        assert_eq!(build["processes"][0]["type"], "other", "{build}");
        assert_eq!(build["processes"][1]["command"], serde_json::json!(["sh", "start.sh"]));
        assert_eq!(build["processes"][1]["buildpackID"], "test/web");
        assert_eq!(image.setting("Labels")["org.example.of-a-buildpack"], "yes");
    }
}

#[test]
fn the_config_starts_the_default_process() {
    let workshop = Workshop::new();
    let image = built(&workshop, Flow::Trusted);
    assert_eq!(image.setting("Entrypoint"), &serde_json::json!(["/cnb/process/web"]));
    assert!(image.setting("Cmd").as_array().is_none_or(Vec::is_empty), "{}", image.config);
    assert_eq!(image.setting("WorkingDir"), "/workspace");
    assert_eq!(image.setting("User"), "1001:1000");
    let env = image.env();
    for wanted in ["CNB_LAYERS_DIR=/layers", "CNB_APP_DIR=/workspace", "CNB_DEPRECATION_MODE=quiet"]
    {
        assert!(env.contains(&wanted), "{env:?}");
    }
    let path = env.iter().find(|entry| entry.starts_with("PATH=")).unwrap();
    assert!(path.starts_with("PATH=/cnb/process:/cnb/lifecycle:/usr"), "{path}");
    assert_eq!(image.config["created"], "1980-01-01T00:00:01Z");
}

#[test]
fn layers_are_normalized() {
    let workshop = Workshop::new();
    for flow in FLOWS {
        let image = built(&workshop, flow);
        let files: Vec<_> = (2..image.depth()).flat_map(|index| image.layer(index)).collect();
        assert!(files.len() > 20, "{files:?}");
        for (path, entry) in &files {
            assert_eq!(entry.mtime, LAYER_TIME, "{path}");
            assert!(entry.xattrs.is_empty(), "{path}: {entry:?}");
            let expected = match path.starts_with("cnb") {
                true => (0, 0),
                false => OWNER,
            };
            assert_eq!((entry.uid, entry.gid), expected, "{path}");
        }
        for layer in &image.layers[2..] {
            let tar = layer.plain();
            for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
                let entry = entry.unwrap();
                assert!(entry.path_bytes().starts_with(b"/"), "names are absolute");
                assert!(entry.header().username_bytes().is_none_or(<[u8]>::is_empty));
            }
        }
    }
}

#[test]
fn the_same_input_is_the_same_image() {
    let (first, other) = (Workshop::new(), Workshop::new());
    let digests: Vec<String> = [&first, &other, &first]
        .into_iter()
        .flat_map(|workshop| {
            workshop.fixture("web");
            let builder = workshop.image("builder", &["web"]);
            // Without what an earlier build left, and at another time.
            FLOWS.map(|flow| {
                let app = app();
                let build = workshop.build(&app, &builder, flow).args("--clear-cache --no-cache");
                let _ = build.run().success();
                workshop.app(flow).manifest_digest
            })
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn the_builder_image_too() {
    let (first, other) = (Workshop::new(), Workshop::new());
    let [one, two] = [&first, &other].map(|workshop| {
        workshop.fixture("web");
        workshop.image("builder", &["web"]);
        workshop.pull("builder")
    });
    for key in ["config", "history", "rootfs", "created"] {
        assert_eq!(one.config[key], two.config[key], "{key}");
    }
    assert_eq!(one.manifest_digest, two.manifest_digest);
}
