//! `buildpack.toml` and `extension.toml`.
//!
//! Keys that the specification does not know are ignored, as other lifecycles do: real modules carry
//! some.

use serde::{Deserialize, Serialize};

use crate::api::{ApiError, ApiVersion};
use crate::module::{Id, Kind, ModuleRef, Version};
use crate::order::Order;
use crate::text::{FileError, parse_toml};

/// A module's descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    /// Buildpack or extension.
    pub kind: Kind,
    /// The Buildpack API it is written for; one that is supported.
    pub api: ApiVersion,
    /// What it is.
    pub info: Info,
    /// What it runs on; empty means the form of its program decides.
    pub targets: Vec<Target>,
    /// What it runs on, in the deprecated form.
    pub stacks: Vec<Stack>,
    /// Not empty in a composite buildpack, which has no program.
    pub order: Order,
}

/// What a module is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Its id.
    pub id: Id,
    /// Its version.
    pub version: Version,
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where to read about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub homepage: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
    /// Licenses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub licenses: Vec<License>,
    /// Whether users' variables are kept from it.
    #[serde(default, rename = "clear-env", skip_serializing_if = "std::ops::Not::not")]
    pub clear_env: bool,
    /// Media types of the SBOMs it writes.
    #[serde(default, rename = "sbom-formats", skip_serializing_if = "Vec::is_empty")]
    pub sbom_formats: Vec<String>,
    /// Execution environments it is for; all, when empty.
    #[serde(default, rename = "exec-env", skip_serializing_if = "Vec::is_empty")]
    pub exec_env: Vec<String>,
}

/// A license by name or address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct License {
    /// SPDX name.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
}

/// A platform; an empty field means any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `linux`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// `amd64`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// `v8`.
    #[serde(default, alias = "arch-variant", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Distributions; any, when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distros: Vec<TargetDistro>,
}

/// A distribution; an empty field means any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetDistro {
    /// `debian`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `12`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// A deprecated stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Its id; `*` is any.
    pub id: String,
    /// Packages it must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixins: Vec<String>,
}

/// A descriptor that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Not of its form.
    #[error(transparent)]
    File(#[from] FileError),
    /// Written for an API that is not supported.
    #[error("{file}: {source}")]
    Api {
        /// The file.
        file: String,
        /// Which version.
        source: ApiError,
    },
}

#[derive(Deserialize)]
struct Raw {
    api: Option<String>,
    buildpack: Option<Info>,
    extension: Option<Info>,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(default)]
    stacks: Vec<Stack>,
    #[serde(default)]
    order: Order,
}

impl Descriptor {
    /// Parses `buildpack.toml` or `extension.toml`, whichever `kind` says; `file` is named in errors.
    ///
    /// # Errors
    /// It is not of that form, or for an API that is not supported (exit code 12 of a lifecycle).
    pub fn parse(kind: Kind, file: &str, bytes: &[u8]) -> Result<Self, DescriptorError> {
        let raw: Raw = parse_toml(file, bytes)?;
        let api = raw.api.ok_or_else(|| FileError::value(file, "api", "is missing"))?;
        let api = api.parse::<ApiVersion>().and_then(ApiVersion::buildpack);
        let api = api.map_err(|source| DescriptorError::Api { file: file.to_owned(), source })?;
        let info = match kind {
            Kind::Buildpack => raw.buildpack,
            Kind::Extension => raw.extension,
        };
        let info = info.ok_or_else(|| FileError::value(file, kind.to_string(), "is missing"))?;
        let composite = !raw.order.is_empty();
        if composite && kind == Kind::Extension {
            return Err(FileError::value(file, "order", "an extension has none").into());
        }
        if composite && !(raw.targets.is_empty() && raw.stacks.is_empty()) {
            let problem = "a buildpack with an order has neither targets nor stacks";
            return Err(FileError::value(file, "order", problem).into());
        }
        let Raw { targets, stacks, order, .. } = raw;
        Ok(Self { kind, api, info, targets, stacks, order })
    }

    /// What names the module.
    #[must_use]
    pub fn module(&self) -> ModuleRef {
        let Info { id, version, .. } = &self.info;
        ModuleRef { kind: self.kind, id: id.clone(), version: version.clone() }
    }

    /// Whether it only names other buildpacks.
    #[must_use]
    pub fn is_composite(&self) -> bool {
        !self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(kind: Kind, text: &str) -> Result<Descriptor, String> {
        Descriptor::parse(kind, "x.toml", text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn components_composites_and_extensions() {
        let text = "api = '0.10'\nunknown = 1\n[buildpack]\nid = 'a/b'\nversion = '1.2.3'\nclear-env = true\nsbom-formats = ['x']\n[[targets]]\nos = 'linux'\narch-variant = 'v8'\n[[targets.distros]]\nname = 'debian'";
        let component = parse(Kind::Buildpack, text).unwrap();
        assert!(component.info.clear_env && !component.is_composite());
        assert_eq!(component.targets[0].variant, "v8");
        assert_eq!(component.module().directory(), "/cnb/buildpacks/a_b/1.2.3");
        let text = "api = '0.12'\n[buildpack]\nid = 'a'\nversion = '1'\n[[order]]\n[[order.group]]\nid = 'b'\nversion = '2'\noptional = true";
        assert!(parse(Kind::Buildpack, text).unwrap().is_composite());
        let text = "api = '0.9'\n[extension]\nid = 'a'\nversion = '1'";
        assert_eq!(parse(Kind::Extension, text).unwrap().kind, Kind::Extension);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let info = "[buildpack]\nid = 'a'\nversion = '1'\n";
        let order = "[[order]]\n[[order.group]]\nid = 'b'\n";
        for (text, message) in [
            (info.to_owned(), "x.toml: api: is missing"),
            (format!("api = '0.99'\n{info}"), "0.99 is not supported"),
            (format!("api = 12\n{info}"), "line 1"),
            ("api = '0.12'".to_owned(), "x.toml: buildpack: is missing"),
            (
                "api = '0.12'\n[extension]\nid = 'a'\nversion = '1'".to_owned(),
                "buildpack: is missing",
            ),
            (
                format!("api = '0.12'\n{info}{order}[[targets]]\nos = 'linux'"),
                "neither targets nor",
            ),
            ("api = '0.12'\n[buildpack]\nid = '../a'\nversion = '1'".to_owned(), "may only have"),
        ] {
            let error = parse(Kind::Buildpack, &text).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let text = format!("api = '0.12'\n[extension]\nid = 'a'\nversion = '1'\n{order}");
        assert!(parse(Kind::Extension, &text).unwrap_err().contains("an extension has none"));
    }
}
