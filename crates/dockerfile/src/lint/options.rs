//! Configuration of lint: the value of `# check=` and of the `BUILDKIT_DOCKERFILE_CHECK`
//! build argument.
//!
//! Form: `skip=<rules>|all;experimental=<rules>|all;error=<bool>`, see
//! <https://docs.docker.com/reference/dockerfile/#check>.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Rule;
use crate::parser::check_in_comment;
use crate::scalar::parse_bool;

/// Which findings are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LintConfig {
    /// Rules that are off.
    pub skip: BTreeSet<String>,
    /// All ordinary rules are off.
    pub skip_all: bool,
    /// Experimental rules that are on.
    pub experimental: BTreeSet<String>,
    /// All experimental rules are on.
    pub experimental_all: bool,
    /// Findings fail the build at its end.
    pub error: bool,
}

/// Text that is no lint configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LintOptionError {
    /// Neither a known key nor of the form `key=value`.
    #[error("failed to parse check options: invalid check option {0:?}")]
    Unknown(String),
    /// `error` wants a boolean.
    #[error("failed to parse check options: failed to parse check option {0:?}")]
    NotBoolean(String),
}

impl LintConfig {
    /// Reads the value of a `check` directive; empty text is the default.
    ///
    /// # Errors
    /// Unknown keys and bad booleans.
    pub fn parse(text: &str) -> Result<Self, LintOptionError> {
        let mut config = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(config);
        }
        for part in text.splitn(3, ';') {
            let (key, value) =
                part.split_once('=').ok_or_else(|| LintOptionError::Unknown(part.to_owned()))?;
            let value = value.trim();
            match key.trim() {
                "skip" => (config.skip_all, config.skip) = rules(value),
                "experimental" => (config.experimental_all, config.experimental) = rules(value),
                "error" => {
                    config.error = parse_bool(value)
                        .ok_or_else(|| LintOptionError::NotBoolean(part.to_owned()))?;
                }
                key => return Err(LintOptionError::Unknown(key.to_owned())),
            }
        }
        Ok(config)
    }

    /// This configuration with what a `check=` in the comments above an instruction adds. A
    /// malformed one adds nothing.
    pub(super) fn with_comments(&self, comments: &[String]) -> Cow<'_, Self> {
        let found = comments.iter().find_map(|comment| check_in_comment(comment));
        let Some(added) = found.and_then(|text| Self::parse(&text).ok()) else {
            return Cow::Borrowed(self);
        };
        let mut merged = self.clone();
        merged.skip.extend(added.skip);
        merged.skip_all |= added.skip_all;
        merged.experimental.extend(added.experimental);
        merged.experimental_all |= added.experimental_all;
        Cow::Owned(merged)
    }

    pub(super) fn allows(&self, rule: &Rule) -> bool {
        if rule.experimental {
            return self.experimental_all || self.experimental.contains(rule.name);
        }
        !self.skip_all && !self.skip.contains(rule.name)
    }
}

fn rules(value: &str) -> (bool, BTreeSet<String>) {
    if value == "all" {
        return (true, BTreeSet::new());
    }
    (false, value.split(',').map(|rule| rule.trim().to_owned()).collect())
}
