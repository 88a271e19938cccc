//! Which entries of a copied directory take part: include and exclude patterns of a copy
//! action, with the language of `.dockerignore`.

use cofferdam_session::patterns::{Matcher, PatternError};

/// Include and exclude patterns, relative to the copied path.
#[derive(Default)]
pub(super) struct Selection {
    include: Option<Matcher>,
    exclude: Option<Matcher>,
}

impl Selection {
    /// Compiles the patterns; an empty list selects everything (include) or nothing (exclude).
    pub(super) fn new(include: &[String], exclude: &[String]) -> Result<Self, PatternError> {
        let compile = |patterns: &[String]| {
            if patterns.is_empty() { Ok(None) } else { Matcher::new(patterns).map(Some) }
        };
        Ok(Self { include: compile(include)?, exclude: compile(exclude)? })
    }

    /// Whether the entry at `relative` takes part.
    pub(super) fn includes(&self, relative: &str) -> bool {
        self.include.as_ref().is_none_or(|matcher| matcher.matches(relative))
            && self.exclude.as_ref().is_none_or(|matcher| !matcher.matches(relative))
    }

    /// Whether something below the directory `relative`, not selected itself, could take part.
    pub(super) fn may_include_below(&self, relative: &str) -> bool {
        self.exclude
            .as_ref()
            .is_none_or(|matcher| !matcher.matches(relative) || matcher.has_exclusions())
    }
}
