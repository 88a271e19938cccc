//! Whether a result has the platforms that were asked for. A result that has others is given, with a warning: frontends know better
//! than builders. One that contradicts itself is refused.

use std::collections::BTreeSet;

use bytes::Bytes;
use cofferdam_graph::{default_platform, normalize_platform, parse_platform, platform_string};
use cofferdam_solver::Warning;
use cofferdam_wire::pb;
use serde::Deserialize;

use crate::export::{CONFIG_KEY, Output, Refs};
use crate::failure::Failure;

/// Metadata that lists the platforms of a result.
const PLATFORMS_KEY: &str = "refs.platforms";

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Platforms", default)]
    platforms: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Platform", default)]
    platform: Described,
}

#[derive(Deserialize, Default)]
struct Described {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Described {
    fn name(&self) -> String {
        platform_string(&normalize_platform(&pb::Platform {
            OS: self.os.clone(),
            Architecture: self.architecture.clone(),
            Variant: self.variant.clone(),
            ..pb::Platform::default()
        }))
    }
}

/// What is to be said about the platforms of `output`; `requested` is the build's `platform` attribute.
pub(crate) fn check(requested: Option<&str>, output: &Output) -> Result<Vec<Warning>, Failure> {
    let listed = output.metadata.get(PLATFORMS_KEY);
    let is_map = matches!(&output.refs, Refs::Map(map) if !map.is_empty());
    if listed.is_none() {
        if is_map {
            let message = "build result contains multiple refs without platforms mapping";
            return Err(Failure::invalid(message));
        }
        if matches!(output.refs, Refs::Single(None) | Refs::Map(_)) {
            return Ok(Vec::new());
        }
    }
    let found = platforms(listed.map(Vec::as_slice), output.metadata.get(CONFIG_KEY))?;
    Ok(compare(requested, &found, is_map).into_iter().map(warning).collect())
}

/// The platforms of a result as it says itself.
fn platforms(listed: Option<&[u8]>, config: Option<&Vec<u8>>) -> Result<Vec<String>, Failure> {
    if let Some(listed) = listed {
        let listed: Option<Listed> = serde_json::from_slice(listed).map_err(|error| {
            Failure::invalid(format!("failed to parse platforms of the result: {error}"))
        })?;
        let entries = listed.and_then(|listed| listed.platforms).unwrap_or_default();
        if entries.is_empty() {
            return Err(Failure::invalid("invalid empty platforms index for exporter"));
        }
        for entry in &entries {
            if entry.id.is_empty() {
                return Err(Failure::invalid("invalid empty platform key for exporter"));
            }
            let platform = &entry.platform;
            if platform.os.is_empty() || platform.architecture.is_empty() {
                let id = &entry.id;
                let message = format!("invalid platform value {id} for exporter");
                return Err(Failure::invalid(message));
            }
        }
        return Ok(entries.iter().map(|entry| entry.platform.name()).collect());
    }
    // What is no object has no fields; exporters say what is wrong with it.
    let config: Described =
        config.and_then(|config| serde_json::from_slice(config).ok()).unwrap_or_default();
    match (config.os.is_empty(), config.architecture.is_empty()) {
        (false, false) => Ok(vec![config.name()]),
        (true, true) => Ok(vec![platform_string(&default_platform())]),
        _ => Err(Failure::invalid(
            "invalid image config: os and architecture must be specified together",
        )),
    }
}

fn compare(requested: Option<&str>, found: &[String], is_map: bool) -> Vec<String> {
    let own = platform_string(&default_platform());
    let requested: Vec<&str> = requested.unwrap_or(&own).split(',').collect();
    let mut wanted = BTreeSet::new();
    let mut warnings = Vec::new();
    for text in &requested {
        match parse_platform(text) {
            Err(error) => {
                warnings.push(format!("Invalid platform result requested {text:?}: {error}"));
            }
            Ok(platform) => {
                if !wanted.insert(platform_string(&normalize_platform(&platform))) {
                    warnings.push(format!("Duplicate platform result requested {text:?}"));
                }
            }
        }
    }
    if !warnings.is_empty() {
        return warnings;
    }
    if let ([asked], [given]) = (requested.as_slice(), found) {
        return match wanted.contains(given) {
            true => Vec::new(),
            false => vec![format!(
                "Requested platform {asked:?} does not match result platform {given:?}"
            )],
        };
    }
    if !is_map && wanted.len() > 1 {
        return vec!["Multiple platforms requested but result is not multi-platform".to_owned()];
    }
    let given: BTreeSet<String> = found.iter().cloned().collect();
    if wanted == given {
        return Vec::new();
    }
    let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(",");
    vec![format!(
        "Requested platforms {} do not match result platforms {}",
        list(wanted),
        list(given)
    )]
}

fn warning(short: String) -> Warning {
    Warning {
        level: 0,
        short: Bytes::from(short),
        detail: Vec::new(),
        url: String::new(),
        info: None,
        ranges: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(requested: &str, found: &[&str], is_map: bool) -> String {
        let found: Vec<String> = found.iter().map(|name| (*name).to_owned()).collect();
        compare(Some(requested), &found, is_map).join("; ")
    }

    #[test]
    fn other_platforms_than_asked_for_are_said() {
        assert_eq!(said("linux/amd64", &["linux/amd64"], false), "");
        assert_eq!(said("linux/arm64/v8", &["linux/arm64"], false), "");
        assert!(said("linux/amd64", &["linux/arm64"], false).contains("does not match"));
        let both = "linux/amd64,linux/arm64";
        assert_eq!(said(both, &["linux/arm64", "linux/amd64"], true), "");
        assert!(said(both, &["linux/amd64"], false).contains("not multi-platform"));
        assert!(said(both, &["linux/amd64", "linux/riscv64"], true).contains("do not match"));
        assert!(said("linux/amd64,linux/amd64", &[], true).contains("Duplicate"));
        assert!(said("a/b/c/d/e", &[], true).contains("Invalid"));
    }

    #[test]
    fn lists_that_say_nothing_are_refused() {
        let listed = |text: &str| platforms(Some(text.as_bytes()), None);
        for text in ["{}", r#"{"Platforms":null}"#, r#"{"Platforms":[]}"#] {
            assert!(listed(text).unwrap_err().message().contains("empty platforms index"));
        }
        let nameless =
            r#"{"Platforms":[{"ID":"","Platform":{"os":"linux","architecture":"amd64"}}]}"#;
        assert!(listed(nameless).unwrap_err().message().contains("empty platform key"));
        assert!(listed(r#"{"Platforms":[{"ID":"x"}]}"#).is_err());
        assert!(listed("[").is_err());
        let config = br#"{"os":"linux"}"#.to_vec();
        assert!(platforms(None, Some(&config)).is_err());
    }
}
