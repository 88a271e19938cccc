#![allow(clippy::unwrap_used)]

use cofferdam_cnb::{DISTRO_NAME, DISTRO_VERSION, REBASABLE, STACK_ID, STACK_MIXINS};

use super::*;

fn metadata() -> Value {
    json!({
        "app": "very old form",
        "unknown": {"kept": true},
        "launcher": {"sha": "sha256:launcher"},
        "runImage": {"topLayer": "sha256:old2", "reference": "old@sha256:1",
            "image": "run/image:1", "mirrors": ["reg.example/run:1"]},
        "stack": {"runImage": {"image": "run/image:1"}},
    })
}

fn app() -> Value {
    json!({
        "architecture": "amd64", "os": "linux", "created": "2001-01-01T00:00:00Z", "author": "kept",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:old1", "sha256:old2", "sha256:app", "sha256:launcher"]},
        "history": [{"created_by": "o1"}, {"created_by": "env", "empty_layer": true}, {"created_by": "o2"},
            {"created_by": "app"}, {"created_by": "launcher"}],
        "config": {
            "Env": ["PATH=/x", "CNB_PLATFORM_API=0.12"], "User": "1000",
            "Labels": {
                LIFECYCLE_METADATA: metadata().to_string(), "mine": "kept",
                STACK_ID: "stack", "io.buildpacks.stack.gone": "x", "io.buildpacks.base.gone": "x",
            },
        },
    })
}

fn run() -> Value {
    json!({
        "architecture": "amd64", "os": "linux", "variant": "v2",
        "rootfs": {"diff_ids": ["sha256:new1"]},
        "history": [{"created_by": "n1"}],
        "config": {"Env": ["PATH=/new"], "Labels": {STACK_ID: "stack", "io.buildpacks.base.id": "b", "theirs": "x"}},
    })
}

fn attempt(app: &Value, run: &Value, name: &str, force: bool) -> Result<Rebased, RebaseError> {
    rebase(&RebaseRequest {
        app_config: app.to_string().as_bytes(),
        new_run_config: run.to_string().as_bytes(),
        new_run_reference: "run/image@sha256:2",
        new_run_image_name: name,
        force,
        platform_api: ApiVersion::minor(15),
        created: crate::export::EPOCH,
    })
}

fn set(config: &mut Value, label: &str, value: Option<&str>) {
    let labels = config["config"]["Labels"].as_object_mut().unwrap();
    match value {
        Some(value) => labels.insert(label.to_owned(), json!(value)),
        None => labels.remove(label),
    };
}

fn label_of(rebased: &Rebased) -> Value {
    let config: Value = serde_json::from_slice(&rebased.config).unwrap();
    serde_json::from_str(config["config"]["Labels"][LIFECYCLE_METADATA].as_str().unwrap()).unwrap()
}

#[test]
fn layers_up_to_the_top_layer_are_replaced() {
    let rebased = attempt(&app(), &run(), "run/image:1", false).unwrap();
    assert_eq!((rebased.keep_layers_from, rebased.warnings.len()), (2, 0));
    let config: Value = serde_json::from_slice(&rebased.config).unwrap();
    let layers = json!(["sha256:new1", "sha256:app", "sha256:launcher"]);
    assert_eq!(config["rootfs"]["diff_ids"], layers);
    let at = "1980-01-01T00:00:01Z";
    let history: Vec<(&str, &str)> = config["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["created_by"].as_str().unwrap(), entry["created"].as_str().unwrap()))
        .collect();
    assert_eq!(history, [("n1", at), ("app", at), ("launcher", at)]);
    assert_eq!((&config["variant"], &config["author"]), (&json!("v2"), &json!("kept")));
    assert_eq!(config["config"]["Env"][0], "PATH=/x", "the run image's env is not taken");
    assert_eq!(config["config"]["User"], "1000");
}

#[test]
fn labels_of_the_run_image_are_synced() {
    let rebased = attempt(&app(), &run(), "run/image:1", false).unwrap();
    let config: Value = serde_json::from_slice(&rebased.config).unwrap();
    let labels = config["config"]["Labels"].as_object().unwrap();
    let mut names: Vec<&str> = labels.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["io.buildpacks.base.id", LIFECYCLE_METADATA, STACK_ID, "mine"]);
    let label = label_of(&rebased);
    assert_eq!(label["runImage"]["topLayer"], "sha256:new1");
    assert_eq!(label["runImage"]["reference"], "run/image@sha256:2");
    assert_eq!(label["runImage"]["mirrors"][0], "reg.example/run:1");
    assert_eq!(
        (&label["app"], &label["unknown"]),
        (&json!("very old form"), &json!({"kept": true}))
    );
}

#[test]
fn names_must_be_known_unless_forced() {
    for name in [
        "run/image:1",
        "docker.io/run/image:1",
        "index.docker.io/run/image:1@sha256:9",
        "reg.example/run:1",
    ] {
        assert!(attempt(&app(), &run(), name, false).is_ok(), "{name}");
    }
    for name in ["run/image", "run/image:2", "other.example/run/image:1", "localhost:5000/run", ""]
    {
        let error = attempt(&app(), &run(), name, false).unwrap_err();
        assert!(matches!(error, RebaseError::Name(_)), "{error}");
        assert_eq!(error.exit_code(), 72);
    }
    let forced = attempt(&app(), &run(), "new/name", true).unwrap();
    let label = label_of(&forced);
    assert_eq!(label["runImage"]["image"], "new/name");
    assert!(label["runImage"].get("mirrors").is_none() && forced.warnings.len() == 1);
    assert_eq!(label["stack"]["runImage"]["image"], "new/name");
    let mut by_stack = app();
    let mut label = metadata();
    label["runImage"] = json!({"topLayer": "sha256:old2"});
    set(&mut by_stack, LIFECYCLE_METADATA, Some(&label.to_string()));
    assert!(attempt(&by_stack, &run(), "run/image:1", false).is_ok(), "by the deprecated form");
}

#[test]
fn targets_must_fit_unless_forced() {
    let case = |change: &dyn Fn(&mut Value, &mut Value)| {
        let (mut app, mut run) = (app(), run());
        change(&mut app, &mut run);
        let forced = attempt(&app, &run, "run/image:1", true).unwrap();
        let result =
            attempt(&app, &run, "run/image:1", false).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(forced.warnings.is_empty(), result.is_ok());
        result
    };
    let rebasable = |value: &'static str| {
        move |app: &mut Value, _: &mut Value| set(app, REBASABLE, Some(value))
    };
    assert!(case(&rebasable("false")).unwrap_err().contains(REBASABLE));
    assert!(case(&rebasable("true")).is_ok());
    assert!(
        case(&|_, run| run["os"] = json!("windows")).unwrap_err().contains("os is \"windows\"")
    );
    assert!(case(&|_, run| run["architecture"] = json!("arm64")).is_err());
    assert!(case(&|app, _| app["variant"] = json!("v2")).is_ok(), "variant equal");
    assert!(case(&|app, _| app["variant"] = json!("v3")).is_err(), "variant differs");
    let distro = |config: &mut Value, name: &str, version: &str| {
        set(config, DISTRO_NAME, Some(name));
        set(config, DISTRO_VERSION, Some(version));
    };
    assert!(case(&|_, run| distro(run, "debian", "12")).is_err(), "the app has no distro");
    assert!(case(&|app, _| distro(app, "debian", "12")).is_ok(), "the base has no distro");
    assert!(
        case(&|app, run| {
            distro(app, "debian", "12");
            distro(run, "debian", "12");
        })
        .is_ok()
    );
    assert!(
        case(&|app, run| {
            distro(app, "debian", "12");
            distro(run, "debian", "13");
        })
        .is_err()
    );
    assert!(
        case(&|app, run| {
            distro(app, "debian", "");
            distro(run, "debian", "13");
        })
        .is_ok()
    );
}

#[test]
fn old_images_go_by_their_stack() {
    let old = |stack: Option<&str>, mixins: Option<&str>| {
        let mut app = app();
        app["config"]["Env"] = json!(["CNB_PLATFORM_API=0.11"]);
        set(&mut app, STACK_ID, stack);
        set(&mut app, STACK_MIXINS, mixins);
        app
    };
    let attempt = |app: &Value, run: &Value| attempt(app, run, "run/image:1", true).map(|_| ());
    assert!(attempt(&old(Some("stack"), None), &run()).is_ok());
    assert!(matches!(attempt(&old(Some("other"), None), &run()), Err(RebaseError::Stack { .. })));
    assert!(matches!(attempt(&old(None, None), &run()), Err(RebaseError::Stack { .. })));
    let mut no_stack = run();
    set(&mut no_stack, STACK_ID, None);
    assert!(attempt(&old(Some("stack"), None), &no_stack).is_err());
    let mut unset = old(Some("other"), None);
    unset["config"]["Env"] = json!(null);
    assert!(attempt(&unset, &run()).is_err(), "no Platform API at all");
    let with = |mixins: &str| {
        let mut run = run();
        set(&mut run, STACK_MIXINS, Some(mixins));
        run
    };
    let needs = old(Some("stack"), Some(r#"["git","run:curl"]"#));
    assert!(attempt(&needs, &with(r#"["build:git","curl","more"]"#)).is_ok());
    let error = attempt(&needs, &with(r#"["git"]"#)).unwrap_err().to_string();
    assert!(error.ends_with("lacks curl"), "{error}");
    assert!(attempt(&needs, &with("nonsense")).is_err());
}

#[test]
fn the_top_layer_must_be_there() {
    let with = |layers: Value, label: Value| {
        let mut app = app();
        app["rootfs"]["diff_ids"] = layers;
        set(&mut app, LIFECYCLE_METADATA, Some(&label.to_string()));
        attempt(&app, &run(), "run/image:1", false)
    };
    let gone = with(json!(["sha256:app"]), metadata()).unwrap_err();
    assert!(matches!(gone, RebaseError::TopLayer(_)), "{gone}");
    let twice = json!(["sha256:old2", "sha256:x", "sha256:old2", "sha256:app"]);
    assert_eq!(with(twice.clone(), metadata()).unwrap().keep_layers_from, 3);
    let mut label = metadata();
    label["app"] = json!([{"sha": "sha256:old2"}]);
    assert_eq!(with(twice, label).unwrap().keep_layers_from, 1, "the app has the same layer");
}

#[test]
fn hostile_configs_and_labels_are_errors() {
    for wrong in
        ["", "[]", "null", "{}", r#"{"rootfs":{"diff_ids":[1]}}"#, r#"{"rootfs":{"diff_ids":"x"}}"#]
    {
        let (app, run) = (app().to_string(), run().to_string());
        let request = RebaseRequest {
            app_config: app.as_bytes(),
            new_run_config: wrong.as_bytes(),
            new_run_reference: "r",
            new_run_image_name: "run/image:1",
            force: true,
            platform_api: ApiVersion::minor(15),
            created: 0,
        };
        assert!(rebase(&request).is_err(), "{wrong}");
        let request = RebaseRequest {
            app_config: wrong.as_bytes(),
            new_run_config: run.as_bytes(),
            ..request
        };
        assert!(rebase(&request).is_err(), "{wrong}");
    }
    let mut none = app();
    set(&mut none, LIFECYCLE_METADATA, None);
    assert!(matches!(attempt(&none, &run(), "x", true), Err(RebaseError::NoLabel(_))));
    for label in ["", "[]", "nonsense", r#"{"runImage":1}"#, &"[".repeat(100_000)] {
        let mut app = app();
        set(&mut app, LIFECYCLE_METADATA, Some(label));
        assert!(attempt(&app, &run(), "run/image:1", true).is_err());
    }
    let mut odd = app();
    odd["config"]["Env"] = json!([1, "CNB_PLATFORM_API=0.12", "x"]);
    odd["history"] = json!("x");
    assert!(attempt(&odd, &run(), "run/image:1", false).is_ok());
}
