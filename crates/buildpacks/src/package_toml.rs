//! `package.toml`: what a buildpackage is made of.
//!
//! As in `builder.toml`, a key that is not known is an error.

use cofferdam_cnb::{FileError, Kind, Target, parse_toml};
use serde::Deserialize;

use crate::builder_toml::RawTarget;
use crate::text::{printable, short};

/// What a buildpackage is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageToml {
    /// Whether the package is of a buildpack or of an extension.
    pub kind: Kind,
    /// Where its root module is, as [`crate::Locator`] reads it.
    pub uri: String,
    /// Where the modules are that the root module's order names.
    pub dependencies: Vec<String>,
    /// Platforms that it is made for; the one that makes it, when empty.
    pub targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    buildpack: Option<RawModule>,
    extension: Option<RawModule>,
    #[serde(default)]
    dependencies: Vec<RawDependency>,
    platform: Option<RawPlatform>,
    #[serde(default)]
    targets: Vec<RawTarget>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModule {
    #[serde(default)]
    uri: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDependency {
    uri: Option<String>,
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlatform {
    #[serde(default)]
    os: String,
}

impl PackageToml {
    /// Parses the file; `file` is named in errors and warnings. The warnings come second.
    ///
    /// # Errors
    /// It is not of this form, has keys that are not known, or breaks a rule.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), FileError> {
        let file = &printable(file);
        let Raw { buildpack, extension, dependencies, platform, targets } =
            parse_toml(file, bytes)?;
        let wrong = |key: &str, problem: &str| FileError::value(file, key, problem);
        let given = |module: Option<RawModule>| {
            module.map(|module| module.uri).filter(|uri| !uri.is_empty())
        };
        let (kind, uri) = match (given(buildpack), given(extension)) {
            (Some(_), Some(_)) => {
                return Err(wrong("extension.uri", "cannot be used together with buildpack.uri"));
            }
            (Some(uri), None) => (Kind::Buildpack, uri),
            (None, Some(uri)) => (Kind::Extension, uri),
            (None, None) => return Err(wrong("buildpack.uri", "is missing")),
        };
        if kind == Kind::Extension && !dependencies.is_empty() {
            return Err(wrong("dependencies", "an extension has none"));
        }
        let mut warnings = Vec::new();
        if let Some(RawPlatform { os }) = platform {
            warnings.push(format!("{file}: [platform] is deprecated; use [[targets]]"));
            if !matches!(os.as_str(), "" | "linux") {
                let problem = format!("{:?} is not supported; only linux is", short(&os));
                return Err(wrong("platform.os", &problem));
            }
        }
        let mut locators = Vec::new();
        for (index, dependency) in dependencies.into_iter().enumerate() {
            let key = format!("dependencies[{index}]");
            locators.push(match (dependency.uri, dependency.image) {
                (Some(_), Some(_)) => return Err(wrong(&key, "has both a uri and an image")),
                (Some(uri), None) => uri,
                (None, Some(image)) => {
                    warnings.push(format!(
                        "{file}: {key}: image is deprecated; use a uri with docker://"
                    ));
                    format!("docker://{image}")
                }
                (None, None) => return Err(wrong(&key, "needs a uri")),
            });
        }
        let targets = targets.into_iter().map(Target::from).collect();
        Ok((Self { kind, uri, dependencies: locators, targets }, warnings))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<(PackageToml, Vec<String>), FileError> {
        PackageToml::parse("package.toml", text.as_bytes())
    }

    #[test]
    fn the_whole_file_is_read() {
        let (made, warnings) = parse(
            r#"
            [buildpack]
            uri = "."
            [[dependencies]]
            uri = "../other"
            [[dependencies]]
            image = "a/b:1"
            [[targets]]
            os = "linux"
            arch = "amd64"
            "#,
        )
        .unwrap();
        assert_eq!((made.kind, made.uri.as_str()), (Kind::Buildpack, "."));
        assert_eq!(made.dependencies, ["../other", "docker://a/b:1"]);
        assert_eq!(made.targets[0].arch, "amd64");
        assert_eq!(warnings.len(), 1);
        let (made, warnings) =
            parse("[extension]\nuri = \"x\"\n[platform]\nos = \"linux\"").unwrap();
        assert_eq!((made.kind, warnings.len()), (Kind::Extension, 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message) in [
            ("", "buildpack.uri: is missing"),
            ("[buildpack]", "buildpack.uri: is missing"),
            ("[buildpack]\nurl = \".\"", "unknown field `url`"),
            ("[buildpack]\nuri = \".\"\n[extension]\nuri = \".\"", "extension.uri"),
            ("[buildpack]\nuri = \".\"\n[platform]\nos = \"windows\"", "only linux is"),
            ("[buildpack]\nuri = \".\"\n[platform]\nos = \"\\u001b\"", "only linux is"),
            ("[buildpack]\nuri = \".\"\n[[dependencies]]", "dependencies[0]: needs a uri"),
            ("[buildpack]\nuri = \".\"\n[[dependencies]]\nuri = \"a\"\nimage = \"a\"", "has both"),
            ("[extension]\nuri = \".\"\n[[dependencies]]\nuri = \"a\"", "an extension has none"),
            ("[buildpack]\nuri = \".\"\n[[targets]]\n\"\\u001b\" = 1", "unknown field"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.starts_with("package.toml: ") && error.contains(message), "{error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
