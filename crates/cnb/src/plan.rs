//! Build plans: what detection negotiates.

use serde::{Deserialize, Serialize};

use crate::text::FileError;

/// What `bin/detect` writes: provides and requires, with alternatives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildPlan {
    /// What the module offers.
    #[serde(default)]
    pub provides: Vec<Provide>,
    /// What it needs.
    #[serde(default)]
    pub requires: Vec<Require>,
    /// Other pairs of the two; only the top level may have some.
    #[serde(default)]
    pub or: Vec<BuildPlan>,
}

/// One offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provide {
    /// Name of the dependency.
    pub name: String,
}

/// One need.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Require {
    /// Name of the dependency.
    pub name: String,
    /// Gone from the specification; its use makes detection an error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// For whoever provides it.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub metadata: toml::Table,
}

/// `plan.toml` as a buildpack's build reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanFile {
    /// What this buildpack is to provide.
    #[serde(default)]
    pub entries: Vec<Require>,
}

/// One name of the resolved plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanEntry {
    /// The name.
    pub name: String,
    /// Modules that provide it, in group order.
    pub providers: Vec<crate::ModuleRef>,
    /// Needs, in group order.
    pub requires: Vec<Require>,
}

/// `build.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct UnmetFile {
    /// Entries the buildpack did not meet.
    #[serde(default)]
    pub unmet: Vec<Provide>,
}

impl BuildPlan {
    /// Checks what the form alone does not rule out; `file` is named in errors.
    ///
    /// # Errors
    /// A `version` outside `metadata`, an `or` in an `or`, a name that is empty or has control characters.
    pub fn check(&self, file: &str) -> Result<(), FileError> {
        self.check_part("", file)?;
        for part in &self.or {
            if !part.or.is_empty() {
                return Err(FileError::value(file, "or.or", "alternatives have no alternatives"));
            }
            part.check_part("or.", file)?;
        }
        Ok(())
    }

    fn check_part(&self, prefix: &str, file: &str) -> Result<(), FileError> {
        let bad = |name: &str| name.is_empty() || name.contains(char::is_control);
        let key = |key: &str| format!("{prefix}{key}");
        if self.provides.iter().any(|provide| bad(&provide.name)) {
            return Err(FileError::value(file, key("provides.name"), BAD_NAME));
        }
        for require in &self.requires {
            if bad(&require.name) {
                return Err(FileError::value(file, key("requires.name"), BAD_NAME));
            }
            if !require.version.is_empty() {
                let name: String = require.name.chars().take(80).collect();
                let problem = format!("of {name} belongs into requires.metadata");
                return Err(FileError::value(file, key("requires.version"), problem));
            }
        }
        Ok(())
    }
}

/// What is wrong with a name.
const BAD_NAME: &str = "is empty or has control characters";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parse_toml;

    fn check(text: &str) -> Result<(), String> {
        let plan: BuildPlan =
            parse_toml("plan", text.as_bytes()).map_err(|error| error.to_string())?;
        plan.check("plan").map_err(|error| error.to_string())
    }

    #[test]
    fn plans_with_alternatives() {
        let text = "[[provides]]\nname='x'\n[[requires]]\nname='y'\n[requires.metadata]\nversion='1'\n[[or]]\n[[or.requires]]\nname='z'\n[[or]]";
        assert_eq!(check(text), Ok(()));
        assert_eq!(check(""), Ok(()));
    }

    #[test]
    fn the_key_at_fault_is_named() {
        for (text, key) in [
            ("[[requires]]\nname='x'\nversion='1'", "plan: requires.version"),
            ("[[or]]\n[[or.requires]]\nname='x'\nversion='1'", "plan: or.requires.version"),
            ("[[or]]\n[[or.or]]", "plan: or.or"),
            ("[[provides]]\nname=''", "plan: provides.name"),
            ("[[requires]]\nname=\"\\u001b[2J\"", "plan: requires.name"),
            ("[[provides]]\nid='x'", "missing field `name`"),
            ("provides = 1", "line 1"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(key), "{text}: {error}");
        }
    }
}
