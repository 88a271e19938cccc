//! Buildpack registries: `urn:cnb:registry:<namespace>/<name>[@<version>]`.
//!
//! An index is a git repository with a file of JSON lines for each buildpack; a line names an image by
//! digest. Only an operator says which index is asked. Withdrawn versions are refused, and so is an
//! address that is not pinned.

use cofferdam_cnb::{Id, Version};
use serde::Deserialize;

use super::bench::Bench;
use super::error::BuildErrorKind;
use crate::ImageName;
use crate::locator::{GitLocator, parse_module};

/// How locators of a registry begin.
const PREFIX: &str = "urn:cnb:registry:";

/// One version in an index.
#[derive(Deserialize)]
struct Line {
    version: String,
    #[serde(default)]
    yanked: bool,
    addr: String,
}

impl Bench<'_> {
    /// The image that a locator of a registry stands for; `None` for other locators, and where no
    /// registry is configured.
    pub(crate) async fn registry_image(
        &self,
        locator: &str,
    ) -> Result<Option<ImageName>, BuildErrorKind> {
        let Some(name) = locator.strip_prefix(PREFIX) else { return Ok(None) };
        let Some(index) = self.client.operator_registry() else { return Ok(None) };
        let (id, version) = parse_module(name)
            .map_err(|error| BuildErrorKind::attribute(locator, error.to_string()))?;
        let path = index_path(&id)
            .ok_or_else(|| BuildErrorKind::attribute(locator, "is not <namespace>/<name>"))?;
        let git = GitLocator { remote: index, reference: None, directory: None };
        let file = self.read(self.git(&git), &path).await?;
        let file =
            file.ok_or_else(|| BuildErrorKind::attribute(locator, "is not in the registry"))?;
        choose(&String::from_utf8_lossy(&file), version.as_ref())
            .map(Some)
            .map_err(|problem| BuildErrorKind::attribute(locator, problem))
    }
}

/// `<first two letters>/<next two>/<namespace>_<name>`; short names have `1` and `2` for directories, or
/// `3` and their first two letters.
fn index_path(id: &Id) -> Option<String> {
    let (namespace, name) = id.as_str().split_once('/')?;
    let plain = |text: &str| !text.is_empty() && !text.contains('/') && text.is_ascii();
    if !plain(namespace) || !plain(name) {
        return None;
    }
    let directories = match name.len() {
        1 => "1".to_owned(),
        2 => "2".to_owned(),
        3 => format!("3/{}", &name[..2]),
        _ => format!("{}/{}", &name[..2], &name[2..4]),
    };
    Some(format!("{directories}/{namespace}_{name}"))
}

/// The version that was asked for, or the last that is not withdrawn.
fn choose(lines: &str, version: Option<&Version>) -> Result<ImageName, String> {
    let mut chosen = None;
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| format!("the registry's entry is malformed: {error}"))?;
        match version {
            Some(version) if line.version != version.as_str() => {}
            Some(version) if line.yanked => return Err(format!("version {version} was withdrawn")),
            None if line.yanked => {}
            _ => chosen = Some(line.addr),
        }
    }
    let address = chosen.ok_or("the registry has no such version")?;
    let name = ImageName::parse(&address).map_err(|error| error.to_string())?;
    match name.digest {
        Some(_) => Ok(name),
        None => Err("the registry's address has no digest".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_are_found_where_indexes_have_them() {
        let path = |id: &str| index_path(&Id::parse(id).unwrap());
        assert_eq!(path("acme/java").unwrap(), "ja/va/acme_java");
        assert_eq!(path("acme/go").unwrap(), "2/acme_go");
        assert_eq!(path("acme/php").unwrap(), "3/ph/acme_php");
        assert_eq!(path("java"), None);
        assert_eq!(path("a/b/c"), None);
    }

    #[test]
    fn withdrawn_and_unpinned_versions_are_refused() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let line = |version: &str, yanked: bool, addr: &str| {
            format!(
                "{{\"ns\":\"a\",\"name\":\"b\",\"version\":\"{version}\",\"yanked\":{yanked},\"addr\":\"{addr}\"}}\n"
            )
        };
        let pinned = format!("r.example/b@{digest}");
        let text = line("1.0.0", false, &pinned) + &line("2.0.0", true, &pinned);
        let version = |text: &str| Version::parse(text).unwrap();
        assert_eq!(choose(&text, None).unwrap().to_string(), pinned);
        assert!(choose(&text, Some(&version("1.0.0"))).is_ok());
        assert!(choose(&text, Some(&version("2.0.0"))).unwrap_err().contains("withdrawn"));
        assert!(choose(&text, Some(&version("3.0.0"))).is_err());
        assert!(choose(&line("1.0.0", false, "r.example/b:1"), None).is_err());
        assert!(choose("{", None).is_err());
    }
}
