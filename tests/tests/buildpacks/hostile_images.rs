//! Images that a build reads and anybody may have pushed: the previous image, the cache image, the builder.

use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop, run_base};
use cofferdam_tests::{Blob, Context, Outcome, digest, images};
use serde_json::{Value, json};

const LIFECYCLE: &str = "io.buildpacks.lifecycle.metadata";
const CACHE: &str = "io.buildpacks.lifecycle.cache.metadata";
/// Who can push can forge it, so the hostile images have it.
const CACHE_FLOW: &str = "io.cofferdam.buildpacks.flow";
const BUILDER: &str = "io.buildpacks.builder.metadata";
const ORDER: &str = "io.buildpacks.buildpack.order";
const LAYERS: &str = "io.buildpacks.buildpack.layers";

/// Nothing else on a machine that runs these tests has such a name.
const EVIL: &str = "evil-8c1f4a";

/// Says what came back: its own directory, and everything with a name that should be nowhere.
const LOOKS: &str = r#"
echo "own: $(cd "$CNB_LAYERS_DIR" && find . | sort | tr '\n' ' ')"
echo "data: $(cat "$CNB_LAYERS_DIR/c/data" 2>/dev/null)"
echo "elsewhere: $(find / -xdev -name 'evil-8c1f4a*' 2>/dev/null | tr '\n' ' ')$(find /layers /workspace /cnb /platform -name 'evil-8c1f4a*' 2>/dev/null | tr '\n' ' ')"
for toml in "$CNB_LAYERS_DIR"/*.toml; do test -f "$toml" && sed "s/^/toml: /" "$toml"; done
rm -rf "$CNB_LAYERS_DIR"/*
"#;

struct Setup {
    workshop: Workshop,
    builder: String,
    app: Context,
}

impl Setup {
    fn new() -> Self {
        let workshop = Workshop::new();
        workshop.buildpack("looks", "exit 0", LOOKS);
        workshop.buildpack("other", "exit 0", LOOKS);
        let builder = workshop.image("builder", &["looks", "other"]);
        Self { workshop, builder, app: Context::new(&[("file", "1")]) }
    }

    /// Changes labels of the image `name`, with the result under `changed`; gives its reference.
    fn relabel(&self, name: &str, changed: &str, labels: &[(&str, &str)]) -> String {
        let image = self.workshop.pull(name);
        let mut config = image.config.clone();
        for (label, value) in labels {
            config["config"]["Labels"][label] = (*value).into();
        }
        self.push(changed, &image.layers, &config)
    }

    fn push(&self, name: &str, layers: &[Blob], config: &Value) -> String {
        let reference = self.workshop.reference(name);
        let registry = self.workshop.registry();
        let path = reference.strip_prefix(registry.address()).unwrap().trim_start_matches('/');
        let (repository, tag) = path.rsplit_once(':').unwrap();
        registry.push_image(repository, tag, layers, config);
        reference
    }

    fn build(&self, flow: Flow, flag: &str, image: &str) -> Outcome {
        self.app.write("file", format!("{:?}", std::time::Instant::now()));
        let build = self.workshop.build(&self.app, &self.builder, flow);
        build.args("--no-cache").arg(flag).arg(image).run()
    }
}

fn said(outcome: &Outcome) -> String {
    outcome.log("[build] test/looks@1.0.0")
}

fn nothing_elsewhere(said: &str) -> bool {
    said.lines().any(|line| line.trim() == "elsewhere:")
}

/// Came to an end, and not by a panic; what failed names what is wrong.
fn ended_well(outcome: &Outcome, what: &str) {
    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    if outcome.code != Some(0) {
        let code = outcome.code;
        assert!(code.is_some_and(|code| code != 101), "{what}: {code:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("io.buildpacks"), "{what}: {}", outcome.stderr);
    }
}

fn of_looks(layers: &Value) -> Value {
    json!({ "buildpacks": [{ "key": "test/looks", "version": "1.0.0", "layers": layers }] })
}

#[test]
fn a_previous_image_whose_label_is_none_is_ignored_and_named() {
    let setup = Setup::new();
    let _ = setup.build(Flow::Trusted, "--run-image", &run_base()).success();
    let deep = "[".repeat(200_000);
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(3 << 20));
    let labels =
        ["{", "[]", "1", "\"x\"", "", "{\"buildpacks\":{}}", "{\"buildpacks\":[1]}", &deep];
    for (number, text) in labels.into_iter().chain([huge.as_str()]).enumerate() {
        let what: String = text.chars().take(20).collect();
        let image = setup.relabel("app-trusted", &format!("broken-{number}"), &[(LIFECYCLE, text)]);
        for flow in FLOWS {
            let outcome = setup.build(flow, "--previous-image", &image).success();
            assert!(said(&outcome).starts_with("own: . \n"), "{what}: {}", said(&outcome));
            let told = outcome.log("find run and previous image");
            // An empty list is no more than an empty table.
            if !text.starts_with("{\"x\"") && text != "[]" {
                assert!(told.contains(LIFECYCLE) && told.contains(&image), "{what}: {told}");
            }
        }
    }
}

#[test]
fn nulls_as_other_platforms_write_them_are_nothing() {
    let setup = Setup::new();
    let _ = setup.build(Flow::Trusted, "--run-image", &run_base()).success();
    let text = r#"{"app":null,"sbom":null,"buildpacks":[{"key":"test/looks","version":"1.0.0","layers":null,"store":null},
        {"key":"test/other","version":"1.0.0","layers":{"l":{"sha":"","data":null,"build":false,"launch":true,"cache":false}}}],
        "config":{"sha":""},"launcher":{"sha":""},"process-types":{"sha":""},"runImage":{"topLayer":"","reference":"","mirrors":null},"stack":{"runImage":{"image":"","mirrors":null}}}"#;
    for (name, text) in [("nulls", text), ("null", "null"), ("none", "{\"buildpacks\":null}")] {
        let image = setup.relabel("app-trusted", name, &[(LIFECYCLE, text)]);
        for flow in FLOWS {
            let outcome = setup.build(flow, "--previous-image", &image).success();
            assert!(said(&outcome).starts_with("own: . \n"), "{name}: {}", said(&outcome));
            let other = outcome.log("[build] test/other@1.0.0");
            assert_eq!(other.contains("./l.toml"), name == "nulls", "{name}: {other}");
        }
    }
}

#[test]
fn layers_of_a_label_stay_in_the_directory_of_their_buildpack() {
    let setup = Setup::new();
    let _ = setup.build(Flow::Trusted, "--run-image", &run_base()).success();
    let nowhere = digest(b"a layer that nobody has");
    let mut layers = json!({
        "fine": { "sha": nowhere, "launch": true, "data": {
            "kept": "yes", "none": null, "list": [1, null, { "deep": null }],
            "large": 18_446_744_073_709_551_615_u64, "": "empty", "a.b\n[c]": "\u{0}\u{1b}[2J",
        } },
        "scalar": { "sha": nowhere, "launch": true, "data": "text" },
    });
    for name in [
        format!("../{EVIL}"),
        format!("../test_other/{EVIL}"),
        format!("/{EVIL}"),
        format!("{EVIL}/x"),
        "..".to_owned(),
        ".".to_owned(),
        String::new(),
        format!("{EVIL}\0"),
        format!("{EVIL}\n"),
        format!("{EVIL}{}", "x".repeat(300)),
        "store".to_owned(),
        "launch".to_owned(),
    ] {
        layers[name] = json!({ "sha": nowhere, "launch": true, "data": { "x": 1 } });
    }
    let mut metadata = of_looks(&layers);
    metadata["buildpacks"][0]["store"] = json!({ "metadata": { "none": null, "n": [null] } });
    let more = json!({ "key": "../test_other", "layers": { EVIL: { "launch": true } } });
    metadata["buildpacks"].as_array_mut().unwrap().push(more);
    metadata["sbom"] = json!({ "sha": nowhere });
    let image = setup.relabel("app-trusted", "names", &[(LIFECYCLE, &metadata.to_string())]);
    for flow in FLOWS {
        let outcome = setup.build(flow, "--previous-image", &image).success();
        let said = said(&outcome);
        assert!(said.starts_with("own: . ./fine.toml ./scalar.toml ./store.toml \n"), "{said}");
        assert!(nothing_elsewhere(&said), "{said}");
        assert!(said.contains("kept = \"yes\"") && !said.contains("none"), "{said}");
        assert!(outcome.log("[build] test/other@1.0.0").starts_with("own: . \n"));
    }
}

/// A tar entry whose name nobody has looked at.
fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    name: &str,
    link: &str,
    text: &str,
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(1001);
    header.set_gid(1000);
    header.set_size(text.len() as u64);
    header.set_mtime(0);
    if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
        header.set_device_major(1).unwrap();
        header.set_device_minor(5).unwrap();
    }
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    tar.append(&header, text.as_bytes()).unwrap();
}

type Entries<'a> = &'a [(tar::EntryType, &'a str, &'a str)];

/// Pushes a cache image with one layer `c` of the buildpack `test/looks`, which has these entries before its own.
fn cache_image(setup: &Setup, name: &str, entries: Entries<'_>, after: Entries<'_>) -> String {
    use tar::EntryType::{Directory, Regular};
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |(kind, name, link): &(tar::EntryType, &str, &str)| {
        let text = if *kind == Regular { EVIL } else { "" };
        entry(&mut tar, *kind, name, link, text);
    };
    entries.iter().for_each(&mut add);
    if after.is_empty() {
        for directory in ["layers", "layers/test_looks", "layers/test_looks/c"] {
            add(&(Directory, directory, ""));
        }
    }
    after.iter().for_each(&mut add);
    entry(&mut tar, Regular, "layers/test_looks/c/data", "", "kept");
    let tar = tar.into_inner().unwrap();
    let sha = digest(&tar);
    let metadata = of_looks(&json!({ "c": { "sha": sha, "cache": true } })).to_string();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Labels": { CACHE: metadata, CACHE_FLOW: "trusted" } },
        "rootfs": { "type": "layers", "diff_ids": [sha] },
    });
    setup.push(name, &[images::layer(&tar)], &config)
}

#[test]
fn files_elsewhere_in_a_cached_layer_are_not_seen() {
    use tar::EntryType::{Directory, Regular};
    let setup = Setup::new();
    let names: Vec<String> = [
        "",
        "etc/",
        "cnb/",
        "cnb/buildpacks/",
        "platform/env/",
        "workspace/",
        "layers/",
        "tmp/",
        "layers/test_other/",
        "/root/",
        "usr/bin/",
        "layers/sbom/",
    ]
    .map(|directory| format!("{directory}{EVIL}"))
    .into();
    let mut entries: Vec<(tar::EntryType, &str, &str)> =
        names.iter().map(|name| (Regular, name.as_str(), "")).collect();
    entries.push((Directory, "layers/test_other", ""));
    entries.push((Regular, "layers/test_other/store.toml", ""));
    let image = cache_image(&setup, "foreign", &entries, &[]);
    for flow in FLOWS {
        let outcome = setup.build(flow, "--cache-image", &image).success();
        let said = said(&outcome);
        assert!(said.contains("data: kept\n"), "control: the layer came back: {said}");
        assert!(said.starts_with("own: . ./c ./c.toml ./c/data \n"), "{said}");
        assert!(nothing_elsewhere(&said), "{said}");
        let other = outcome.log("[build] test/other@1.0.0");
        assert!(other.starts_with("own: . \n") && nothing_elsewhere(&other), "{other}");
        let files = setup.workshop.app(flow).files();
        assert!(!files.keys().any(|path| path.contains(EVIL)), "{files:?}");
        // The build wrote a cache of its own there.
        let _ = cache_image(&setup, "foreign", &entries, &[]);
    }
}

#[test]
fn cached_layers_with_ways_out_lead_nowhere() {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let setup = Setup::new();
    let up = format!("../../../../../../../{EVIL}-up");
    let within = format!("layers/test_looks/c/../../../../{EVIL}-up");
    let through = format!("layers/test_looks/c/{EVIL}-through");
    let own = "layers/test_looks/c";
    let c: Entries<'_> =
        &[(Directory, "layers", ""), (Directory, "layers/test_looks", ""), (Directory, own, "")];
    let cases: &[(&str, Entries<'_>, Entries<'_>)] = &[
        ("up", &[(Regular, &up, "")], &[]),
        ("within", &[(Regular, &within, "")], &[]),
        ("char", &[(Char, "layers/test_looks/c/device", "")], &[]),
        ("block", &[(Block, "layers/test_looks/c/device", "")], &[]),
        ("fifo", &[(Fifo, "layers/test_looks/c/fifo", "")], &[]),
        ("hard-link", &[(Link, "layers/test_looks/c/passwd", "../../../../../etc/passwd")], &[]),
        ("layers-link", &[(Symlink, "layers", "/tmp"), (Regular, "layers/x", "")], c),
        ("own-link", &c[..2], &[(Symlink, own, "/tmp"), (Regular, &through, "")]),
        ("up-link", &c[..2], &[(Symlink, own, "../../../../../../tmp"), (Regular, &through, "")]),
        ("id-link", &c[..1], &[(Symlink, "layers/test_looks", "/cnb"), (Regular, &through, "")]),
        ("file", &[(Regular, "layers", "")], c),
        ("whiteout", &[(Regular, "layers/.wh.test_looks", ""), (Regular, ".wh..wh..opq", "")], &[]),
    ];
    for (name, before, after) in cases {
        let image = cache_image(&setup, &format!("way-{name}"), before, after);
        for flow in FLOWS {
            let outcome = setup.build(flow, "--cache-image", &image);
            assert!(!outcome.stderr.contains("panicked"), "{name}: {}", outcome.stderr);
            for path in [format!("/{EVIL}-up"), format!("/tmp/{EVIL}-through")] {
                assert!(!std::path::Path::new(&path).exists(), "{name}: {path} on the host");
            }
            if ["up", "within", "hard-link", "whiteout"].contains(name) {
                let error = outcome.failure();
                assert!(error.contains("archive entry") && error.contains("refused"), "{error}");
            } else {
                let outcome = outcome.success();
                let said = said(&outcome);
                let elsewhere = said.lines().find(|line| line.starts_with("elsewhere:")).unwrap();
                let paths = elsewhere.split_whitespace().skip(1);
                let mut out = paths.filter(|path| !path.starts_with("/layers/test_looks/"));
                assert_eq!(out.next(), None, "{name}: {said}");
                let other = outcome.log("[build] test/other@1.0.0");
                assert!(other.starts_with("own: . \n"), "{name}: {other}");
                assert!(!said.contains("device"), "{name}: {said}");
            }
            // A build that ended well wrote a cache of its own there.
            let _ = cache_image(&setup, &format!("way-{name}"), before, after);
        }
    }
}

#[test]
fn a_cache_image_that_is_none_gives_nothing_back() {
    let setup = Setup::new();
    let nowhere = digest(b"a layer that nobody has");
    let gone = of_looks(&json!({
        "c": { "sha": nowhere, "cache": true },
        "../x": { "sha": nowhere, "cache": true },
        "d": { "sha": "sha256:../../../x", "cache": true },
    }))
    .to_string();
    let deep = "{\"a\":".repeat(100_000);
    for (number, text) in
        ["{", "[]", "null", "{\"buildpacks\":null}", "{\"buildpacks\":[null]}", &gone, &deep]
            .into_iter()
            .enumerate()
    {
        let what: String = text.chars().take(30).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Labels": { CACHE: text, CACHE_FLOW: "trusted" } },
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        for flow in FLOWS {
            let image = setup.push(&format!("no-cache-{number}"), &[], &config);
            let outcome = setup.build(flow, "--cache-image", &image);
            ended_well(&outcome, &what);
            if outcome.code == Some(0) {
                assert!(said(&outcome).starts_with("own: . \n"), "{what}: {}", said(&outcome));
            }
        }
    }
}

#[test]
fn a_builder_with_a_label_that_is_none_is_refused() {
    let mut setup = Setup::new();
    let deep = "[".repeat(200_000);
    let outside = r#"[{"group":[{"id":"../../etc","version":"1.0.0"}]}]"#;
    let version = r#"[{"group":[{"id":"test/looks","version":"../../../etc"}]}]"#;
    let foreign = r#"{"../../etc":{"1.0.0":{"api":"0.12"}}}"#;
    for (number, (label, text)) in [
        (BUILDER, "{"),
        (BUILDER, "[1]"),
        (BUILDER, &deep),
        (ORDER, "{}"),
        (ORDER, "[{\"group\":1}]"),
        (ORDER, &deep),
        (ORDER, outside),
        (ORDER, version),
        (LAYERS, "[]"),
        (LAYERS, "{\"test/looks\":1}"),
        (LAYERS, &deep),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{label}: {}", text.chars().take(30).collect::<String>());
        setup.builder = setup.relabel("builder", &format!("builder-{number}"), &[(label, text)]);
        for flow in FLOWS {
            let outcome = setup.build(flow, "--run-image", &run_base());
            ended_well(&outcome, &what);
            let error = outcome.failure();
            assert!(error.contains(label), "{what}: {error}");
        }
    }
    setup.builder = setup.relabel("builder", "builder-foreign", &[(LAYERS, foreign)]);
    let outcome = setup.build(Flow::Untrusted, "--run-image", &run_base());
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(!outcome.mentions("[build] ../"), "{}", outcome.stderr);
}

#[test]
fn nulls_in_labels_of_a_builder_are_nothing() {
    let mut setup = Setup::new();
    let image = setup.workshop.pull("builder");
    let mut metadata = cofferdam_tests::buildpacks::label(&image, BUILDER);
    for key in ["buildpacks", "extensions", "mixins"] {
        metadata[key] = Value::Null;
    }
    metadata["images"][0]["mirrors"] = Value::Null;
    metadata["stack"]["runImage"]["mirrors"] = Value::Null;
    let labels = [
        (BUILDER, &*metadata.to_string()),
        ("io.buildpacks.buildpack.order-extensions", "null"),
        ("io.buildpacks.extension.layers", "null"),
    ];
    setup.builder = setup.relabel("builder", "builder-nulls", &labels);
    for flow in FLOWS {
        let outcome = setup.build(flow, "--run-image", &run_base()).success();
        assert!(said(&outcome).starts_with("own: . \n"), "{}", said(&outcome));
    }
}

type Change = fn(&mut Value);

#[test]
fn configs_that_are_not_of_their_layers_break_nothing() {
    let mut setup = Setup::new();
    let _ = setup.build(Flow::Trusted, "--run-image", &run_base()).success();
    let good = setup.workshop.pull("app-trusted");
    let own_builder = setup.workshop.pull("builder");
    let fine = setup.builder.clone();
    let changes: [(&str, Change); 6] = [
        ("no-ids", |config| config["rootfs"]["diff_ids"] = json!([])),
        ("other-ids", |config| config["rootfs"]["diff_ids"][0] = digest(b"other").into()),
        ("wrong-ids", |config| config["rootfs"]["diff_ids"][0] = "sha256:../../x".into()),
        ("no-rootfs", |config| config["rootfs"] = Value::Null),
        ("no-config", |config| config["config"] = Value::Null),
        ("number", |config| config["config"]["Labels"] = json!({ LIFECYCLE: 1, BUILDER: [] })),
    ];
    for (name, change) in changes {
        let (mut previous, mut builder) = (good.config.clone(), own_builder.config.clone());
        change(&mut previous);
        change(&mut builder);
        let previous = setup.push(&format!("previous-{name}"), &good.layers, &previous);
        let builder = setup.push(&format!("builder-{name}"), &own_builder.layers, &builder);
        for flow in FLOWS {
            let outcome = setup.build(flow, "--previous-image", &previous).success();
            assert!(said(&outcome).starts_with("own: . \n"), "{name}: {}", said(&outcome));
            setup.builder.clone_from(&builder);
            let outcome = setup.build(flow, "--run-image", &run_base());
            setup.builder.clone_from(&fine);
            assert!(!outcome.stderr.contains("panicked"), "{name}: {}", outcome.stderr);
            let error = outcome.failure();
            let told = ["config", "no label"].iter().any(|part| error.contains(part));
            assert!(told, "{name}: {error}");
        }
    }
}
