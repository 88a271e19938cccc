//! Which entries of a tree are announced.
//!
//! Both lists speak [`crate::patterns`]; a directory no pattern can reach is not opened.

use crate::patterns::{MatchInfo, Matcher, PatternError};

/// Include or exclude patterns that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("invalid {kind} patterns")]
pub struct FilterError {
    kind: &'static str,
    #[source]
    source: PatternError,
}

/// Compiled include and exclude lists.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Option<Matcher>,
    exclude: Option<Matcher>,
    /// Whether every include (every exception to the excludes) is a plain path, so that it is
    /// known which directories it can reach.
    plain_includes: bool,
    plain_exceptions: bool,
}

/// What matched a directory, for its children.
#[derive(Debug, Clone, Default)]
pub(super) struct Inherited {
    include: Option<MatchInfo>,
    exclude: Option<MatchInfo>,
}

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Announce it.
    Announce,
    /// Leave it out; something below may still be announced.
    Descend,
    /// Leave it out with everything below.
    Skip,
}

impl Filter {
    /// Compiles both lists; an empty include list includes everything.
    ///
    /// # Errors
    /// Malformed patterns.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, FilterError> {
        let compile = |kind, patterns: &[String]| {
            let matcher = Matcher::new(patterns).map_err(|source| FilterError { kind, source })?;
            Ok::<_, FilterError>(Some(matcher).filter(|matcher| !matcher.patterns().is_empty()))
        };
        let include = if include.is_empty() { None } else { compile("include", include)? };
        let exclude = if exclude.is_empty() { None } else { compile("exclude", exclude)? };
        let plain_includes = include.as_ref().is_none_or(|matcher| plain(matcher, false));
        let plain_exceptions = exclude.as_ref().is_none_or(|matcher| plain(matcher, true));
        Ok(Self { include, exclude, plain_includes, plain_exceptions })
    }

    /// Judges `path`; the second value is for its children, when it is a directory.
    pub(super) fn judge(
        &self,
        path: &str,
        is_dir: bool,
        parent: Option<&Inherited>,
    ) -> (Verdict, Inherited) {
        let mut inherited = Inherited::default();
        let mut verdict = Verdict::Announce;
        if let Some(include) = &self.include {
            let known = parent.and_then(|parent| parent.include.as_ref());
            let (matched, info) = include.matches_below(path, known);
            inherited.include = Some(info);
            if !matched {
                if is_dir && self.plain_includes && !reaches(include, false, path) {
                    return (Verdict::Skip, inherited);
                }
                verdict = Verdict::Descend;
            }
        }
        if let Some(exclude) = &self.exclude {
            let known = parent.and_then(|parent| parent.exclude.as_ref());
            let (matched, info) = exclude.matches_below(path, known);
            inherited.exclude = Some(info);
            if matched {
                let reachable = exclude.has_exclusions() && reaches(exclude, true, path);
                if is_dir && self.plain_exceptions && !reachable {
                    return (Verdict::Skip, inherited);
                }
                verdict = Verdict::Descend;
            }
        }
        (verdict, inherited)
    }
}

/// Whether the patterns of one kind are plain paths, apart from a final wildcard component.
fn plain(matcher: &Matcher, exclusion: bool) -> bool {
    matcher
        .patterns()
        .iter()
        .filter(|pattern| pattern.is_exclusion() == exclusion)
        .all(|pattern| !stem(pattern.text()).contains(['*', '[', ']', '?', '^', '\\']))
}

/// Whether a pattern of one kind names something inside directory `path`.
fn reaches(matcher: &Matcher, exclusion: bool, path: &str) -> bool {
    matcher.patterns().iter().filter(|pattern| pattern.is_exclusion() == exclusion).any(|pattern| {
        let stem = stem(pattern.text());
        stem == path || stem.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
    })
}

fn stem(pattern: &str) -> &str {
    let pattern = pattern.strip_suffix("/**").unwrap_or(pattern);
    pattern.strip_suffix("/*").unwrap_or(pattern)
}
