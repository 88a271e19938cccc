//! What a request asks for: the attributes of `buildpacks.v0`.
//!
//! Attributes come from any client; each that is not understood is an error that names it. Lists and
//! maps are JSON.

use std::collections::BTreeMap;

use cofferdam_cnb::ApiVersion;
use cofferdam_graph::{default_platform, normalize_platform, parse_platform};
use cofferdam_lifecycle::EPOCH;
use cofferdam_wire::pb;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::BuildErrorKind;
use crate::env_name_problem;

/// Where the app lies in sandboxes and in the image.
const WORKSPACE: &str = "/workspace";
/// Variables a request may set.
const MAX_ENV: usize = 10_000;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Build,
    BuilderImage,
    Buildpackage,
    Rebase,
}

/// A directory that steps see.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Volume {
    /// A directory of the client.
    #[serde(default)]
    pub(crate) local: String,
    /// A directory that stays from build to build.
    #[serde(default)]
    pub(crate) cache: String,
    /// Where.
    pub(crate) target: String,
    /// Whether steps may only read it; directories of the client always are.
    #[serde(default)]
    pub(crate) readonly: bool,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    attrs: BTreeMap<String, String>,
    pub(crate) operation: Operation,
    pub(crate) platform: pb::Platform,
    pub(crate) buildpacks: Vec<String>,
    pub(crate) pre: Vec<String>,
    pub(crate) post: Vec<String>,
    pub(crate) extensions: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) tags: Vec<String>,
    pub(crate) trusted: Vec<String>,
    pub(crate) denied: Vec<String>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created: i64,
    pub(crate) workspace: String,
    pub(crate) exec_env: String,
    pub(crate) network: pb::NetMode,
    pub(crate) no_cache: bool,
    /// The Platform API to build by; the builder's latest, when missing.
    pub(crate) platform_api: Option<ApiVersion>,
}

impl Request {
    pub(crate) fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, BuildErrorKind> {
        let text = |name: &str| attrs.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let operation = match text("operation") {
            None | Some("build") => Operation::Build,
            Some("builder-image") => Operation::BuilderImage,
            Some("buildpackage") => Operation::Buildpackage,
            Some("rebase") => Operation::Rebase,
            Some(other) => {
                let problem =
                    format!("{other:?} is none of build, builder-image, buildpackage, rebase");
                return Err(BuildErrorKind::attribute("operation", problem));
            }
        };
        let platform = match text("platform") {
            None => default_platform(),
            Some(text) => parse_platform(text)
                .map_err(|error| BuildErrorKind::attribute("platform", error.to_string()))?,
        };
        let network = match text("network") {
            None | Some("default") => pb::NetMode::UNSET,
            Some("none") => pb::NetMode::NONE,
            Some("host") => pb::NetMode::HOST,
            Some(other) => {
                let problem = format!("{other:?} is none of default, none, host");
                return Err(BuildErrorKind::attribute("network", problem));
            }
        };
        let env: BTreeMap<String, String> = json(attrs, "env")?;
        for name in env.keys().take(MAX_ENV + 1) {
            if let Some(problem) = env_name_problem(name) {
                return Err(BuildErrorKind::attribute("env", format!("{name:?}: {problem}")));
            }
        }
        if env.len() > MAX_ENV {
            return Err(BuildErrorKind::attribute("env", format!("more than {MAX_ENV} variables")));
        }
        Ok(Self {
            operation,
            platform: normalize_platform(&platform),
            buildpacks: json(attrs, "buildpacks")?,
            pre: json(attrs, "pre-buildpacks")?,
            post: json(attrs, "post-buildpacks")?,
            extensions: json(attrs, "extensions")?,
            env,
            tags: json(attrs, "tags")?,
            trusted: json(attrs, "trusted")?,
            denied: json(attrs, "denied")?,
            volumes: json(attrs, "volumes")?,
            labels: json(attrs, "labels")?,
            created: created(attrs)?,
            workspace: workspace(text("workspace").unwrap_or(WORKSPACE))?,
            exec_env: exec_env(text("exec-env").unwrap_or("production"))?,
            network,
            no_cache: attrs.contains_key("no-cache"),
            platform_api: platform_api(text("platform-api"))?,
            attrs: attrs.clone(),
        })
    }

    /// An attribute that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// An attribute that must be there.
    pub(crate) fn need(&self, name: &str) -> Result<&str, BuildErrorKind> {
        self.get(name).ok_or_else(|| BuildErrorKind::attribute(name, "is missing"))
    }

    /// Whether an attribute is `true`.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| matches!(text, "true" | "1"))
    }

    /// The local source that has the directory a locator names.
    pub(crate) fn local(&self, path: &str) -> Option<&str> {
        self.get(&format!("local:{path}"))
    }

    /// The local source and the name in it of the file a locator names.
    pub(crate) fn local_file(&self, path: &str) -> Option<(&str, &str)> {
        self.get(&format!("local-file:{path}"))?.split_once('/')
    }

    /// A number of an id.
    pub(crate) fn id(&self, name: &str) -> Result<Option<u32>, BuildErrorKind> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let id = text.parse::<u32>().ok().filter(|id| (1..65_536).contains(id));
        let problem =
            || BuildErrorKind::attribute(name, format!("{text:?} is not an id from 1 to 65535"));
        id.map(Some).ok_or_else(problem)
    }
}

fn json<T: DeserializeOwned + Default>(
    attrs: &BTreeMap<String, String>,
    name: &str,
) -> Result<T, BuildErrorKind> {
    match attrs.get(name).filter(|text| !text.is_empty()) {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| BuildErrorKind::attribute(name, error.to_string())),
    }
}

fn platform_api(text: Option<&str>) -> Result<Option<ApiVersion>, BuildErrorKind> {
    let Some(text) = text else { return Ok(None) };
    let version = text.parse::<ApiVersion>().and_then(ApiVersion::platform);
    Ok(Some(version.map_err(BuildErrorKind::PlatformApi)?))
}

/// When the image is said to be made: pack's `--creation-time`, or `SOURCE_DATE_EPOCH`.
fn created(attrs: &BTreeMap<String, String>) -> Result<i64, BuildErrorKind> {
    let given = ["creation-time", "build-arg:SOURCE_DATE_EPOCH"]
        .into_iter()
        .find_map(|name| Some((name, attrs.get(name).filter(|text| !text.is_empty())?)));
    match given {
        None => Ok(EPOCH),
        Some((_, text)) if text == "now" => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            Ok(now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()).unwrap_or(EPOCH))
        }
        Some((name, text)) => text.parse::<i64>().ok().filter(|time| *time >= 0).ok_or_else(|| {
            BuildErrorKind::attribute(
                name,
                format!("{text:?} is neither seconds since 1970 nor now"),
            )
        }),
    }
}

fn workspace(path: &str) -> Result<String, BuildErrorKind> {
    let refuse =
        |problem: &str| BuildErrorKind::attribute("workspace", format!("{path:?} {problem}"));
    let parts_fit =
        |rest: &str| rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !path.strip_prefix('/').is_some_and(parts_fit) || path.chars().any(char::is_control) {
        return Err(refuse("is not an absolute path"));
    }
    let taken = ["/cnb", "/layers", "/platform", "/proc", "/sys", "/dev", "/etc", "/usr", "/bin"];
    if taken.iter().any(|taken| path == *taken || path.starts_with(&format!("{taken}/"))) {
        return Err(refuse("is taken by the system or by buildpacks"));
    }
    Ok(path.to_owned())
}

fn exec_env(text: &str) -> Result<String, BuildErrorKind> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    if text.len() > 100 || !text.bytes().all(allowed) {
        let problem = format!("{text:?} may only have letters, digits, '.' and '-'");
        return Err(BuildErrorKind::attribute("exec-env", problem));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Request, BuildErrorKind> {
        let attrs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Request::parse(&attrs.collect())
    }

    #[test]
    fn defaults_are_those_of_the_specification() {
        let request = parse(&[]).unwrap();
        assert_eq!(request.workspace, "/workspace");
        assert_eq!(request.exec_env, "production");
        assert_eq!(request.created, 315_532_801);
    }

    #[test]
    fn mistakes_name_the_attribute() {
        for (name, value) in [
            ("operation", "x"),
            ("platform", "//"),
            ("network", "bridge"),
            ("env", "[]"),
            ("env", r#"{"A=B":"c"}"#),
            ("env", r#"{"../x":"c"}"#),
            ("buildpacks", "a,b"),
            ("creation-time", "yesterday"),
            ("workspace", "relative"),
            ("workspace", "/cnb/x"),
            ("workspace", "/a/../b"),
            ("exec-env", "a b"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}={value}: {error}");
        }
        let ids = parse(&[("uid", "0"), ("gid", "x")]).unwrap();
        assert!(ids.id("uid").is_err() && ids.id("gid").is_err());
    }
}
