//! `builder.toml`: what a builder image is made of.
//!
//! A key that is not known is an error: a builder without what somebody wrote would be a surprise in
//! every build that uses it. This module must never fetch what it names.

mod raw;

use cofferdam_cnb::{FileError, Order, RunImage, SystemOrder, Target};

pub(crate) use raw::RawTarget;

/// What a builder image is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BuilderToml {
    /// What the builder is for.
    pub description: String,
    /// Buildpacks that go into it.
    pub buildpacks: Vec<ModuleSource>,
    /// Extensions that go into it.
    pub extensions: Vec<ModuleSource>,
    /// Order of buildpacks.
    pub order: Order,
    /// Order of extensions.
    pub order_extensions: Order,
    /// Buildpacks before and after every group.
    pub system: SystemOrder,
    /// Deprecated: the stack's id.
    pub stack_id: Option<String>,
    /// The image that it is made on.
    pub build_image: String,
    /// Variables that the operator gives to every build.
    pub build_env: Vec<BuildEnv>,
    /// Images that applications run on; at least one.
    pub run_images: Vec<RunImage>,
    /// The lifecycle that other platforms would find in it.
    pub lifecycle: Option<LifecycleSource>,
    /// Platforms that it is made for; the one that makes it, when empty.
    pub targets: Vec<Target>,
}

/// A module that goes into a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSource {
    /// The id it has to have, where that is said.
    pub id: Option<String>,
    /// The version it has to have, where that is said.
    pub version: Option<String>,
    /// Where it is, as [`crate::Locator`] reads it.
    pub uri: String,
}

/// A lifecycle by version or by place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LifecycleSource {
    /// A release.
    Version(String),
    /// A file.
    Uri(String),
}

/// A variable that an operator gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildEnv {
    /// Its name; one that can be a file name and has no `.`, which starts a suffix.
    pub name: String,
    /// Its value.
    pub value: String,
    /// How it meets what is there already.
    pub suffix: Suffix,
    /// What stands between the two; always there to append and to prepend.
    pub delim: Option<String>,
    /// Execution environments it is for; all, when empty.
    pub exec_env: Vec<String>,
}

/// How a variable meets what is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Suffix {
    /// Only where it is not set. Also when nothing is said.
    #[default]
    Default,
    /// Instead of it.
    Override,
    /// After it.
    Append,
    /// Before it.
    Prepend,
}

impl Suffix {
    /// The ending of the variable's file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Override => "override",
            Self::Append => "append",
            Self::Prepend => "prepend",
        }
    }
}

impl BuildEnv {
    /// Files below `/cnb/build-config/env` that say the same: name and content.
    #[must_use]
    pub fn files(&self) -> Vec<(String, String)> {
        let mut files = vec![(format!("{}.{}", self.name, self.suffix.name()), self.value.clone())];
        let delim = self.delim.iter().map(|delim| (format!("{}.delim", self.name), delim.clone()));
        files.extend(delim);
        files
    }
}

impl BuilderToml {
    /// Parses the file; `file` is named in errors and warnings. The warnings come second.
    ///
    /// # Errors
    /// It is not of this form, has keys that are not known, or breaks a rule.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), FileError> {
        raw::parse(file, bytes)
    }
}

#[cfg(test)]
mod tests;
