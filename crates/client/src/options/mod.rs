//! What users write on a command line, as values: outputs, secrets, agents, caches, contexts.
//!
//! The forms are those of `docker buildx build` and `buildctl`. Errors name the option and the
//! part that is wrong, never a secret's value.

mod cache;
mod context;
mod csv;
mod output;
mod secret;
mod ssh;

pub use self::cache::parse_cache;
pub use self::context::{BuildContext, parse_build_context};
pub use self::csv::CsvError;
pub use self::output::{Destination, Output, OutputError, parse_output};
pub use self::secret::{Secret, parse_secret};
pub use self::ssh::{Agent, parse_ssh};

use std::path::PathBuf;

/// An option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not a list of `key=value` fields.
    #[error("invalid {option} value")]
    Csv {
        /// The option.
        option: &'static str,
        /// What is wrong.
        #[source]
        source: CsvError,
    },
    /// A field that has to be there is not.
    #[error("{option} requires {key}=<{key}>")]
    Missing {
        /// The option.
        option: &'static str,
        /// The field.
        key: &'static str,
    },
    /// A field nobody knows.
    #[error("unexpected key {key:?} in {option}{}", hint(*suggestion))]
    UnexpectedKey {
        /// The option.
        option: &'static str,
        /// The field.
        key: String,
        /// What may have been meant.
        suggestion: Option<&'static str>,
    },
    /// A field whose value is not one of its kind.
    #[error("invalid value for {key} in {option}: {value:?}")]
    InvalidValue {
        /// The option.
        option: &'static str,
        /// The field.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// An output type that writes no such thing.
    #[error("dest={} is not supported by type={kind}", dest.display())]
    NoDestination {
        /// The type.
        kind: String,
        /// The destination.
        dest: PathBuf,
    },
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map(|key| format!(" (did you mean {key}?)")).unwrap_or_default()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
