//! Lint: findings about a Dockerfile that do not stop the build.
//!
//! The rules are data ([`RULES`]); a [`Finding`] names one together with what its message
//! needs; [`Warnings`] decides by configuration which findings are kept. Names, texts and
//! addresses are those of <https://docs.docker.com/reference/build-checks/>.

mod checks;
mod finding;
mod options;
mod rules;

pub use checks::looks_secret;
pub use finding::Finding;
pub use options::{LintConfig, LintOptionError};
pub use rules::{RULES, Rule, rule};

pub(crate) use checks::{check_file, is_lower, is_upper};

use std::collections::BTreeSet;

use crate::lines::Lines;

/// A finding that passed the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintWarning {
    /// The rule.
    pub rule: &'static Rule,
    /// The message of this finding.
    pub message: String,
    /// Where.
    pub lines: Lines,
}

impl LintWarning {
    /// The one-line form clients show: `<Rule>: <message> (line N)`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}: {} (line {})", self.rule.name, self.message, self.lines.start)
    }
}

/// Collects findings.
#[derive(Debug, Clone, Default)]
pub struct Warnings {
    config: LintConfig,
    warnings: Vec<LintWarning>,
}

impl Warnings {
    /// A sink that keeps what `config` lets through.
    #[must_use]
    pub fn new(config: LintConfig) -> Self {
        Self { config, warnings: Vec::new() }
    }

    /// Reports a finding. `comments` are those above the instruction: a `check=` among
    /// them adds to the configuration for this finding.
    pub fn report(&mut self, finding: &Finding<'_>, lines: Lines, comments: &[String]) {
        let rule = finding.rule();
        let scoped = self.config.with_comments(comments);
        if scoped.allows(rule) {
            self.warnings.push(LintWarning { rule, message: finding.message(), lines });
        }
    }

    /// What was kept so far.
    #[must_use]
    pub fn kept(&self) -> &[LintWarning] {
        &self.warnings
    }

    /// The text of the build error when `error=true` was asked for and anything was kept.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if !self.config.error || self.warnings.is_empty() {
            return None;
        }
        let names: BTreeSet<_> = self.warnings.iter().map(|warning| warning.rule.name).collect();
        let names: Vec<_> = names.into_iter().collect();
        Some(format!("lint violation found for rules: {}", names.join(", ")))
    }
}

#[cfg(test)]
mod tests;
