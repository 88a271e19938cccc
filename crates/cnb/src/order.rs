//! Orders of detection: groups of modules, tried one after the other.

use serde::{Deserialize, Serialize};

/// `order.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderFile {
    /// Groups of buildpacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Order,
    /// Groups of extensions.
    #[serde(default, rename = "order-extensions", skip_serializing_if = "Vec::is_empty")]
    pub order_extensions: Order,
}

/// Groups, the preferred one first.
pub type Order = Vec<Group>;

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its elements, in the order they build.
    #[serde(default)]
    pub group: Vec<GroupElement>,
}

/// A module in a group. Ids and versions are checked when they are looked up: what a builder does
/// not have is an error by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupElement {
    /// Its id.
    pub id: String,
    /// Its version; empty where the builder has exactly one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Whether the group passes without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Execution environments it takes part in; all, when empty.
    #[serde(default, rename = "exec-env", skip_serializing_if = "Vec::is_empty")]
    pub exec_env: Vec<String>,
}
