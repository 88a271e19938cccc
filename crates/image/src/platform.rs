//! Platforms: what an image runs on, normalised, and which of several fits best.
//!
//! The fields are those of the
//! [OCI image index](https://github.com/opencontainers/image-spec/blob/main/image-index.md).
//! Normal forms and the order of preference are the ones container engines agree on:
//! `arm64/v8` is `arm64`, `arm` is `arm/v7`, an `arm64` machine also runs `arm/v8` and below.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operating system and a processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Processor, in Go's words: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system, where it matters.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features the operating system must have.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Processor variant: `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Text that is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: expected os/architecture[/variant]")]
pub struct ParsePlatformError {
    text: String,
}

impl Platform {
    /// A normalised platform.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
        .normalized()
    }

    /// The platform this program runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::new("linux", architecture, "")
    }

    /// Parses `os/architecture[/variant]` into its normal form.
    ///
    /// # Errors
    /// Fewer than two or more than three parts, or a part with other characters than letters,
    /// digits, `.`, `_` and `-`.
    pub fn parse(text: &str) -> Result<Self, ParsePlatformError> {
        let error = || ParsePlatformError { text: text.chars().take(100).collect() };
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part.len() <= 64
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !parts.iter().all(plain) {
            return Err(error());
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(error()),
        }
    }

    /// The normal form of this platform.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i686" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "" | "v1" | "1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("aarch64" | "arm64", "" | "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "v9" | "v9.0") => ("arm64", "v9"),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// Whether this entry is no platform at all, as attestation manifests are marked.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// How well an image for `offered` runs here: 0 is exact, larger is worse, `None` is not at all.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        let wanted = self.normalized();
        let offered = offered.normalized();
        if wanted.os != offered.os {
            return None;
        }
        let place = wanted.runnable().iter().position(|(architecture, variant)| {
            *architecture == offered.architecture && *variant == offered.variant
        })?;
        Some(place * 2 + wanted.version_rank(&offered)?)
    }

    /// How well a version of the operating system fits. It matters where images are made for one: a
    /// Windows image runs on the build it was made for, whatever the revision.
    fn version_rank(&self, offered: &Self) -> Option<usize> {
        if self.os != "windows" || self.os_version.is_empty() {
            return Some(0);
        }
        let build = |platform: &Self| -> Vec<String> {
            platform.os_version.split('.').take(3).map(str::to_owned).collect()
        };
        match offered.os_version.as_str() {
            "" => Some(1),
            _ if build(self) == build(offered) => Some(0),
            _ => None,
        }
    }

    /// Processors this (normalised) one can run, best first.
    fn runnable(&self) -> Vec<(String, String)> {
        let pair =
            |architecture: &str, variant: &str| (architecture.to_owned(), variant.to_owned());
        let mut list = vec![pair(&self.architecture, &self.variant)];
        let version: u32 = self.variant.trim_start_matches('v').parse().unwrap_or(0).min(9);
        match self.architecture.as_str() {
            "amd64" => {
                for lower in (2..version).rev() {
                    list.push(pair("amd64", &format!("v{lower}")));
                }
                if version > 1 {
                    list.push(pair("amd64", ""));
                }
                list.push(pair("386", ""));
            }
            "arm64" => {
                if !self.variant.is_empty() {
                    list.push(pair("arm64", ""));
                }
                for lower in (5..=8).rev() {
                    list.push(pair("arm", &format!("v{lower}")));
                }
            }
            "arm" => {
                for lower in (5..version).rev() {
                    list.push(pair("arm", &format!("v{lower}")));
                }
            }
            _ => {}
        }
        list
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(formatter, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn normal_forms() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/ARM/6", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/a b", "lin\0ux/x"]
        {
            assert!(Platform::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn ranks_prefer_the_nearest() {
        let parse = |text: &str| Platform::parse(text).unwrap();
        assert_eq!(parse("linux/arm64").rank(&parse("linux/arm64/v8")), Some(0));
        assert!(parse("linux/arm64").rank(&parse("linux/arm/v7")).is_some());
        assert_eq!(parse("linux/arm/v7").rank(&parse("linux/arm64")), None);
        assert!(
            parse("linux/amd64/v3").rank(&parse("linux/amd64"))
                < parse("linux/amd64/v3").rank(&parse("linux/386"))
        );
        assert_eq!(parse("linux/amd64").rank(&parse("windows/amd64")), None);
    }

    #[test]
    fn windows_images_are_for_a_build() {
        let of = |version: &str| Platform {
            os_version: version.to_owned(),
            ..Platform::new("windows", "amd64", "")
        };
        assert_eq!(of("10.0.1.5").rank(&of("10.0.1.9")), Some(0));
        assert_eq!(of("10.0.1").rank(&of("10.0.2")), None);
        assert!(of("10.0.1").rank(&of("")) > of("10.0.1").rank(&of("10.0.1")));
        assert_eq!(of("").rank(&of("10.0.2")), Some(0));
    }
}
