//! The image configuration: what the frontend writes beside the LLB.
//!
//! Follows the OCI image configuration with the fields Docker adds (`Healthcheck`, `OnBuild`, `Shell`,
//! `ArgsEscaped`). Base images may carry fields nobody here knows: they are kept and written back.
//! Field order is the order of the specification, so that equal builds give equal bytes.

use std::collections::BTreeMap;

use cofferdam_wire::pb;
use serde::{Deserialize, Deserializer, Serialize};

/// Comment of every history entry this frontend writes.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// `PATH` of images that do not set one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Fields that are not known here, kept as they are.
pub type Extra = BTreeMap<String, serde_json::Value>;

/// An image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Set by `MAINTAINER`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// `amd64`.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// `linux`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// Windows builds only.
    #[serde(
        default,
        rename = "os.version",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Windows builds only.
    #[serde(
        default,
        rename = "os.features",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// `v8`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Layers of the base image; exporters replace it.
    #[serde(default)]
    pub rootfs: RootFs,
    /// One entry per instruction, oldest first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// How a container of the image runs.
    #[serde(default, deserialize_with = "nullable")]
    pub config: Config,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// `rootfs` of an image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who made it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Which program made it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// The `config` part: how a container runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `USER`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`, keys like `80/tcp`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `ENV`, items like `A=b`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `VOLUME`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// `WORKDIR`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Whether `cmd` is already escaped for Windows.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// `HEALTHCHECK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD` triggers for images built from this one.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The empty object that set-like maps hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Empty {}

/// `HEALTHCHECK`; durations in nanoseconds, 0 = inherit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between checks.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Of one check.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between checks of the start period.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures that make a container unhealthy.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

impl Image {
    /// The configuration of `FROM scratch`.
    #[must_use]
    pub fn scratch(platform: &pb::Platform) -> Self {
        let mut image = Self {
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() },
            ..Self::default()
        };
        image.set_platform(platform);
        "/".clone_into(&mut image.config.working_dir);
        if platform.OS != "windows" {
            image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        image
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// Text that is not JSON, or fields of another type than the specification's.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Replaces every platform field.
    pub fn set_platform(&mut self, platform: &pb::Platform) {
        self.architecture.clone_from(&platform.Architecture);
        self.os.clone_from(&platform.OS);
        self.os_version.clone_from(&platform.OSVersion);
        self.os_features.clone_from(&platform.OSFeatures);
        self.variant.clone_from(&platform.Variant);
    }

    /// The platform fields; empty ones where the configuration says nothing.
    #[must_use]
    pub fn platform(&self) -> pb::Platform {
        pb::Platform {
            Architecture: self.architecture.clone(),
            OS: self.os.clone(),
            Variant: self.variant.clone(),
            OSVersion: self.os_version.clone(),
            OSFeatures: self.os_features.clone(),
            ..Default::default()
        }
    }

    /// Whether the image has no layer, so that building on it is building on nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rootfs.diff_ids.is_empty() && self.history.iter().all(|entry| entry.empty_layer)
    }

    /// Value of a variable in `config.env`; the first one counts.
    #[must_use]
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config.env.iter().find_map(|item| match item.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (item == name).then_some(""),
        })
    }

    /// Sets a variable where it stands, or adds it at the end.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let item = format!("{name}={value}");
        let known = |old: &&mut String| old.split('=').next() == Some(name);
        match self.config.env.iter_mut().find(known) {
            Some(old) => *old = item,
            None => self.config.env.push(item),
        }
    }
}

/// Docker writes `null` for empty lists, maps and texts.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn docker_fields_and_unknown_fields_survive() {
        let text = r#"{"architecture":"amd64","os":"linux","moby.buildkit.x":{"a":1},"rootfs":
            {"type":"layers","diff_ids":null},"config":{"Env":["PATH=/bin"],"Cmd":null,"OnBuild":null,
            "Volumes":{"/v":{}},"Shell":["/bin/bash"],"Healthcheck":{"Test":["NONE"]},"Future":[1,2]}}"#;
        let image = Image::parse(text.as_bytes()).unwrap();
        assert_eq!(image.config.healthcheck.as_ref().unwrap().test, ["NONE"]);
        assert!(image.is_empty());
        let json = serde_json::to_value(&image).unwrap();
        assert_eq!(json["moby.buildkit.x"]["a"], 1);
        assert_eq!(json["config"]["Future"][1], 2);
        assert_eq!(json["config"]["Volumes"]["/v"], serde_json::json!({}));
        assert!(json["config"].get("Cmd").is_none());
    }

    #[test]
    fn env_is_replaced_in_place() {
        let mut image = Image::default();
        image.set_env("A", "1");
        image.set_env("B", "2");
        image.set_env("A", "3");
        assert_eq!(image.config.env, ["A=3", "B=2"]);
        assert_eq!(image.env("B"), Some("2"));
        assert_eq!(image.env("C"), None);
    }

    #[test]
    fn hostile_configurations_are_errors() {
        for text in ["", "[]", "{", r#"{"config":3}"#, r#"{"history":{}}"#] {
            assert!(Image::parse(text.as_bytes()).is_err(), "{text:?} was accepted");
        }
    }
}
