//! The image config: how a container of this image starts and how the image came to be.
//!
//! The [OCI image config](https://github.com/opencontainers/image-spec/blob/main/config.md) with
//! Docker's additions (`Healthcheck`, `OnBuild`, `Shell`, `ArgsEscaped`, `StopTimeout`). Unknown
//! fields survive a round trip, so that a base image loses nothing by being built upon.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Platform;
use crate::manifest::{MAX_DOCUMENT, null_default};

/// An image config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Creation time, RFC 3339, kept as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Platform fields, inlined.
    #[serde(flatten)]
    pub platform: Platform,
    /// Start parameters.
    #[serde(default, deserialize_with = "null_default")]
    pub config: ContainerConfig,
    /// The layers, uncompressed.
    #[serde(default, deserialize_with = "null_default")]
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Start parameters of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// User and group, by name or number.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports such as `80/tcp`.
    #[serde(default, with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value` pairs in order.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The fixed part of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The default arguments or command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Directories that are volumes.
    #[serde(default, with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// Where the command starts.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops the container.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Windows: the command is already escaped.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub args_escaped: bool,
    /// Docker: how to check that the container is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker: instructions to run when this image is a base.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Docker: seconds to wait after the stop signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Docker: the shell of shell-form instructions.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Docker's health check. Durations are nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `NONE`, or `CMD` / `CMD-SHELL` and its arguments; empty inherits.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time one check may take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The layers of an image by the digests of their uncompressed tars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_default")]
    pub kind: String,
    /// Bottom first.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339, kept as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What made it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Free text.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Bytes that are not an image config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// More than [`MAX_DOCUMENT`] bytes.
    #[error("image config of {size} bytes is larger than the limit of {MAX_DOCUMENT}")]
    TooLarge {
        /// Size in bytes.
        size: u64,
    },
    /// Not the JSON we expect.
    #[error("malformed image config")]
    Json(#[source] serde_json::Error),
}

impl ImageConfig {
    /// A config for `platform` without layers.
    #[must_use]
    pub fn new(platform: &Platform) -> Self {
        Self { platform: platform.clone(), ..Self::default() }
    }

    /// Parses an image config.
    ///
    /// # Errors
    /// Too large, or not JSON of the expected shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ConfigError::TooLarge { size: bytes.len() as u64 });
        }
        serde_json::from_slice(bytes).map_err(ConfigError::Json)
    }

    /// The bytes that are stored and digested.
    ///
    /// # Errors
    /// Only when an unknown field cannot be written as JSON.
    pub fn to_vec(&self) -> Result<Vec<u8>, ConfigError> {
        serde_json::to_vec(self).map_err(ConfigError::Json)
    }
}

/// The chain id after each layer: the name of "these layers on top of each other".
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            Some(below) => Digest::of(format!("{below} {diff_id}")),
            None => *diff_id,
        });
    }
    chain
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands out a reference
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A set written as a JSON object with empty values, as Go writes `map[string]struct{}`.
mod key_set {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::de::IgnoredAny;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(serde::Serialize)]
    struct Empty {}

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, Empty {})))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map: Option<BTreeMap<String, IgnoredAny>> = Option::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn docker_configs_survive() {
        let json = serde_json::json!({
            "created": "2024-01-01T00:00:00.123456789Z", "architecture": "amd64", "os": "linux", "variant": "v2",
            "os.version": "10", "docker_version": "20.10", "container": "abc",
            "config": {
                "User": "1:2", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=b"], "Entrypoint": ["/x"], "Cmd": [],
                "Volumes": {"/v": {}}, "Labels": {"l": "m"}, "ArgsEscaped": true, "OnBuild": ["RUN x"],
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}, "Shell": ["/bin/sh"], "Hostname": "h"
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"")]},
            "history": [{"created_by": "x", "empty_layer": true, "new": 1}],
            "moby.buildkit.cache.v0": "e30="
        });
        let config = ImageConfig::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(config.platform.variant, "v2");
        assert_eq!(serde_json::from_slice::<Value>(&config.to_vec().unwrap()).unwrap(), json);
    }

    #[test]
    fn nulls_are_empty() {
        let text = r#"{"config":{"Env":null,"Cmd":null,"ExposedPorts":null,"Labels":null},"rootfs":null,"history":null}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config, ImageConfig::default());
    }

    #[test]
    fn chains() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_ids(&[a, b]), [a, Digest::of(format!("{a} {b}"))]);
    }
}
