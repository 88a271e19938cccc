//! The attributes of a build request: text to typed options.
//!
//! Keys and meanings are those of `docker build` as clients send them to `dockerfile.v0`. Attributes
//! come from outside: every value is checked here and nowhere else. Unknown keys are ignored, because
//! clients send keys that are meant for other parts of the builder.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cofferdam_graph::{ParsePlatformError, parse_platform};
use cofferdam_wire::pb;

use super::limits::parse_limits;
use crate::lint::{LintConfig, LintOptionError};
use crate::scalar::{CsvError, csv_fields, parse_bool};

/// Attributes that were refused.
#[derive(Debug, thiserror::Error)]
pub enum AttrError {
    /// `platform`.
    #[error("failed to parse target platform {text}")]
    Platform {
        /// The item.
        text: String,
        /// Why.
        #[source]
        source: ParsePlatformError,
    },
    /// `image-resolve-mode`.
    #[error("invalid image-resolve-mode: {0}")]
    ResolveMode(String),
    /// `force-network-mode`.
    #[error("invalid netmode {0}")]
    NetworkMode(String),
    /// `add-hosts` without `=`.
    #[error("failed to parse additional hosts: invalid key-value pair {0}")]
    HostPair(String),
    /// `add-hosts` with a bad address.
    #[error("failed to parse additional hosts: failed to parse IP {0}")]
    HostAddress(String),
    /// `shm-size`.
    #[error("failed to parse shm size: invalid value {0:?}")]
    ShmSize(String),
    /// `ulimit`.
    #[error("failed to parse ulimit: {0}")]
    Ulimit(String),
    /// One of the resource limits.
    #[error("failed to parse resource limits: invalid {key} value: {value}")]
    Resource {
        /// Attribute.
        key: &'static str,
        /// Its text.
        value: String,
    },
    /// `multi-platform`.
    #[error("invalid boolean value for multi-platform: {0}")]
    MultiPlatform(String),
    /// Several platforms, but one result wanted.
    #[error("conflicting config: returning multiple target platforms is not allowed")]
    SinglePlatform,
    /// Removed long ago.
    #[error("support for \"{0}\" was removed in BuildKit 0.11")]
    Removed(&'static str),
    /// `build-arg:BUILDKIT_DOCKERFILE_CHECK`.
    #[error("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK")]
    Check(#[source] LintOptionError),
    /// A list that does not split.
    #[error("invalid list {text:?}")]
    List {
        /// The list.
        text: String,
        /// Why.
        #[source]
        source: CsvError,
    },
}

/// `image-resolve-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ResolveMode {
    /// Whatever is known, else the registry.
    #[default]
    Default,
    /// Always ask the registry.
    Pull,
    /// Prefer what is here.
    Local,
}

impl ResolveMode {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Pull => "pull",
            Self::Local => "local",
        }
    }
}

/// What the attributes say, typed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// All of them, for the keys that are looked up by computed names.
    pub(crate) raw: BTreeMap<String, String>,
    pub(crate) filename: String,
    pub(crate) target: String,
    pub(crate) build_args: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Empty when the request names none.
    pub(crate) platforms: Vec<pb::Platform>,
    pub(crate) multi_platform: bool,
    /// `Some` of nothing means every stage.
    pub(crate) no_cache: Option<Vec<String>>,
    pub(crate) hosts: Vec<pb::HostIP>,
    pub(crate) network: pb::NetMode,
    pub(crate) resolve_mode: ResolveMode,
    pub(crate) shm_size: i64,
    pub(crate) ulimits: Vec<pb::Ulimit>,
    pub(crate) resources: Option<pb::LinuxResources>,
    pub(crate) hostname: String,
    pub(crate) cgroup_parent: String,
    pub(crate) cache_namespace: String,
    pub(crate) lint: Option<LintConfig>,
}

impl Options {
    pub(crate) fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, AttrError> {
        refuse_removed(attrs)?;
        let get = |key: &str| attrs.get(key).map_or("", String::as_str);
        let nonempty =
            |key: &str| attrs.get(key).map(String::as_str).filter(|text| !text.is_empty());
        let platforms = parse_platforms(get("platform"))?;
        let lint = attrs.get("build-arg:BUILDKIT_DOCKERFILE_CHECK");
        Ok(Self {
            filename: attrs.get("filename").map_or("Dockerfile", String::as_str).to_owned(),
            target: get("target").to_owned(),
            build_args: with_prefix(attrs, "build-arg:"),
            labels: with_prefix(attrs, "label:"),
            multi_platform: parse_multi_platform(attrs, platforms.len() > 1)?,
            platforms,
            no_cache: attrs.get("no-cache").map(|list| parse_stages(list)),
            hosts: parse_hosts(get("add-hosts"))?,
            network: parse_network(get("force-network-mode"))?,
            resolve_mode: parse_resolve_mode(get("image-resolve-mode"))?,
            shm_size: parse_shm_size(get("shm-size"))?,
            ulimits: csv(get("ulimit"))?
                .iter()
                .map(|item| super::limits::parse_ulimit(item))
                .collect::<Result<_, _>>()?,
            resources: parse_limits(attrs)?,
            hostname: nonempty("build-arg:BUILDKIT_SANDBOX_HOSTNAME")
                .unwrap_or_else(|| get("hostname"))
                .to_owned(),
            cgroup_parent: get("cgroup-parent").to_owned(),
            cache_namespace: get("build-arg:BUILDKIT_CACHE_MOUNT_NS").to_owned(),
            lint: lint.map(|text| LintConfig::parse(text)).transpose().map_err(AttrError::Check)?,
            raw: attrs.clone(),
        })
    }

    /// Whether the results of a stage must be made anew.
    pub(crate) fn ignores_cache(&self, stage: &str) -> bool {
        self.no_cache.as_ref().is_some_and(|stages| {
            stages.is_empty() || stages.iter().any(|name| name.eq_ignore_ascii_case(stage))
        })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.raw.get(key).map(String::as_str)
    }
}

fn refuse_removed(attrs: &BTreeMap<String, String>) -> Result<(), AttrError> {
    if attrs.get("override-copy-image").is_some_and(|value| !value.is_empty()) {
        return Err(AttrError::Removed("override-copy-image"));
    }
    let disabled = attrs.get("build-arg:BUILDKIT_DISABLE_FILEOP");
    if disabled.and_then(|value| parse_bool(value)) == Some(true) {
        return Err(AttrError::Removed("BUILDKIT_DISABLE_FILEOP"));
    }
    Ok(())
}

fn with_prefix(attrs: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    attrs
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())))
        .collect()
}

/// The fields of one CSV record; empty text has none.
fn csv(text: &str) -> Result<Vec<String>, AttrError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    csv_fields(text).map_err(|source| AttrError::List { text: text.to_owned(), source })
}

fn parse_platforms(text: &str) -> Result<Vec<pb::Platform>, AttrError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parse = |item: &str| {
        parse_platform(item).map_err(|source| AttrError::Platform { text: item.to_owned(), source })
    };
    text.split(',').map(parse).collect()
}

fn parse_multi_platform(
    attrs: &BTreeMap<String, String>,
    several: bool,
) -> Result<bool, AttrError> {
    let text = ["build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"]
        .into_iter()
        .filter_map(|key| attrs.get(key))
        .find(|text| !text.is_empty());
    let Some(text) = text else { return Ok(several) };
    match parse_bool(text) {
        None => Err(AttrError::MultiPlatform(text.clone())),
        Some(false) if several => Err(AttrError::SinglePlatform),
        Some(wanted) => Ok(wanted),
    }
}

fn parse_stages(list: &str) -> Vec<String> {
    if list.is_empty() { Vec::new() } else { list.split(',').map(str::to_owned).collect() }
}

fn parse_hosts(text: &str) -> Result<Vec<pb::HostIP>, AttrError> {
    let parse = |item: String| {
        let item = item.to_lowercase();
        let Some((host, address)) = item.split_once('=') else {
            return Err(AttrError::HostPair(item));
        };
        let address: IpAddr =
            address.parse().map_err(|_| AttrError::HostAddress(address.to_owned()))?;
        let address = address.to_canonical().to_string();
        Ok(pb::HostIP { Host: host.to_owned(), IP: address, ..Default::default() })
    };
    csv(text)?.into_iter().map(parse).collect()
}

fn parse_network(text: &str) -> Result<pb::NetMode, AttrError> {
    match text {
        "" | "sandbox" => Ok(pb::NetMode::UNSET),
        "none" => Ok(pb::NetMode::NONE),
        "host" => Ok(pb::NetMode::HOST),
        other => Err(AttrError::NetworkMode(other.to_owned())),
    }
}

fn parse_resolve_mode(text: &str) -> Result<ResolveMode, AttrError> {
    match text {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::Pull),
        "local" => Ok(ResolveMode::Local),
        other => Err(AttrError::ResolveMode(other.to_owned())),
    }
}

fn parse_shm_size(text: &str) -> Result<i64, AttrError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| AttrError::ShmSize(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn everything_is_read() {
        let options = Options::parse(&attrs(&[
            ("build-arg:A", "1"),
            ("label:x", "y"),
            ("platform", "linux/amd64,linux/arm64/v8"),
            ("no-cache", "a,B"),
            ("add-hosts", "One=10.0.0.1,two=::1"),
            ("force-network-mode", "none"),
            ("ulimit", "nofile=10:20,core=-1"),
            ("shm-size", "67108864"),
            ("memory", "1024"),
            ("hostname", "h"),
        ]))
        .unwrap();
        assert_eq!(options.filename, "Dockerfile");
        assert_eq!(options.build_args["A"], "1");
        assert!(options.multi_platform);
        assert_eq!(options.platforms[1].Architecture, "arm64");
        assert!(options.ignores_cache("b") && !options.ignores_cache("c"));
        assert_eq!(options.hosts[0].Host, "one");
        assert_eq!((options.ulimits[0].Soft, options.ulimits[0].Hard), (10, 20));
        assert_eq!((options.ulimits[1].Soft, options.ulimits[1].Hard), (-1, -1));
        assert_eq!(options.resources.unwrap().memory, 1024);
        assert_eq!(options.network, pb::NetMode::NONE);
    }

    #[test]
    fn no_cache_without_names_is_every_stage() {
        let options = Options::parse(&attrs(&[("no-cache", "")])).unwrap();
        assert!(options.ignores_cache("x"));
        assert!(!Options::parse(&attrs(&[])).unwrap().ignores_cache("x"));
    }

    #[test]
    fn hostile_values_are_refused() {
        for (key, value) in [
            ("platform", "linux/*"),
            ("platform", ","),
            ("image-resolve-mode", "x"),
            ("force-network-mode", "bridge"),
            ("add-hosts", "x"),
            ("add-hosts", "x=1.2.3"),
            ("add-hosts", "\"x=1.2.3.4"),
            ("shm-size", "1g"),
            ("ulimit", "nofile"),
            ("ulimit", "bogus=1"),
            ("ulimit", "nofile=20:10"),
            ("memory", "0"),
            ("memswap", "-2"),
            ("cpuquota", "x"),
            ("cpusetcpus", "1-"),
            ("multi-platform", "maybe"),
            ("override-copy-image", "x"),
        ] {
            assert!(Options::parse(&attrs(&[(key, value)])).is_err(), "{key}={value} was accepted");
        }
        let both = [("platform", "linux/amd64,linux/arm64"), ("multi-platform", "false")];
        assert!(Options::parse(&attrs(&both)).is_err());
    }
}
