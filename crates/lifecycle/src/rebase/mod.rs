//! An app image on another run image.
//!
//! Follows Platform API "Rebaser". Both configs come from a registry. Must never fetch: whoever
//! calls moves the layers.

mod check;
#[cfg(test)]
mod tests;

use cofferdam_cnb::{
    ApiVersion, BASE_LABEL_PREFIX, FileError, LIFECYCLE_METADATA, LifecycleMetadata,
    STACK_LABEL_PREFIX, exit, parse_json,
};
use serde_json::{Map, Value, json};

use crate::export::{kept_history, rfc3339};

/// What is to be rebased.
#[derive(Debug, Clone, Copy)]
pub struct RebaseRequest<'a> {
    /// Config of the app image, JSON.
    pub app_config: &'a [u8],
    /// Config of the new run image, JSON.
    pub new_run_config: &'a [u8],
    /// The new run image with its digest.
    pub new_run_reference: &'a str,
    /// The new run image as users name it.
    pub new_run_image_name: &'a str,
    /// Whether target and name may differ.
    pub force: bool,
    /// Platform API of this rebase.
    pub platform_api: ApiVersion,
    /// When the image is said to be made, unix seconds.
    pub created: i64,
}

/// A rebased image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebased {
    /// Its config, JSON.
    pub config: Vec<u8>,
    /// The app image's layers from this one on lie on all layers of the new run image.
    pub keep_layers_from: usize,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// A rebase that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum RebaseError {
    /// A config or label is not of its form.
    #[error(transparent)]
    File(#[from] FileError),
    /// The app image has a label that is needed not at all.
    #[error("app image: label {0}: is missing; was it made by a lifecycle?")]
    NoLabel(&'static str),
    /// The app image does not have the layers its label says.
    #[error("app image: {LIFECYCLE_METADATA}: runImage.topLayer: the image has no layer {0:?}")]
    TopLayer(String),
    /// The image says it must not be.
    #[error("app image: label {label}: forbids a rebase; use force to do it anyway", label = cofferdam_cnb::REBASABLE)]
    Forbidden,
    /// The run images differ in what they run on.
    #[error(
        "new run image: {key} is {new:?}, the app image has {app:?}; use force to take it anyway"
    )]
    Target {
        /// What differs.
        key: &'static str,
        /// In the app image.
        app: String,
        /// In the new run image.
        new: String,
    },
    /// The stacks differ, for images built before Platform API 0.12.
    #[error("new run image: label {key} is {new:?}, the app image has {app:?}", key = cofferdam_cnb::STACK_ID)]
    Stack {
        /// In the app image.
        app: String,
        /// In the new run image.
        new: String,
    },
    /// Packages are missing, for images built before Platform API 0.12.
    #[error("new run image: label {key}: lacks {0}", key = cofferdam_cnb::STACK_MIXINS)]
    Mixins(String),
    /// The app image was not built for it.
    #[error(
        "run image {0:?} is none of those the app image was built for; use force to take it anyway"
    )]
    Name(String),
}

impl RebaseError {
    /// The exit code a lifecycle ends with.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        i32::from(exit::REBASE)
    }
}

/// The config of the app image on the new run image.
///
/// # Errors
/// The images do not fit, or the app image was not made by a lifecycle.
pub fn rebase(request: &RebaseRequest<'_>) -> Result<Rebased, RebaseError> {
    let mut warnings = Vec::new();
    let app = Config::parse("config of the app image", request.app_config)?;
    let run = Config::parse("config of the new run image", request.new_run_config)?;
    let text = app.label(LIFECYCLE_METADATA).ok_or(RebaseError::NoLabel(LIFECYCLE_METADATA))?;
    // Changed as a value, so that what other lifecycles wrote into it survives.
    let mut label: Map<String, Value> = parse_json(LIFECYCLE_METADATA, text)?;
    let metadata: LifecycleMetadata = parse_json(LIFECYCLE_METADATA, text)?;

    check::images(&app, &run, request.force, &mut warnings)?;
    let keep_layers_from = keep_from(&app, &metadata)?;
    let mut run_image = label.remove("runImage").and_then(object).unwrap_or_default();
    if request.platform_api.at_least(12) && !check::is_named(&metadata, request.new_run_image_name)
    {
        let name = request.new_run_image_name;
        if !request.force {
            return Err(RebaseError::Name(name.to_owned()));
        }
        warnings.push(format!("run image {name} is none of those the app image was built for"));
        run_image.insert("image".to_owned(), json!(name));
        run_image.remove("mirrors");
        label.insert("stack".to_owned(), json!({"runImage": {"image": name}}));
    }
    let top_layer = run.diff_ids.last().cloned().unwrap_or_default();
    run_image.insert("topLayer".to_owned(), json!(top_layer));
    run_image.insert("reference".to_owned(), json!(request.new_run_reference));
    label.insert("runImage".to_owned(), Value::Object(run_image));
    let config = rebased(request, app, &run, label, keep_layers_from);
    Ok(Rebased { config, keep_layers_from, warnings })
}

/// An image config, with what a rebase looks at.
#[derive(Debug)]
struct Config {
    all: Map<String, Value>,
    diff_ids: Vec<String>,
}

impl Config {
    fn parse(file: &'static str, bytes: &[u8]) -> Result<Self, RebaseError> {
        let text =
            std::str::from_utf8(bytes).map_err(|_| FileError::Text { file: file.to_owned() })?;
        let all: Map<String, Value> = parse_json(file, text)?;
        let problem = || FileError::value(file, "rootfs.diff_ids", "is missing or no list of text");
        let ids = all.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids"));
        let ids = ids.and_then(Value::as_array).ok_or_else(problem)?;
        let text = |id: &Value| id.as_str().map(str::to_owned).ok_or_else(problem);
        let diff_ids = ids.iter().map(text).collect::<Result<_, _>>()?;
        Ok(Self { all, diff_ids })
    }

    fn text(&self, key: &str) -> &str {
        self.all.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn labels(&self) -> Option<&Map<String, Value>> {
        self.all.get("config")?.get("Labels")?.as_object()
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels()?.get(name)?.as_str()
    }

    fn env(&self, name: &str) -> Option<&str> {
        let env = self.all.get("config")?.get("Env")?.as_array()?;
        let pairs = env.iter().filter_map(Value::as_str).filter_map(|pair| pair.split_once('='));
        pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next_back()
    }
}

fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// The first layer above the old run image.
fn keep_from(app: &Config, metadata: &LifecycleMetadata) -> Result<usize, RebaseError> {
    let top = &metadata.run_image.top_layer;
    let is_top = |id: &String| id == top;
    // A run image can have one layer twice (an empty one), and then its last is meant; unless the
    // app has the same, and then only the first is certain to be the run image's.
    let at = match own_layers(metadata).any(|sha| sha == top) {
        true => app.diff_ids.iter().position(is_top),
        false => app.diff_ids.iter().rposition(is_top),
    };
    at.map(|at| at + 1).ok_or_else(|| RebaseError::TopLayer(top.chars().take(80).collect()))
}

fn own_layers(metadata: &LifecycleMetadata) -> impl Iterator<Item = &str> {
    let app = metadata.app.as_array().into_iter().flatten();
    let app = app.filter_map(|layer| layer.get("sha")?.as_str());
    let buildpacks = metadata.buildpacks.iter().flat_map(|buildpack| buildpack.layers.values());
    let launcher = [&metadata.config, &metadata.launcher, &metadata.process_types];
    let launcher = launcher.into_iter().chain(&metadata.sbom).map(|layer| layer.sha.as_str());
    app.chain(buildpacks.map(|layer| layer.sha.as_str())).chain(launcher)
}

fn rebased(
    request: &RebaseRequest<'_>,
    app: Config,
    run: &Config,
    label: Map<String, Value>,
    keep_layers_from: usize,
) -> Vec<u8> {
    let labels = synced_labels(request, &app, run, label);
    let created = rfc3339(request.created);
    let mut history = kept_history(&run.all, run.diff_ids.len());
    history.extend(kept_history(&app.all, app.diff_ids.len()).split_off(keep_layers_from));
    for entry in &mut history {
        entry.insert("created".to_owned(), json!(created));
    }
    let Config { mut all, mut diff_ids } = app;
    let kept = diff_ids.split_off(keep_layers_from);
    let diff_ids: Vec<String> = run.diff_ids.iter().cloned().chain(kept).collect();
    for key in ["architecture", "os", "variant", "os.version", "os.features"] {
        match run.all.get(key) {
            Some(value) => all.insert(key.to_owned(), value.clone()),
            None => all.remove(key),
        };
    }
    all.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
    all.insert("history".to_owned(), json!(history));
    all.insert("created".to_owned(), json!(created));
    all.remove("container");
    all.remove("container_config");
    let mut inner = all.remove("config").and_then(object).unwrap_or_default();
    inner.insert("Labels".to_owned(), Value::Object(labels));
    all.insert("config".to_owned(), Value::Object(inner));
    Value::Object(all).to_string().into_bytes()
}

/// The app's labels with those that describe the run image taken from the new one.
fn synced_labels(
    request: &RebaseRequest<'_>,
    app: &Config,
    run: &Config,
    label: Map<String, Value>,
) -> Map<String, Value> {
    let is_synced = |name: &str| {
        name.starts_with(STACK_LABEL_PREFIX)
            || (request.platform_api.at_least(12) && name.starts_with(BASE_LABEL_PREFIX))
    };
    let of = |config: &Config, synced: bool| -> Vec<(String, Value)> {
        let labels = config.labels().into_iter().flatten();
        let wanted = labels.filter(|(name, _)| is_synced(name) == synced);
        wanted.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let mut labels: Map<String, Value> = of(app, false).into_iter().chain(of(run, true)).collect();
    let text = Value::Object(label).to_string();
    labels.insert(LIFECYCLE_METADATA.to_owned(), Value::String(text));
    labels
}
