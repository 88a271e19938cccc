//! What names a buildpack or an extension.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest id or version: they become directory names.
const MAX_NAME: usize = 200;
/// Ids that mean something else below the layers directory.
const RESERVED: [&str; 4] = ["app", "config", "generated", "sbom"];

/// A buildpack or an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Detects and builds.
    Buildpack,
    /// Detects and generates Dockerfiles.
    Extension,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Buildpack => "buildpack",
            Self::Extension => "extension",
        })
    }
}

/// An id or version that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// An id with other characters, or none.
    #[error(
        "id {0:?} may only have letters, digits, '.', '/' and '-', and must be a path below a directory"
    )]
    Id(String),
    /// An id that means something else.
    #[error("id {0:?} is reserved")]
    Reserved(String),
    /// A version that is no version.
    #[error("version {0:?} may only have letters, digits, '.', '-', '+' and '_'")]
    Version(String),
}

/// An id: letters, digits, `.`, `/`, `-`; never a way out of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// Checks an id.
    ///
    /// # Errors
    /// See [`IdError`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"./-_".contains(&byte);
        let shown = || text.chars().take(80).collect::<String>();
        let parts_fit = text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if text.len() > MAX_NAME || !text.bytes().all(allowed) || !parts_fit {
            return Err(IdError::Id(shown()));
        }
        if RESERVED.contains(&text) {
            return Err(IdError::Reserved(shown()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a directory name.
    #[must_use]
    pub fn escaped(&self) -> String {
        escape(&self.0)
    }
}

/// An id as a directory name: `/` becomes `_`.
#[must_use]
pub fn escape(id: &str) -> String {
    id.replace('/', "_")
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for Id {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

/// A version, one directory name. Releases are `X.Y.Z`; what others published is taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl Version {
    /// Checks a version.
    ///
    /// # Errors
    /// It has other characters, or is a way out of a directory.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-+_".contains(&byte);
        if text.is_empty()
            || text.len() > MAX_NAME
            || !text.bytes().all(allowed)
            || text.starts_with('.')
        {
            return Err(IdError::Version(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The version.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for Version {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

/// One module, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleRef {
    /// Buildpack or extension.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// Its version.
    pub version: Version,
}

impl ModuleRef {
    /// Where it lies in a builder: `/cnb/buildpacks/<id>/<version>`.
    #[must_use]
    pub fn directory(&self) -> String {
        let parent = match self.kind {
            Kind::Buildpack => "buildpacks",
            Kind::Extension => "extensions",
        };
        format!("/cnb/{parent}/{}/{}", self.id.escaped(), self.version)
    }
}

impl fmt::Display for ModuleRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.id, self.version)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_are_never_a_way_out() {
        for id in ["samples/java", "a.b-c", "A/b/c"] {
            assert!(Id::parse(id).is_ok(), "{id}");
        }
        for id in ["", "/a", "a/", "a//b", "..", "a/../b", "a b", "a\0", "app", "config", "é"] {
            assert!(Id::parse(id).is_err(), "{id}");
        }
        assert!(Version::parse("1.2.3-rc.1").is_ok());
        for version in ["", "..", ".1", "1/2", "1 2"] {
            assert!(Version::parse(version).is_err(), "{version}");
        }
    }
}
