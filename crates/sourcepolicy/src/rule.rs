//! One rule: whom it is about, and what it says. It must never change a source that it is not about.

use cofferdam_wire::moby::buildkit::v1::sourcepolicy as wire;
use cofferdam_wire::pb;
use regex::Regex;

use crate::pattern::{Pattern, expression};
use crate::{MAX_TEXT, PolicyError};

/// What a rule says about a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not about this one, or changes nothing.
    Nothing,
    Allowed,
    Denied,
    /// It is another one now.
    Converted,
}

/// A condition on one attribute. An attribute that is not there is empty.
#[derive(Debug, Clone)]
struct Constraint {
    key: String,
    condition: Condition,
}

#[derive(Debug, Clone)]
enum Condition {
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Debug, Clone)]
enum Action {
    Allow,
    Deny,
    Convert { identifier: String, attrs: Vec<(String, String)> },
}

/// A compiled rule.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pattern: Pattern,
    constraints: Vec<Constraint>,
    action: Action,
}

fn unknown(what: &'static str, value: i32) -> PolicyError {
    PolicyError::Unknown { what, value }
}

/// How much of the bound on rules a rule takes: itself, its conditions, the attributes that it sets.
pub(crate) fn weight(rule: &wire::Rule) -> usize {
    let conditions = rule.selector.as_option().map_or(0, |selector| selector.constraints.len());
    let attrs = rule.updates.as_option().map_or(0, |updates| updates.attrs.len());
    1 + conditions + attrs
}

/// Regular expressions of a rule.
pub(crate) fn expressions(rule: &wire::Rule) -> usize {
    let Some(selector) = rule.selector.as_option() else { return 0 };
    let conditions = selector.constraints.iter();
    let conditions = conditions.filter(|one| one.condition == wire::AttrMatch::MATCHES).count();
    usize::from(selector.match_type == wire::MatchType::REGEX) + conditions
}

impl Rule {
    pub(crate) fn new(rule: &wire::Rule) -> Result<Self, PolicyError> {
        let selector = rule.selector.as_option().ok_or(PolicyError::NoSelector)?;
        let pattern = match selector.match_type.as_known() {
            Some(wire::MatchType::EXACT) => Pattern::Exact(selector.identifier.clone()),
            Some(wire::MatchType::WILDCARD) => Pattern::wildcard(&selector.identifier)?,
            Some(wire::MatchType::REGEX) => Pattern::regex(&selector.identifier)?,
            None => return Err(unknown("match type", selector.match_type.to_i32())),
        };
        let constraints =
            selector.constraints.iter().map(Constraint::new).collect::<Result<_, _>>()?;
        let action = match rule.action.as_known() {
            Some(wire::PolicyAction::ALLOW) => Action::Allow,
            Some(wire::PolicyAction::DENY) => Action::Deny,
            Some(wire::PolicyAction::CONVERT) => {
                let updates = rule.updates.as_option().ok_or(PolicyError::NoDestination)?;
                let attrs = updates.attrs.iter();
                Action::Convert {
                    identifier: match updates.identifier.as_str() {
                        "" => selector.identifier.clone(),
                        identifier => identifier.to_owned(),
                    },
                    attrs: attrs.map(|(key, value)| (key.clone(), value.clone())).collect(),
                }
            }
            None => return Err(unknown("type", rule.action.to_i32())),
        };
        Ok(Self { pattern, constraints, action })
    }

    /// Asks about a source, and converts it.
    pub(crate) fn ask(&self, source: &mut pb::SourceOp) -> Result<Verdict, PolicyError> {
        for constraint in &self.constraints {
            if !constraint.holds(source)? {
                return Ok(Verdict::Nothing);
            }
        }
        if !self.pattern.matches(&source.identifier) {
            return Ok(Verdict::Nothing);
        }
        match &self.action {
            Action::Allow => Ok(Verdict::Allowed),
            Action::Deny => Ok(Verdict::Denied),
            Action::Convert { identifier, attrs } => {
                let wanted = self.pattern.fill(&source.identifier, identifier)?;
                let mut converted = false;
                if !wanted.is_empty() && wanted != source.identifier {
                    source.identifier = wanted;
                    converted = true;
                }
                for (key, value) in attrs {
                    if value.len() > MAX_TEXT {
                        return Err(PolicyError::TooLong);
                    }
                    if source.attrs.get(key) != Some(value) {
                        source.attrs.insert(key.clone(), value.clone());
                        converted = true;
                    }
                }
                Ok(if converted { Verdict::Converted } else { Verdict::Nothing })
            }
        }
    }
}

impl Constraint {
    fn new(constraint: &wire::AttrConstraint) -> Result<Self, PolicyError> {
        let value = &constraint.value;
        let condition = match constraint.condition.as_known() {
            Some(wire::AttrMatch::EQUAL) => Condition::Equal(value.clone()),
            Some(wire::AttrMatch::NOTEQUAL) => Condition::NotEqual(value.clone()),
            Some(wire::AttrMatch::MATCHES) => Condition::Matches(expression(value)?),
            None => return Err(unknown("attr condition", constraint.condition.to_i32())),
        };
        Ok(Self { key: constraint.key.clone(), condition })
    }

    fn holds(&self, source: &pb::SourceOp) -> Result<bool, PolicyError> {
        let value = source.attrs.get(&self.key).map_or("", String::as_str);
        match &self.condition {
            Condition::Equal(wanted) => Ok(value == wanted),
            Condition::NotEqual(unwanted) => Ok(value != unwanted),
            Condition::Matches(_) if value.len() > MAX_TEXT => Err(PolicyError::TooLong),
            Condition::Matches(expression) => Ok(expression.is_match(value)),
        }
    }
}
