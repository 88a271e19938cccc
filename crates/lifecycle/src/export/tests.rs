#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cofferdam_cnb::{
    ApiVersion, BUILD_METADATA, EXEC_ENV, LIFECYCLE_METADATA, Label, MetadataModule,
    PROJECT_METADATA, Process, parse_json,
};
use serde_json::{Value, json};

use super::*;
use crate::build::{BuiltLayer, BuiltModule};

fn sha(digit: char) -> String {
    format!("sha256:{}", String::from(digit).repeat(64))
}

fn module(id: &str) -> ModuleRef {
    ModuleRef {
        kind: cofferdam_cnb::Kind::Buildpack,
        id: cofferdam_cnb::Id::parse(id).unwrap(),
        version: cofferdam_cnb::Version::parse("1.0").unwrap(),
    }
}

/// Layers as `name: flags`, `!` after the flags for one without contents.
fn built(id: &str, layers: &[(&str, &str)]) -> BuiltModule {
    let layer = |(name, flags): &(&str, &str)| {
        let types = cofferdam_cnb::LayerTypes {
            launch: flags.contains("launch"),
            build: flags.contains("build"),
            cache: flags.contains("cache"),
        };
        let metadata = "v = 1\nat = 1979-05-27\n".parse().unwrap();
        let exists = !flags.ends_with('!');
        ((*name).to_owned(), BuiltLayer { types, metadata, exists, ..BuiltLayer::default() })
    };
    BuiltModule {
        module: module(id),
        api: ApiVersion::minor(12),
        layers: layers.iter().map(layer).collect(),
        processes: Vec::new(),
        labels: Vec::new(),
        slices: Vec::new(),
        met: Vec::new(),
        store: Some("kept = 1".parse().unwrap()),
        sboms: Vec::new(),
        warnings: Vec::new(),
    }
}

fn metadata(default_process: &str) -> MetadataFile {
    let process = |kind: &str| Process {
        kind: kind.to_owned(),
        command: vec!["srv".into(), "-x".into()],
        direct: Some(true),
        buildpack_id: "a/b".into(),
        ..Process::default()
    };
    let label = |key: &str, value: &str| Label { key: key.into(), value: value.into() };
    MetadataFile {
        buildpacks: vec![MetadataModule {
            id: "a/b".into(),
            version: "1.0".into(),
            api: "0.12".into(),
            homepage: "h".into(),
        }],
        processes: vec![process("job"), process("web")],
        default_process: default_process.to_owned(),
        labels: vec![
            label("k", "first"),
            label("k", "last"),
            label("run", "mine"),
            label(LIFECYCLE_METADATA, "{}"),
        ],
        ..MetadataFile::default()
    }
}

fn run_config() -> Value {
    json!({
        "architecture": "arm64", "os": "linux", "variant": "v8", "container": "x", "unknown": {"kept": 1},
        "rootfs": {"type": "layers", "diff_ids": [sha('1'), sha('2'), sha('e')]},
        "history": [{"created_by": "one", "created": "2020-01-01T00:00:00Z"}, {"created_by": "env", "empty_layer": true},
            {"created_by": "two"}, {"created_by": "ext"}],
        "config": {"Env": ["PATH=/bin", "A=1", "CNB_APP_DIR=/old"], "User": "1000:1000", "Cmd": ["sh"],
            "Entrypoint": ["old"], "WorkingDir": "/", "Labels": {"run": "theirs", "base": "kept", EXEC_ENV: "old"},
            "ExposedPorts": {"80/tcp": {}}},
    })
}

fn layers() -> Vec<ExportLayer> {
    let launch = |name: &str| LayerKind::Launch { module: module("a/b"), name: name.to_owned() };
    let kinds = [
        launch("jre"),
        LayerKind::Sbom,
        LayerKind::Slice(1),
        LayerKind::Slice(2),
        LayerKind::Launcher,
        LayerKind::Config,
        LayerKind::ProcessTypes,
    ];
    let layer = |(at, kind)| ExportLayer { kind, diff_id: sha(char::from(b'3' + at)) };
    (0u8..).zip(kinds).map(layer).collect()
}

struct Parts {
    run_config: Value,
    metadata: MetadataFile,
    process_type: Option<&'static str>,
    platform_api: u32,
    created: i64,
}

impl Default for Parts {
    fn default() -> Self {
        let (run_config, metadata) = (run_config(), metadata("web"));
        Self { run_config, metadata, process_type: None, platform_api: 15, created: EPOCH }
    }
}

fn export(parts: &Parts) -> Result<(Value, AppImage), ExportError> {
    let run_image = RunImageMetadata {
        reference: "run@sha256:1".into(),
        image: "run".into(),
        mirrors: vec!["m/run".into()],
        ..RunImageMetadata::default()
    };
    let image = image_config(&ExportRequest {
        run_config: &parts.run_config,
        extension_layers: 1,
        layers: &layers(),
        modules: &[built("a/b", &[("jre", "launch+cache"), ("jdk", "build+cache")])],
        metadata: &parts.metadata,
        run_image: &run_image,
        project: &Value::Null,
        process_type: parts.process_type,
        exec_env: "production",
        app_dir: "/workspace",
        layers_dir: "/layers",
        launcher: &Launcher { version: "0.1".into(), ..Launcher::default() },
        created: parts.created,
        platform_api: ApiVersion::minor(parts.platform_api),
    })?;
    Ok((serde_json::from_slice(&image.config).unwrap(), image))
}

#[test]
fn config_is_the_run_images_with_what_an_app_needs() {
    let (config, image) = export(&Parts::default()).unwrap();
    let inner = &config["config"];
    assert_eq!(config["architecture"], "arm64");
    assert_eq!((&config["variant"], &config["unknown"]["kept"]), (&json!("v8"), &json!(1)));
    assert!(config.get("container").is_none());
    let env = [
        "PATH=/cnb/process:/cnb/lifecycle:/bin",
        "A=1",
        "CNB_APP_DIR=/workspace",
        "CNB_LAYERS_DIR=/layers",
        "CNB_PLATFORM_API=0.15",
        "CNB_DEPRECATION_MODE=quiet",
    ];
    assert_eq!(inner["Env"], json!(env));
    assert_eq!((&inner["User"], &inner["WorkingDir"]), (&json!("1000:1000"), &json!("/workspace")));
    assert_eq!(inner["Entrypoint"], json!(["/cnb/process/web"]));
    assert!(inner.get("Cmd").is_none() && inner.get("ExposedPorts").is_some());
    assert_eq!(image.default_process.as_deref(), Some("web"));
    assert_eq!(config["created"], "1980-01-01T00:00:01Z");
}

#[test]
fn layers_have_their_order_and_history() {
    let (config, _) = export(&Parts::default()).unwrap();
    let ids: Vec<String> = ['1', '2', 'e', '3', '4', '5', '6', '7', '8', '9'].map(sha).to_vec();
    assert_eq!(config["rootfs"], json!({"type": "layers", "diff_ids": ids}));
    let history = config["history"].as_array().unwrap();
    let texts: Vec<&str> = history.iter().map(|e| e["created_by"].as_str().unwrap()).collect();
    let expected = [
        "one",
        "two",
        "ext",
        "Layer: 'jre', Created by buildpack: a/b@1.0",
        "Software Bill-of-Materials",
        "Application Slice: 1",
        "Application Slice: 2",
        "Buildpacks Application Launcher",
        "Buildpacks Launcher Config",
        "Buildpacks Process Types",
    ];
    assert_eq!(texts, expected);
    assert!(history.iter().all(|entry| entry["created"] == "1980-01-01T00:00:01Z"));
    assert_eq!(LayerKind::Application.created_by(), "Application Layer");
    let extension = LayerKind::Extension { instruction: "RUN x".into(), id: "e/x".into() };
    assert_eq!(extension.created_by(), "Layer: 'RUN x', Created by extension: e/x");
}

#[test]
fn history_is_blank_where_it_does_not_fit() {
    let mut parts = Parts::default();
    parts.run_config["history"] = json!([{"created_by": "one"}, "odd"]);
    let (config, _) = export(&parts).unwrap();
    assert_eq!(config["history"].as_array().unwrap().len(), 10);
    assert!(config["history"][0].get("created_by").is_none());
    assert_eq!(config["history"][4]["created_by"], "Software Bill-of-Materials");
    let (config, _) = export(&Parts { platform_api: 11, ..Parts::default() }).unwrap();
    let history = config["history"].as_array().unwrap();
    assert!(history.iter().all(|entry| entry.as_object().unwrap().len() == 1));
}

#[test]
fn labels_tell_the_next_build_what_is_in_the_image() {
    let (config, image) = export(&Parts::default()).unwrap();
    let labels = &config["config"]["Labels"];
    let json_of =
        |name: &str| serde_json::from_str::<Value>(labels[name].as_str().unwrap()).unwrap();
    let label = json_of(LIFECYCLE_METADATA);
    assert_eq!(label["app"], json!([{"sha": sha('5')}, {"sha": sha('6')}]));
    assert_eq!(
        (&label["sbom"]["sha"], &label["launcher"]["sha"]),
        (&json!(sha('4')), &json!(sha('7')))
    );
    assert_eq!(
        (&label["config"]["sha"], &label["process-types"]["sha"]),
        (&json!(sha('8')), &json!(sha('9')))
    );
    let jre = json!({"sha": sha('3'), "data": {"v": 1, "at": "1979-05-27"}, "build": false, "launch": true, "cache": true});
    let buildpack = json!({"key": "a/b", "version": "1.0", "layers": {"jre": jre}, "store": {"metadata": {"kept": 1}}});
    assert_eq!(label["buildpacks"], json!([buildpack]), "only launch layers");
    let run = json!({"topLayer": sha('2'), "reference": "run@sha256:1", "image": "run", "mirrors": ["m/run"]});
    assert_eq!(label["runImage"], run, "extension layers are not the run image's");
    assert_eq!(label["stack"]["runImage"], json!({"image": "run", "mirrors": ["m/run"]}));
    assert_eq!(
        parse_json::<LifecycleMetadata>("l", labels[LIFECYCLE_METADATA].as_str().unwrap()).unwrap(),
        image.lifecycle
    );
    let build = json_of(BUILD_METADATA);
    assert_eq!(build["buildpacks"], json!([{"id": "a/b", "version": "1.0", "homepage": "h"}]));
    assert_eq!(build["processes"][1]["command"], json!(["srv", "-x"]));
    assert_eq!(build["processes"][1]["buildpackID"], "a/b");
    assert_eq!(
        (&build["buildpack-default-process-type"], &build["launcher"]["version"]),
        (&json!("web"), &json!("0.1"))
    );
    assert_eq!(
        (&labels[PROJECT_METADATA], &labels[EXEC_ENV]),
        (&json!("{}"), &json!("production"))
    );
    assert_eq!(
        (&labels["k"], &labels["run"], &labels["base"]),
        (&json!("last"), &json!("mine"), &json!("kept"))
    );
    assert_eq!(image.warnings.len(), 1, "a buildpack's label cannot replace the lifecycle's");
}

#[test]
fn older_platform_apis_have_fewer_labels() {
    let (config, image) = export(&Parts { platform_api: 14, ..Parts::default() }).unwrap();
    assert!(config["config"]["Labels"].get(EXEC_ENV).is_none());
    assert_eq!(image.lifecycle.run_image.image, "run");
    let (_, image) = export(&Parts { platform_api: 11, ..Parts::default() }).unwrap();
    assert!(image.lifecycle.run_image.image.is_empty());
    assert_eq!(image.lifecycle.stack.run_image.image, "run");
}

#[test]
fn the_process_that_starts() {
    let entrypoint =
        |parts: &Parts| export(parts).map(|(config, _)| config["config"]["Entrypoint"][0].clone());
    let asked = |process_type| Parts { process_type, ..Parts::default() };
    assert_eq!(entrypoint(&asked(Some("job"))).unwrap(), "/cnb/process/job");
    assert_eq!(entrypoint(&asked(None)).unwrap(), "/cnb/process/web");
    let none = Parts { metadata: metadata(""), ..Parts::default() };
    assert_eq!(entrypoint(&none).unwrap(), LAUNCHER_PATH);
    let error = entrypoint(&asked(Some("nope"))).unwrap_err();
    assert_eq!(error.exit_code(), 62);
    assert_eq!(
        error.to_string(),
        "default process type \"nope\" is not among the image's: job, web"
    );
}

#[test]
fn odd_run_images() {
    let with = |run_config: Value| export(&Parts { run_config, ..Parts::default() });
    let (config, image) = with(json!({})).unwrap();
    assert_eq!(image.lifecycle.run_image.top_layer, "");
    assert_eq!(config["config"]["Env"][0], "CNB_LAYERS_DIR=/layers");
    assert_eq!(config["config"]["Env"][4], "PATH=/cnb/process:/cnb/lifecycle");
    assert!(with(json!({"config": null, "rootfs": {"diff_ids": null}, "history": null})).is_ok());
    assert!(with(json!({"config": {"Env": [1, "X"], "Labels": []}})).is_ok());
    for wrong in [
        json!([]),
        json!(null),
        json!({"rootfs": {"diff_ids": [1]}}),
        json!({"rootfs": {"diff_ids": 1}}),
        json!({"config": 1}),
    ] {
        assert!(matches!(with(wrong), Err(ExportError::RunConfig { .. })));
    }
}

#[test]
fn creation_times() {
    for (seconds, text) in [
        (EPOCH, "1980-01-01T00:00:01Z"),
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_102_444_800, "2100-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (i64::MAX, "9999-12-31T23:59:59Z"),
        (i64::MIN, "0001-01-01T00:00:00Z"),
    ] {
        assert_eq!(rfc3339(seconds), text);
    }
}

#[test]
fn launch_layers_are_reused_or_there() {
    let previous = |layers: Value| {
        let label = json!({"buildpacks": [{"key": "a/b", "layers": layers}]});
        parse_json::<LifecycleMetadata>("l", &label.to_string()).unwrap()
    };
    let label = previous(json!({"jre": {"sha": sha('1')}, "bad": {"sha": "../x"}}));
    let of = |layers: &[(&str, &str)], label: Option<&LifecycleMetadata>| {
        launch_layers(&[built("a/b", layers), built("c", &[("z", "launch")])], label)
    };
    let all = of(
        &[("z", "launch"), ("jre", "launch!"), ("x", "build"), ("a", "launch+build")],
        Some(&label),
    )
    .unwrap();
    let names: Vec<String> =
        all.iter().map(|layer| format!("{}:{}", layer.module.id, layer.name)).collect();
    assert_eq!(names, ["a/b:a", "a/b:jre", "a/b:z", "c:z"]);
    assert_eq!(all[1].source, LaunchSource::Previous(sha('1')));
    assert_eq!((&all[0].source, &all[0].previous), (&LaunchSource::Contents, &None));
    let with = of(&[("jre", "launch")], Some(&label)).unwrap();
    assert_eq!(
        (&with[0].source, with[0].previous.as_deref()),
        (&LaunchSource::Contents, Some(sha('1').as_str()))
    );
    assert!(matches!(of(&[("jre", "launch!")], None), Err(ExportError::NoPrevious { .. })));
    assert!(matches!(of(&[("bad", "launch!")], Some(&label)), Err(ExportError::NoPrevious { .. })));
    let error = of(&[("jre", "launch+cache!")], Some(&label)).unwrap_err();
    assert_eq!(error.to_string(), "a/b@1.0: layer \"jre\" has cache = true and no contents");
}

#[test]
fn the_cache_has_layers_with_contents() {
    let modules = [built(
        "a/b",
        &[("l", "launch"), ("c", "cache"), ("bc", "build+cache"), ("gone", "cache!")],
    )];
    let names: Vec<String> = cached_layers(&modules).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["bc", "c"]);
    let key = |name: &str| (module("a/b"), name.to_owned());
    let digests = BTreeMap::from([(key("c"), sha('c')), (key("l"), sha('d'))]);
    let cache = cache_metadata(&modules, &digests, Some(&sha('s')));
    let layers: Vec<&String> = cache.buildpacks[0].layers.keys().collect();
    assert_eq!(layers, ["c"], "without a digest, or not to be cached");
    assert!(cache.buildpacks[0].store.is_none() && cache.sbom.is_some());
    let label = serde_json::to_value(&cache).unwrap();
    assert_eq!(label["buildpacks"][0]["layers"]["c"]["sha"], sha('c'));
}

#[test]
fn files_of_the_launcher_and_the_report() {
    let metadata = metadata("web");
    assert_eq!(process_types(&metadata), ["job", "web"]);
    let text = String::from_utf8(metadata_toml(&metadata).unwrap()).unwrap();
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["processes"][0]["command"][1].as_str(), Some("-x"));
    assert_eq!(table["buildpack-default-process-type"].as_str(), Some("web"));
    let tags = ["a:1".to_owned(), "a:\"2".to_owned()];
    let report: toml::Table = report_toml(&tags, Some("sha256:x"), Some(12)).parse().unwrap();
    assert_eq!(report["image"]["tags"][1].as_str(), Some("a:\"2"));
    assert_eq!(report["image"]["manifest-size"].as_integer(), Some(12));
    let bare: toml::Table = report_toml(&tags, None, None).parse().unwrap();
    assert!(bare["image"].get("digest").is_none());
}
