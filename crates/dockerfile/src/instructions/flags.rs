//! `--name=value` flags in front of an instruction's arguments.

use super::InstructionError;
use crate::suggest::{DidYouMean, suggest};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `=true` or `=false`.
    Bool,
    /// One value.
    Value,
    /// A value, any number of times.
    Values,
}

/// The flags an instruction knows.
pub(super) type Known = [(&'static str, Takes)];

/// A flag that is wrong. `flag` includes the dashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// The instruction has no such flag.
    #[error("unknown flag: {flag}{hint}")]
    Unknown {
        /// The flag.
        flag: String,
        /// A similar one.
        hint: DidYouMean,
    },
    /// Given twice.
    #[error("duplicate flag specified: {0}")]
    Duplicate(String),
    /// No value, or `=` without one on a boolean.
    #[error("missing a value on flag: {0}")]
    MissingValue(String),
    /// A boolean that is neither true nor false.
    #[error("expecting boolean value for flag {flag}, not: {value}")]
    NotBoolean {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
    },
}

/// Flags as given, checked against the known ones.
#[derive(Debug)]
pub(super) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    pub(super) fn read(flags: &[String], known: &Known) -> Result<Self, InstructionError> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for flag in flags {
            let (dashed, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.as_str(), None),
            };
            let name = dashed.strip_prefix("--").unwrap_or(dashed);
            let Some((name, takes)) = known.iter().find(|(known, _)| *known == name) else {
                let hint = DidYouMean(suggest(name, known.iter().map(|(known, _)| *known)));
                return Err(FlagError::Unknown { flag: dashed.to_owned(), hint }.into());
            };
            if *takes != Takes::Values && given.iter().any(|(given, _)| given == name) {
                return Err(FlagError::Duplicate(dashed.to_owned()).into());
            }
            given.push((name, checked(dashed, value, *takes)?));
        }
        Ok(Self { given })
    }

    /// The value of a flag, empty when it is absent.
    pub(super) fn value(&self, name: &str) -> String {
        self.find(name).unwrap_or_default().to_owned()
    }

    /// The value of a flag, when given.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.find(name).map(|value| value == "true")
    }

    pub(super) fn values(&self, name: &str) -> Vec<String> {
        self.given
            .iter()
            .filter(|(given, _)| *given == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// Names of the flags given, each once.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (name, _) in &self.given {
            if !names.iter().any(|known| known == name) {
                names.push((*name).to_owned());
            }
        }
        names
    }
}

fn checked(flag: &str, value: Option<&str>, takes: Takes) -> Result<String, FlagError> {
    match (takes, value) {
        (Takes::Bool, None) => Ok("true".to_owned()),
        (Takes::Bool, Some("")) | (Takes::Value | Takes::Values, None) => {
            Err(FlagError::MissingValue(flag.to_owned()))
        }
        (Takes::Bool, Some(value)) => match value.to_ascii_lowercase() {
            lower if lower == "true" || lower == "false" => Ok(lower),
            _ => Err(FlagError::NotBoolean { flag: flag.to_owned(), value: value.to_owned() }),
        },
        (Takes::Value | Takes::Values, Some(value)) => Ok(value.to_owned()),
    }
}
