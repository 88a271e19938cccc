//! Versions of the Buildpack and Platform API.
//!
//! `major.minor`; a version without minor is `.0`. With major 0 only an exact match is compatible.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Buildpack APIs that are supported: 0.7 to this minor.
pub const BUILDPACK_APIS: std::ops::RangeInclusive<u32> = 7..=12;
/// Platform APIs that are supported: 0.7 to this minor.
pub const PLATFORM_APIS: std::ops::RangeInclusive<u32> = 7..=15;
/// The Platform API that builds use.
pub const PLATFORM_API: ApiVersion = ApiVersion { major: 0, minor: 15 };

/// An API version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiVersion {
    /// Zero in every published version.
    pub major: u32,
    /// What distinguishes them.
    pub minor: u32,
}

/// A version that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Not `major.minor`.
    #[error("API version {0:?} is not of the form <major>.<minor>")]
    Form(String),
    /// A Buildpack API this lifecycle does not speak.
    #[error("Buildpack API {0} is not supported; supported are 0.7 to 0.12")]
    Buildpack(ApiVersion),
    /// A Platform API this lifecycle does not speak.
    #[error("Platform API {0} is not supported; supported are 0.7 to 0.15")]
    Platform(ApiVersion),
}

impl ApiVersion {
    /// `0.minor`.
    #[must_use]
    pub const fn minor(minor: u32) -> Self {
        Self { major: 0, minor }
    }

    /// Whether this is `0.minor` or later.
    #[must_use]
    pub const fn at_least(self, minor: u32) -> bool {
        self.major > 0 || self.minor >= minor
    }

    /// This version, when it is a supported Buildpack API.
    ///
    /// # Errors
    /// It is not.
    pub fn buildpack(self) -> Result<Self, ApiError> {
        let known = self.major == 0 && BUILDPACK_APIS.contains(&self.minor);
        if known { Ok(self) } else { Err(ApiError::Buildpack(self)) }
    }

    /// This version, when it is a supported Platform API.
    ///
    /// # Errors
    /// It is not.
    pub fn platform(self) -> Result<Self, ApiError> {
        let known = self.major == 0 && PLATFORM_APIS.contains(&self.minor);
        if known { Ok(self) } else { Err(ApiError::Platform(self)) }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse::<u32>().ok()).flatten()
        };
        match (number(major), number(minor)) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(ApiError::Form(text.chars().take(40).collect())),
        }
    }
}

impl TryFrom<String> for ApiVersion {
    type Error = ApiError;

    fn try_from(text: String) -> Result<Self, ApiError> {
        text.parse()
    }
}

impl From<ApiVersion> for String {
    fn from(version: ApiVersion) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_and_judges_versions() {
        let parse = |text: &str| text.parse::<ApiVersion>();
        assert_eq!(parse("0.12").unwrap(), ApiVersion::minor(12));
        assert_eq!(parse("1").unwrap(), ApiVersion { major: 1, minor: 0 });
        for text in ["", "0.", ".1", "0.1.2", "0.+1", "a.b", "0.99999999999"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(ApiVersion::minor(12).buildpack().is_ok());
        assert!(ApiVersion::minor(6).buildpack().is_err());
        assert!(ApiVersion { major: 1, minor: 0 }.buildpack().is_err());
        assert!(ApiVersion::minor(15).platform().is_ok());
        assert!(ApiVersion::minor(16).platform().is_err());
    }
}
