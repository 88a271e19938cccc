//! The config of an app image.
//!
//! Starts from the run image's, of which everything is kept that is not said here. Follows Platform
//! API "Exporter" and "Labels". Must never let a buildpack's label take the place of one that tells
//! the next build what is in the image.

use std::collections::BTreeMap;

use cofferdam_cnb::{
    BUILD_METADATA, BuildMetadata, EXEC_ENV, ImageBuildpack, LIFECYCLE_METADATA, LayerSha,
    LifecycleMetadata, MetadataModule, ModuleRef, PROJECT_METADATA, Process, ProcessValue,
    RunImage, RunImageMetadata, StackMetadata,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::export::layers::buildpack_layers;
use crate::export::{
    AppImage, ExportError, ExportLayer, ExportRequest, LAUNCHER_PATH, LayerKind, PROCESS_DIR,
    rfc3339,
};

/// Where programs of the launcher are found.
const LAUNCHER_DIR: &str = "/cnb/lifecycle";
/// Labels that are the lifecycle's.
const OWN_LABELS: [&str; 4] = [LIFECYCLE_METADATA, BUILD_METADATA, PROJECT_METADATA, EXEC_ENV];

/// The config of the app image.
///
/// # Errors
/// The process the user asked for is not there, or the run image's config is not of its form.
pub fn image_config(request: &ExportRequest<'_>) -> Result<AppImage, ExportError> {
    let default_process = default_process(request)?;
    let mut config = request
        .run_config
        .as_object()
        .cloned()
        .ok_or(ExportError::RunConfig { key: "(all)", problem: "is not an object" })?;
    let base_layers = diff_ids(&config)?;
    let run_layers = base_layers.len().saturating_sub(request.extension_layers);
    let top_layer = base_layers[..run_layers].last().cloned().unwrap_or_default();
    let lifecycle = lifecycle_metadata(request, top_layer);

    let created = rfc3339(request.created);
    let history = history(request, &config, base_layers.len(), &created);
    let added = request.layers.iter().map(|layer| layer.diff_id.clone());
    let all: Vec<String> = base_layers.into_iter().chain(added).collect();
    config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": all}));
    config.insert("history".to_owned(), Value::Array(history));
    config.insert("created".to_owned(), Value::String(created));
    config.remove("container");
    config.remove("container_config");

    let mut inner = match config.remove("config") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(inner)) => inner,
        Some(_) => {
            return Err(ExportError::RunConfig { key: "config", problem: "is not an object" });
        }
    };
    let mut warnings = Vec::new();
    let labels = labels(request, &inner, &lifecycle, &mut warnings)?;
    inner.insert("Env".to_owned(), env(request, &inner));
    inner.insert("Labels".to_owned(), Value::Object(labels));
    inner.insert("WorkingDir".to_owned(), json!(request.app_dir));
    let entrypoint = match &default_process {
        Some(process) => format!("{PROCESS_DIR}/{process}"),
        None => LAUNCHER_PATH.to_owned(),
    };
    inner.insert("Entrypoint".to_owned(), json!([entrypoint]));
    inner.remove("Cmd");
    // A run image's shell-form escape has no meaning once the entrypoint is another.
    inner.remove("ArgsEscaped");
    config.insert("config".to_owned(), Value::Object(inner));
    let config = Value::Object(config).to_string().into_bytes();
    Ok(AppImage { config, lifecycle, default_process, warnings })
}

fn default_process(request: &ExportRequest<'_>) -> Result<Option<String>, ExportError> {
    let kinds = || request.metadata.processes.iter().map(|process| process.kind.as_str());
    match request.process_type.filter(|asked| !asked.is_empty()) {
        Some(asked) if kinds().any(|kind| kind == asked) => Ok(Some(asked.to_owned())),
        Some(asked) => {
            let known = match kinds().collect::<Vec<_>>().join(", ") {
                known if known.is_empty() => "(none)".to_owned(),
                known => known,
            };
            Err(ExportError::Process { asked: asked.to_owned(), known })
        }
        None => Ok(Some(request.metadata.default_process.clone()).filter(|kind| !kind.is_empty())),
    }
}

fn diff_ids(config: &Map<String, Value>) -> Result<Vec<String>, ExportError> {
    let error = |problem| ExportError::RunConfig { key: "rootfs.diff_ids", problem };
    let Some(ids) = config.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids")) else {
        return Ok(Vec::new());
    };
    let ids = match ids {
        Value::Null => return Ok(Vec::new()),
        ids => ids.as_array().ok_or(error("is not a list"))?,
    };
    let text = |id: &Value| id.as_str().map(str::to_owned).ok_or(error("is not a list of text"));
    ids.iter().map(text).collect()
}

/// Entries of layers alone, all made at one time; what the run image's are unless they do not fit
/// its layers. Before Platform API 0.12 entries say nothing.
fn history(
    request: &ExportRequest<'_>,
    config: &Map<String, Value>,
    base_layers: usize,
    created: &str,
) -> Vec<Value> {
    let added = request.layers.iter().map(|layer| layer.kind.created_by());
    if !request.platform_api.at_least(12) {
        return vec![json!({"created": created}); base_layers + added.len()];
    }
    let mut all = kept_history(config, base_layers);
    all.extend(
        added.map(|created_by| Map::from_iter([("created_by".to_owned(), json!(created_by))])),
    );
    let made = |mut entry: Map<String, Value>| {
        entry.insert("created".to_owned(), json!(created));
        Value::Object(entry)
    };
    all.into_iter().map(made).collect()
}

/// The history of a config without entries of no layer; blank where it does not fit the layers.
pub(crate) fn kept_history(config: &Map<String, Value>, layers: usize) -> Vec<Map<String, Value>> {
    let entries = config.get("history").and_then(Value::as_array);
    let has_layer = |entry: &&Map<String, Value>| {
        entry.get("empty_layer").and_then(Value::as_bool) != Some(true)
    };
    let entries = entries.into_iter().flatten().filter_map(Value::as_object).filter(has_layer);
    let kept: Vec<Map<String, Value>> = entries.cloned().collect();
    if kept.len() == layers { kept } else { vec![Map::new(); layers] }
}

fn env(request: &ExportRequest<'_>, inner: &Map<String, Value>) -> Value {
    let old = inner.get("Env").and_then(Value::as_array);
    let old = old.into_iter().flatten().filter_map(Value::as_str);
    let mut env: Vec<(String, String)> = old
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone());
    let mut search = format!("{PROCESS_DIR}:{LAUNCHER_DIR}");
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        search = format!("{search}:{path}");
    }
    let set = [
        ("CNB_LAYERS_DIR", request.layers_dir.to_owned()),
        ("CNB_APP_DIR", request.app_dir.to_owned()),
        ("CNB_PLATFORM_API", request.platform_api.to_string()),
        ("CNB_DEPRECATION_MODE", "quiet".to_owned()),
        ("PATH", search),
    ];
    for (name, value) in set {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => env.push((name.to_owned(), value)),
        }
    }
    env.into_iter().map(|(name, value)| Value::String(format!("{name}={value}"))).collect()
}

fn labels(
    request: &ExportRequest<'_>,
    inner: &Map<String, Value>,
    lifecycle: &LifecycleMetadata,
    warnings: &mut Vec<String>,
) -> Result<Map<String, Value>, ExportError> {
    let mut labels = inner.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default();
    for label in &request.metadata.labels {
        if OWN_LABELS.contains(&label.key.as_str()) {
            warnings.push(format!(
                "launch.toml: label {} is the lifecycle's and is left out",
                label.key
            ));
        } else {
            labels.insert(label.key.clone(), json!(label.value));
        }
    }
    let project = if request.project.is_null() { json!({}) } else { request.project.clone() };
    labels.insert(LIFECYCLE_METADATA.to_owned(), json!(text(LIFECYCLE_METADATA, lifecycle)?));
    let build = build_metadata(request);
    labels.insert(BUILD_METADATA.to_owned(), json!(text(BUILD_METADATA, &build)?));
    labels.insert(PROJECT_METADATA.to_owned(), json!(project.to_string()));
    labels.remove(EXEC_ENV);
    if request.platform_api.at_least(15) && !request.exec_env.is_empty() {
        labels.insert(EXEC_ENV.to_owned(), json!(request.exec_env));
    }
    Ok(labels)
}

fn text(label: &str, value: &impl Serialize) -> Result<String, ExportError> {
    serde_json::to_string(value).map_err(|error| {
        let error =
            cofferdam_cnb::FileError::Json { file: label.to_owned(), message: error.to_string() };
        ExportError::File(error)
    })
}

fn lifecycle_metadata(request: &ExportRequest<'_>, top_layer: String) -> LifecycleMetadata {
    let of = |wanted: fn(&LayerKind) -> bool| {
        let mut shas = request.layers.iter().filter(|layer| wanted(&layer.kind));
        shas.next().map(|layer| LayerSha { sha: layer.diff_id.clone() })
    };
    let is_app =
        |layer: &&ExportLayer| matches!(layer.kind, LayerKind::Application | LayerKind::Slice(_));
    let app: Vec<Value> =
        request.layers.iter().filter(is_app).map(|layer| json!({"sha": layer.diff_id})).collect();
    let mut digests: BTreeMap<(ModuleRef, String), String> = BTreeMap::new();
    for ExportLayer { kind, diff_id } in request.layers {
        if let LayerKind::Launch { module, name } = kind {
            digests.insert((module.clone(), name.clone()), diff_id.clone());
        }
    }
    let RunImageMetadata { reference, image, mirrors, .. } = request.run_image.clone();
    let stack = RunImage { image: image.clone(), mirrors: mirrors.clone() };
    let named = request.platform_api.at_least(12);
    LifecycleMetadata {
        app: Value::Array(app),
        sbom: of(|kind| *kind == LayerKind::Sbom),
        buildpacks: buildpack_layers(request.modules, &digests),
        config: of(|kind| *kind == LayerKind::Config).unwrap_or_default(),
        launcher: of(|kind| *kind == LayerKind::Launcher).unwrap_or_default(),
        process_types: of(|kind| *kind == LayerKind::ProcessTypes).unwrap_or_default(),
        run_image: RunImageMetadata {
            top_layer,
            reference,
            image: if named { image } else { String::new() },
            mirrors: if named { mirrors } else { Vec::new() },
        },
        stack: StackMetadata { run_image: stack },
    }
}

fn build_metadata(request: &ExportRequest<'_>) -> BuildMetadata {
    let module = |module: &MetadataModule| ImageBuildpack {
        id: module.id.clone(),
        version: module.version.clone(),
        homepage: module.homepage.clone(),
    };
    let process = |process: &Process| ProcessValue {
        kind: process.kind.clone(),
        command: process.command.clone(),
        args: process.args.clone(),
        direct: process.direct.unwrap_or_default(),
        buildpack_id: process.buildpack_id.clone(),
        working_dir: process.working_dir.clone(),
        exec_env: process.exec_env.clone(),
    };
    let metadata = request.metadata;
    BuildMetadata {
        buildpacks: metadata.buildpacks.iter().map(module).collect(),
        extensions: metadata.extensions.iter().map(module).collect(),
        launcher: request.launcher.clone(),
        processes: metadata.processes.iter().map(process).collect(),
        default_process: metadata.default_process.clone(),
    }
}
