//! From the bytes of an image configuration to a builder.

use std::collections::BTreeMap;

use cofferdam_cnb::{
    BUILDER_METADATA, BUILDPACK_LAYERS, BUILDPACK_ORDER, BuilderMetadata, DISTRO_NAME,
    DISTRO_VERSION, EXTENSION_LAYERS, FileError, Id, ModuleLayers, ORDER_EXTENSIONS, Order,
    RunImage, STACK_ID, STACK_MIXINS, SYSTEM, Target, TargetDistro, Version, parse_json,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{BuilderImage, BuilderImageError, LabelError};
use crate::text::{printable, short};

/// Largest configuration that is read: registries accept manifests and configurations of 4 MiB.
pub(super) const MAX_CONFIG: usize = 4 << 20;

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    config: Option<RawConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawConfig {
    env: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    working_dir: String,
    user: String,
}

/// Programs written in Go write a list or a map that is not there as `null`: what it means is that
/// the key is missing.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let there = entries.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(there.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

struct Labels(BTreeMap<String, String>);

impl Labels {
    /// A label's value; its default where the label is missing, empty or `null`.
    fn get<T: DeserializeOwned + Default>(&self, label: &str) -> Result<T, LabelError> {
        match self.0.get(label).map(|text| text.trim()) {
            None | Some("" | "null") => Ok(T::default()),
            Some(text) => {
                let value = without_nulls(parse_json(label, text)?);
                let made = serde_json::from_value(value).map_err(|error| FileError::Json {
                    file: label.to_owned(),
                    message: printable(&error.to_string()),
                });
                Ok(made?)
            }
        }
    }

    fn text(&self, label: &str) -> String {
        self.0.get(label).cloned().unwrap_or_default()
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<BuilderImage, BuilderImageError> {
    if bytes.len() > MAX_CONFIG {
        return Err(BuilderImageError::Size);
    }
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|error| BuilderImageError::Config(printable(&error.to_string())))?;
    let Raw { os, architecture: arch, variant, config } = raw;
    let RawConfig { env, labels, working_dir: workdir, user } = config.unwrap_or_default();
    let labels = Labels(labels.unwrap_or_default());
    if !labels.0.contains_key(BUILDER_METADATA) {
        return Err(BuilderImageError::Missing(BUILDER_METADATA));
    }
    let metadata: BuilderMetadata = labels.get(BUILDER_METADATA)?;
    let mut env = variables(env.unwrap_or_default());
    let (uid, gid) = (number(&env, "CNB_USER_ID")?, number(&env, "CNB_GROUP_ID")?);
    let extension_layers = layers(&labels, EXTENSION_LAYERS)?;
    let layers = layers(&labels, BUILDPACK_LAYERS)?;
    let mut stack_id = labels.text(STACK_ID);
    if stack_id.is_empty() {
        stack_id = env.get("CNB_STACK_ID").cloned().unwrap_or_default();
    }
    env.retain(|name, _| !name.is_empty());
    let platform_apis = platform_apis(&metadata);
    Ok(BuilderImage {
        uid,
        gid,
        layers,
        extension_layers,
        order: order(&labels, BUILDPACK_ORDER)?,
        order_extensions: order(&labels, ORDER_EXTENSIONS)?,
        system: labels.get(SYSTEM)?,
        stack_id,
        mixins: labels.get(STACK_MIXINS)?,
        run_images: run_images(&metadata),
        workdir,
        user,
        target: Target { os, arch, variant, distros: distros(&labels) },
        metadata,
        env,
        platform_apis,
    })
}

/// `NAME=value`; of a name that is there twice, the last. Others are left out.
fn variables(env: Vec<String>) -> BTreeMap<String, String> {
    let split = |text: &String| {
        text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    env.iter().filter_map(split).collect()
}

fn number(env: &BTreeMap<String, String>, name: &'static str) -> Result<u32, BuilderImageError> {
    let text = env.get(name).ok_or(BuilderImageError::NoVariable(name))?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // The largest number means "no change" to the kernel.
    let number = text.parse().ok().filter(|number| digits && (1..u32::MAX).contains(number));
    number.ok_or_else(|| BuilderImageError::Variable { name, value: short(text) })
}

/// Ids and versions become paths in the builder, so every one is checked.
fn layers(labels: &Labels, label: &'static str) -> Result<ModuleLayers, LabelError> {
    let layers: ModuleLayers = labels.get(label)?;
    for (id, versions) in &layers {
        Id::parse(id).map_err(|source| LabelError::Id { label, source })?;
        for version in versions.keys() {
            Version::parse(version).map_err(|source| LabelError::Id { label, source })?;
        }
    }
    Ok(layers)
}

fn order(labels: &Labels, label: &'static str) -> Result<Order, LabelError> {
    let order: Order = labels.get(label)?;
    for element in order.iter().flat_map(|group| &group.group) {
        Id::parse(&element.id).map_err(|source| LabelError::Id { label, source })?;
        if !element.version.is_empty() {
            Version::parse(&element.version).map_err(|source| LabelError::Id { label, source })?;
        }
    }
    if order.iter().any(|group| group.group.is_empty()) {
        return Err(FileError::value(label, "group", "is empty").into());
    }
    Ok(order)
}

fn run_images(metadata: &BuilderMetadata) -> Vec<RunImage> {
    let given = |image: &&RunImage| !image.image.is_empty();
    let images = metadata.images.iter().filter(given).cloned().collect::<Vec<_>>();
    if images.is_empty() {
        return Some(&metadata.stack.run_image).filter(given).cloned().into_iter().collect();
    }
    images
}

fn distros(labels: &Labels) -> Vec<TargetDistro> {
    let (name, version) = (labels.text(DISTRO_NAME), labels.text(DISTRO_VERSION));
    let said = !name.is_empty() || !version.is_empty();
    said.then_some(TargetDistro { name, version }).into_iter().collect()
}

/// Platform APIs that the builder was made for.
fn platform_apis(metadata: &BuilderMetadata) -> Vec<String> {
    let platform = &metadata.lifecycle.apis.platform;
    let lists = [&platform.supported, &platform.deprecated];
    let declared: Vec<String> = lists.into_iter().flatten().flatten().cloned().collect();
    let single = metadata.lifecycle.api.platform.as_str();
    if declared.is_empty() && !single.is_empty() { vec![single.to_owned()] } else { declared }
}
