#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;

fn config(env: Value, labels: &[(&str, Value)]) -> Vec<u8> {
    let labels = labels.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        ((*name).to_owned(), Value::String(text))
    });
    let labels = labels.collect::<serde_json::Map<_, _>>();
    json!({
        "os": "linux", "architecture": "amd64",
        "config": {"Env": env, "Labels": labels, "WorkingDir": "/layers", "User": "1000:1000"},
    })
    .to_string()
    .into_bytes()
}

fn ids() -> Value {
    json!(["PATH=/bin", "CNB_USER_ID=1000", "CNB_GROUP_ID=1001", "X=a=b", "odd"])
}

fn metadata() -> Value {
    json!({
        "description": "ours",
        "buildpacks": [{"id": "a/b", "version": "1.0.0", "name": "AB", "keywords": ["k"]}],
        "stack": {"runImage": {"image": "old/run", "mirrors": null}},
        "images": [{"image": "run:1", "mirrors": ["m.io/run:1"]}],
        "lifecycle": {"version": "0.20.0", "apis": {
            "buildpack": {"supported": ["0.10"]},
            "platform": {"deprecated": null, "supported": ["0.14", "0.15"]}}},
    })
}

fn layers() -> Value {
    json!({
        "a/b": {"1.0.0": {"api": "0.10", "layerDiffID": "sha256:1", "homepage": "h",
                          "targets": [{"os": "linux", "arch": "amd64"}]}},
        "a/c": {"1.0.0": {"api": "0.9", "stacks": [{"id": "*"}]}, "2.0.0": {"api": "0.2"}},
        "a/all": {"1.0.0": {"api": "0.9", "order": [{"group": [{"id": "a/b", "version": "1.0.0"}]}]}},
    })
}

fn builder() -> BuilderImage {
    let labels = [
        ("io.buildpacks.builder.metadata", metadata()),
        ("io.buildpacks.buildpack.layers", layers()),
        ("io.buildpacks.extension.layers", json!({"e": {"1": {"api": "0.10"}}})),
        ("io.buildpacks.buildpack.order", json!([{"group": [{"id": "a/b", "optional": true}]}])),
        ("io.buildpacks.buildpack.order-extensions", json!([{"group": [{"id": "e"}]}])),
        (
            "io.buildpacks.buildpack.system",
            json!({"pre": {"buildpacks": [{"id": "s", "version": "1"}]}}),
        ),
        ("io.buildpacks.stack.id", json!("a.stack")),
        ("io.buildpacks.stack.mixins", json!(["git", "build:gcc"])),
        ("io.buildpacks.base.distro.name", json!("debian")),
        ("io.buildpacks.base.distro.version", json!("12")),
    ];
    BuilderImage::parse(&config(ids(), &labels)).unwrap()
}

#[test]
fn a_builder_is_read() {
    let image = builder();
    assert_eq!((image.uid, image.gid), (1000, 1001));
    assert_eq!(image.env["X"], "a=b");
    assert_eq!(image.run_images[0].image, "run:1");
    assert_eq!(image.order[0].group[0].id, "a/b");
    assert_eq!(image.order_extensions[0].group[0].id, "e");
    assert_eq!(image.system.pre.buildpacks[0].id, "s");
    assert_eq!(image.mixins, ["git", "build:gcc"]);
    assert_eq!((image.stack_id.as_str(), image.workdir.as_str()), ("a.stack", "/layers"));
    assert_eq!(image.user, "1000:1000");
    assert_eq!(image.target.distros[0].name, "debian");
}

#[test]
fn modules_are_found_by_id_and_version() {
    let image = builder();
    let find = |id: &str, version: Option<&str>| image.find(Kind::Buildpack, id, version);
    assert_eq!(find("a/b", None).unwrap().to_string(), "a/b@1.0.0");
    assert_eq!(find("a/c", Some("2.0.0")).unwrap().to_string(), "a/c@2.0.0");
    assert!(matches!(find("a/c", None), Err(BuilderImageError::Ambiguous { .. })));
    for (id, version) in [("a/x", None), ("a/b", Some("2.0.0")), ("e", None), ("\u{1b}", None)] {
        let error = find(id, version).unwrap_err();
        assert!(matches!(error, BuilderImageError::NoModule { .. }), "{id}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    assert!(image.has(Kind::Buildpack, "a/c", None) && !image.has(Kind::Extension, "a/c", None));
    assert!(
        image.has(Kind::Extension, "e", Some("1")) && !image.has(Kind::Extension, "e", Some("2"))
    );
}

#[test]
fn root_and_nobody_are_refused() {
    let labels = [("io.buildpacks.builder.metadata", metadata())];
    for (env, name) in [
        (json!(["CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=0", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=00", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=+1", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=-1", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=4294967295", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=4294967296", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=\u{1b}[31m", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=1", "CNB_USER_ID=0", "CNB_GROUP_ID=1"]), "CNB_USER_ID"),
        (json!(["CNB_USER_ID=1"]), "CNB_GROUP_ID"),
        (json!(["CNB_USER_ID=1", "CNB_GROUP_ID=0"]), "CNB_GROUP_ID"),
        (Value::Null, "CNB_USER_ID"),
    ] {
        let error = BuilderImage::parse(&config(env, &labels)).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains('\u{1b}'), "{error:?}");
    }
}

#[test]
fn the_label_at_fault_is_named() {
    let missing = BuilderImage::parse(&config(ids(), &[])).unwrap_err().to_string();
    assert!(missing.contains("io.buildpacks.builder.metadata"), "{missing}");
    let hostile = "a\u{1b}[2J";
    for (label, value) in [
        ("io.buildpacks.builder.metadata", json!("[]x")),
        ("io.buildpacks.builder.metadata", json!({"buildpacks": {hostile: 1}})),
        ("io.buildpacks.buildpack.layers", json!({"../x": {}})),
        ("io.buildpacks.buildpack.layers", json!({"a": {"../1": {}}})),
        ("io.buildpacks.buildpack.layers", json!({hostile: {}})),
        ("io.buildpacks.buildpack.layers", json!({"a": {"1": {"order": hostile}}})),
        ("io.buildpacks.extension.layers", json!({"app": {}})),
        ("io.buildpacks.buildpack.order", json!([{"group": [{"id": hostile}]}])),
        ("io.buildpacks.buildpack.order", json!([{"group": []}])),
        (
            "io.buildpacks.buildpack.order-extensions",
            json!([{"group": [{"id": "a", "version": "/"}]}]),
        ),
        ("io.buildpacks.buildpack.system", json!("{")),
        ("io.buildpacks.stack.mixins", json!({"a": 1})),
    ] {
        let labels = [("io.buildpacks.builder.metadata", metadata()), (label, value)];
        let error = BuilderImage::parse(&config(ids(), &labels)).expect_err(label).to_string();
        assert!(error.contains(label) && !error.contains('\u{1b}'), "{error:?}");
    }
    for bytes in [&b""[..], b"{", b"[]", b"{\"config\":1}", b"\xff", &[b'['; 100_000]] {
        assert!(matches!(BuilderImage::parse(bytes), Err(BuilderImageError::Config(_))));
    }
    let large = vec![b' '; config::MAX_CONFIG + 1];
    assert!(matches!(BuilderImage::parse(&large), Err(BuilderImageError::Size)));
}

#[test]
fn the_latest_platform_api_that_both_speak_is_used() {
    for (lifecycle, expected) in [
        (json!({}), Some("0.15")),
        (json!({"api": {"platform": "0.15"}}), Some("0.15")),
        (json!({"api": {"platform": "0.4"}}), None),
        (json!({"apis": {"platform": {"supported": ["0.3", "\u{1b}"]}}}), None),
        (json!({"apis": {"platform": {"supported": ["0.16", "0.12", "0.9"]}}}), Some("0.12")),
        (json!({"apis": {"platform": {"supported": null, "deprecated": ["0.7"]}}}), Some("0.7")),
    ] {
        let labels = [("io.buildpacks.builder.metadata", json!({"lifecycle": lifecycle}))];
        let image = BuilderImage::parse(&config(ids(), &labels)).unwrap();
        match (image.platform_api(), expected) {
            (Ok(version), Some(expected)) => {
                assert_eq!(version.to_string(), expected, "{lifecycle}")
            }
            (Err(error), None) => assert!(!error.to_string().contains('\u{1b}'), "{error}"),
            (other, _) => panic!("{lifecycle}: {other:?}"),
        }
        assert!(image.run_images.is_empty() && image.order.is_empty());
    }
    let old = json!({"stack": {"runImage": {"image": "old/run"}}});
    let image = BuilderImage::parse(&config(ids(), &[("io.buildpacks.builder.metadata", old)]));
    assert_eq!(image.unwrap().run_images[0].image, "old/run");
}
