//! How strong the walls around third-party code are: one scale for machines, projects and builds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A level of isolation, the weakest first. A floor is compared with `>=`: a stronger level always satisfies a weaker one.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The builder under ids of its own, each step in a nested user namespace.
    #[default]
    Namespaces,
    /// As `Namespaces`, and each step's system calls are answered by gVisor instead of the machine's kernel.
    Gvisor,
    /// The whole builder in a virtual machine with a kernel and a disk of its own.
    Vm,
}

impl Isolation {
    /// Every level, the weakest first.
    pub const ALL: [Self; 3] = [Self::Namespaces, Self::Gvisor, Self::Vm];

    /// The word for it in configuration, flags and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Gvisor => "gvisor",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no level of isolation: use namespaces, gvisor or vm")]
pub struct IsolationError(String);

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| IsolationError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_back_and_levels_rise() {
        for level in Isolation::ALL {
            assert_eq!(level.name().parse::<Isolation>().unwrap(), level);
            assert_eq!(serde_json::to_string(&level).unwrap(), format!("\"{level}\""));
        }
        assert!(Isolation::ALL.is_sorted());
        assert!("VM".parse::<Isolation>().unwrap_err().to_string().contains("gvisor"));
    }
}
