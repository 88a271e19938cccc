//! The project descriptor, `project.toml`, schemas 0.1 to 0.3.
//!
//! The file lies in an application's tree and is therefore a stranger's. It must never say anything
//! about trust: what it names is judged like everything else.

mod schema;

use cofferdam_cnb::{FileError, License};
use serde_json::json;

use crate::inline::Script;
use crate::locator::possible_local_path;

/// Most modules of one list: detection runs every one.
pub(crate) const MAX_GROUP: usize = 256;

/// A project descriptor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProjectDescriptor {
    /// Its schema.
    pub schema: Schema,
    /// What the project is.
    pub project: ProjectInfo,
    /// Free form.
    pub metadata: toml::Table,
    /// The builder it asks for.
    pub builder: Option<String>,
    /// Files that are the application, in gitignore syntax; all, when empty. Never with `exclude`.
    pub include: Vec<String>,
    /// Files that are not the application, in gitignore syntax.
    pub exclude: Vec<String>,
    /// Modules instead of the builder's order.
    pub groups: Vec<GroupEntry>,
    /// Modules before every group of the builder's order.
    pub pre: Vec<GroupEntry>,
    /// Modules after every group of the builder's order.
    pub post: Vec<GroupEntry>,
    /// Variables of the build, in the order they are written.
    pub env: Vec<EnvEntry>,
}

/// A schema of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Schema {
    /// `[project]` and `[build]`.
    #[default]
    V01,
    /// `[_]` and `[io.buildpacks]`.
    V02,
    /// The same, with execution environments.
    V03,
}

impl Schema {
    /// `0.1`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V01 => "0.1",
            Self::V02 => "0.2",
            Self::V03 => "0.3",
        }
    }
}

/// What a project says about itself; a text is empty where it is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectInfo {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Who wrote it.
    pub authors: Vec<String>,
    /// Licenses, each with a type or an address.
    pub licenses: Vec<License>,
    /// Where to read about it.
    pub documentation_url: String,
    /// Where its source is.
    pub source_url: String,
}

/// A module that a project asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// What it is.
    pub module: GroupModule,
    /// Execution environments it is for; all, when empty.
    pub exec_env: Vec<String>,
}

/// What a module that a project asks for is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupModule {
    /// A locator: the `uri`, or `id[@version]`.
    Locator(String),
    /// A script that becomes a buildpack.
    Inline {
        /// Its id.
        id: Option<String>,
        /// Its version.
        version: Option<String>,
        /// The script.
        script: Script,
    },
}

/// A variable of the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvEntry {
    /// Its name; one that can be a file name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Execution environments it is for; all, when empty.
    pub exec_env: Vec<String>,
}

/// Whether something for these execution environments is for this one.
#[must_use]
pub fn is_for_exec_env(declared: &[String], exec_env: &str) -> bool {
    declared.is_empty() || declared.iter().any(|name| name == "*" || name == exec_env)
}

impl ProjectDescriptor {
    /// Parses a descriptor; `file` is named in errors and warnings. The warnings come second.
    ///
    /// # Errors
    /// It is not TOML, of an unknown schema, or breaks a rule of its schema.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), FileError> {
        schema::parse(file, bytes)
    }

    /// All modules: groups, then `pre`, then `post`.
    pub fn modules(&self) -> impl Iterator<Item = &GroupEntry> {
        self.groups.iter().chain(&self.pre).chain(&self.post)
    }

    /// Locators that may be local paths, as paths, each once: what a command line looks for and
    /// offers to the builder.
    #[must_use]
    pub fn local_paths(&self) -> Vec<&str> {
        let mut paths = Vec::new();
        for entry in self.modules() {
            if let GroupModule::Locator(locator) = &entry.module
                && let Some(path) = possible_local_path(locator)
                && !paths.contains(&path)
            {
                paths.push(path);
            }
        }
        paths
    }

    /// The variables of one execution environment; of a name that is there twice, the last.
    #[must_use]
    pub fn env_for(&self, exec_env: &str) -> std::collections::BTreeMap<&str, &str> {
        let applies = |entry: &&EnvEntry| is_for_exec_env(&entry.exec_env, exec_env);
        let entries = self.env.iter().filter(applies);
        entries.map(|entry| (entry.name.as_str(), entry.value.as_str())).collect()
    }

    /// The value of the label `io.buildpacks.project.metadata`; `None` when the project says neither
    /// its version nor where its source is.
    #[must_use]
    pub fn label(&self) -> Option<serde_json::Value> {
        let ProjectInfo { version, source_url, .. } = &self.project;
        let said = !version.is_empty() || !source_url.is_empty();
        said.then(|| {
            json!({"source": {
                "type": "project",
                "version": {"declared": version},
                "metadata": {"url": source_url},
            }})
        })
    }
}

#[cfg(test)]
mod tests;
