//! Rules about the sources of a build: what may be used, and what is used in its place.
//!
//! Follows BuildKit's `sourcepolicy` (messages of `moby.buildkit.v1.sourcepolicy`): the rules of a policy are tried in order; of
//! those that allow or deny, the last that matches decides, and one that converts begins everything anew. Both rules and sources
//! come from clients. Patterns are compiled under a size limit and matched in linear time; rules, what hangs on them and expressions
//! are counted over all policies of a build; nothing here recurses.
//!
//! This crate must never resolve, fetch or know what a source is: identifiers and attributes are text to it.

mod pattern;
mod rule;

use std::sync::Arc;

use cofferdam_wire::moby::buildkit::v1::sourcepolicy as wire;
use cofferdam_wire::pb;

use crate::rule::{Rule, Verdict};

/// Rules of all policies of one build, with their conditions and the attributes that they set. Generated policies pin one image per
/// rule.
pub const MAX_RULES: usize = 10_000;
/// Regular expressions among them: each may take a hundred kilobytes when compiled, and is asked about every source.
pub const MAX_EXPRESSIONS: usize = 200;
/// Conversions of one source before they are taken for a circle.
const MAX_CONVERSIONS: usize = 20;
/// Longest identifier or attribute that rules are asked about or make: substitution can double a text every time.
const MAX_TEXT: usize = 64 << 10;

/// Policies that make no sense, or a source that they refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A rule without a selector.
    #[error("invalid nil selector in policy")]
    NoSelector,
    /// A rule that converts into nothing.
    #[error("error mutating source policy: missing destination for convert rule")]
    NoDestination,
    /// Too many rules, conditions and attributes.
    #[error("invalid source policies with {0} rules and conditions, limit is {MAX_RULES}")]
    TooManyRules(usize),
    /// Too many regular expressions.
    #[error("invalid source policies with {0} regular expressions, limit is {MAX_EXPRESSIONS}")]
    TooManyExpressions(usize),
    /// A number that stands for nothing known.
    #[error("error matching source policy: unknown {what}: {value}")]
    Unknown {
        /// What it should have been.
        what: &'static str,
        /// The number.
        value: i32,
    },
    /// A pattern that cannot be compiled.
    #[error("error matching source policy: invalid pattern {pattern:?}: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A source that may not be used.
    #[error("source {0:?} denied by policy: source denied by policy")]
    Denied(String),
    /// Rules that convert into each other.
    #[error("too many mutations on a single source: too many operations")]
    Circle,
    /// A source that is out of bounds, as it came or as a conversion would make it.
    #[error("error evaluating source policy: a name or attribute is longer than {MAX_TEXT} bytes")]
    TooLong,
}

/// The policies of a build, ready to be asked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    lists: Vec<Arc<[Rule]>>,
    rules: usize,
    expressions: usize,
}

impl Policies {
    /// Checks and compiles policies, which takes time.
    ///
    /// # Errors
    /// Rules that make no sense, or too many.
    pub fn new<'a>(
        policies: impl IntoIterator<Item = &'a wire::Policy>,
    ) -> Result<Self, PolicyError> {
        Self::default().and(policies)
    }

    /// These policies and then others, of which alone anything is compiled.
    ///
    /// # Errors
    /// As [`Policies::new`]; the bounds are for all of them together.
    pub fn and<'a>(
        &self,
        more: impl IntoIterator<Item = &'a wire::Policy>,
    ) -> Result<Self, PolicyError> {
        let mut all = self.clone();
        for policy in more {
            for rule in &policy.rules {
                all.rules = all.rules.saturating_add(rule::weight(rule));
                all.expressions = all.expressions.saturating_add(rule::expressions(rule));
            }
            // Before anything is compiled.
            if all.rules > MAX_RULES {
                return Err(PolicyError::TooManyRules(all.rules));
            }
            if all.expressions > MAX_EXPRESSIONS {
                return Err(PolicyError::TooManyExpressions(all.expressions));
            }
            let rules = policy.rules.iter().map(Rule::new).collect::<Result<Vec<_>, _>>()?;
            if !rules.is_empty() {
                all.lists.push(rules.into());
            }
        }
        Ok(all)
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Applies the rules to a source. Returns whether it was converted.
    ///
    /// # Errors
    /// [`PolicyError::Denied`], or a conversion that does not end well; the source is then not to be used.
    pub fn apply(&self, source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
        if !self.is_empty() && source.identifier.len() > MAX_TEXT {
            return Err(PolicyError::TooLong);
        }
        for conversions in 0..=MAX_CONVERSIONS {
            if !self.once(source)? {
                return Ok(conversions > 0);
            }
        }
        Err(PolicyError::Circle)
    }

    /// One round: until a rule converts, or all have been asked.
    fn once(&self, source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
        for rules in &self.lists {
            let mut denied = false;
            for rule in rules.iter() {
                match rule.ask(source)? {
                    Verdict::Nothing => {}
                    Verdict::Allowed => denied = false,
                    Verdict::Denied => denied = true,
                    Verdict::Converted => return Ok(true),
                }
            }
            if denied {
                return Err(PolicyError::Denied(source.identifier.clone()));
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
