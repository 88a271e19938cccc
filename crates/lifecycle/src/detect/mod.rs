//! Detection: which modules of an order take part, and with which plan.
//!
//! Follows Buildpack API "Phase #1: Detection" and Platform API 0.15 (system buildpacks, execution
//! environments). Orders and plans are hostile: depth, number of runs and number of trials are
//! bounded. Programs run through [`Detector`] only; this module must never know how.

mod lookup;
mod plan;
mod resolve;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_cnb::{ApiVersion, Descriptor, Kind, ModuleRef, Order, PlanEntry, SystemOrder, exit};
use futures::future::join_all;

use crate::detect::plan::Outcome;
use crate::detect::resolve::{MAX_WORK, Passed, Resolved, Search, TooMuch};
use crate::detect::walk::{Attempted, Candidate, Walk, WalkError};
use crate::target::ImageTarget;

use lookup::shown;
pub use lookup::{LookupError, Modules};

/// Runs `bin/detect` of one module.
///
/// An extension without one passes with its `detect/plan.toml` (code 0, plan empty if there is
/// none): whoever implements this knows.
#[async_trait]
pub trait Detector: Send + Sync {
    /// Why the program could not be run at all; ends the detection.
    type Error: Send;

    /// Runs it. Asked at most once for each id and version; several at a time.
    async fn detect(&self, module: &Arc<Descriptor>) -> Result<Attempt, Self::Error>;
}

/// What `bin/detect` left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Its exit code: 0 passes, 100 fails, anything else is an error.
    pub code: i32,
    /// The plan file as it wrote it; empty when it wrote none.
    pub plan: Vec<u8>,
}

/// What is to be detected.
#[derive(Debug, Clone)]
pub struct DetectRequest {
    /// Groups of buildpacks.
    pub order: Order,
    /// Groups of extensions.
    pub order_extensions: Order,
    /// Buildpacks around every group.
    pub system: SystemOrder,
    /// Every module there is.
    pub modules: Modules,
    /// What the run image runs on.
    pub target: ImageTarget,
    /// Execution environment: `production`, `test`, …
    pub exec_env: String,
    /// Platform API of this build.
    pub platform_api: ApiVersion,
}

/// The first group that passed.
#[derive(Debug, Clone, PartialEq)]
pub struct Detected {
    /// Its buildpacks, in the order they build.
    pub buildpacks: Vec<Arc<Descriptor>>,
    /// Its extensions, in the order they generate.
    pub extensions: Vec<Arc<Descriptor>>,
    /// The resolved plan, names in the order they were first seen.
    pub plan: Vec<PlanEntry>,
    /// Lines for the user, each group that was tried.
    pub report: Vec<String>,
}

/// Detection without a group.
#[derive(Debug, thiserror::Error)]
pub enum DetectError<E> {
    /// Every group failed.
    #[error("no group of buildpacks passed detection")]
    NoGroup {
        /// Lines for the user, each group that was tried.
        report: Vec<String>,
    },
    /// Every group failed, and some module's detection was an error.
    #[error(
        "no group of buildpacks passed detection, and some buildpack's detection ended in an error"
    )]
    Errored {
        /// Lines for the user, each group that was tried.
        report: Vec<String>,
    },
    /// The order names what is not there.
    #[error("order: {0}")]
    Lookup(#[from] LookupError),
    /// A program could not be run at all.
    #[error("failed to run bin/detect of {module}")]
    Detector {
        /// Which one.
        module: String,
        /// Why.
        #[source]
        source: E,
    },
    /// A composite that is too deep or contains itself.
    #[error("order: {module}: {problem}")]
    Order {
        /// The composite.
        module: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Orders or plans with more alternatives than are tried.
    #[error("detection gave up after {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
}

impl<E> DetectError<E> {
    /// The exit code a lifecycle ends with.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NoGroup { .. } => i32::from(exit::DETECT_FAILED),
            Self::Errored { .. } => i32::from(exit::DETECT_FAILED_WITH_ERRORS),
            _ => i32::from(exit::DETECT),
        }
    }

    /// Lines for the user, where groups were tried.
    #[must_use]
    pub fn report(&self) -> &[String] {
        match self {
            Self::NoGroup { report } | Self::Errored { report } => report,
            _ => &[],
        }
    }
}

/// Most groups that are tried.
const MAX_GROUPS: usize = 10_000;
/// Most lines of a report; groups tried later go unreported.
const MAX_REPORT: usize = 2_000;
/// Longest line of a report: it has names that modules made up.
const MAX_LINE: usize = 400;

/// Finds the first group of the order that passes.
///
/// # Errors
/// None passes, the order cannot be resolved, or a program could not be run.
pub async fn detect<D: Detector>(
    request: &DetectRequest,
    detector: &D,
) -> Result<Detected, DetectError<D::Error>> {
    let mut walk = Walk::new(request)?;
    let mut detection = Detection { detector, runs: HashMap::new(), work: 0, report: Vec::new() };
    let (mut groups, mut errored) = (0, false);
    while let Some(group) = walk.next()? {
        groups += 1;
        if groups > MAX_GROUPS {
            return Err(DetectError::Limit { what: "groups", limit: MAX_GROUPS });
        }
        detection.run(&group).await?;
        detection.line(format!("group {groups}:"));
        match detection.judge(&group) {
            Err(TooMuch) => {
                return Err(DetectError::Limit { what: "names of plans", limit: MAX_WORK });
            }
            Ok(Verdict::Failed { error }) => errored |= error,
            Ok(Verdict::Passed(resolved)) => return Ok(detection.finish(&group, resolved)),
        }
    }
    let report = detection.report;
    if errored {
        Err(DetectError::Errored { report })
    } else {
        Err(DetectError::NoGroup { report })
    }
}

impl<E> From<WalkError> for DetectError<E> {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Lookup(error) => Self::Lookup(error),
            WalkError::Order { module, problem } => Self::Order { module, problem },
            WalkError::Limit { what, limit } => Self::Limit { what, limit },
        }
    }
}

/// What is kept from group to group.
struct Detection<'a, D> {
    detector: &'a D,
    runs: HashMap<ModuleRef, Outcome>,
    work: usize,
    report: Vec<String>,
}

enum Verdict {
    Failed { error: bool },
    Passed(Members),
}

/// Those of a group that take part.
struct Members {
    candidates: Vec<usize>,
    plan: Vec<PlanEntry>,
}

impl<D: Detector> Detection<'_, D> {
    /// Runs those of a group that did not run before, all at once.
    async fn run(&mut self, group: &Attempted) -> Result<(), DetectError<D::Error>> {
        let is_new = |candidate: &&Candidate| {
            !candidate.misfit && !self.runs.contains_key(&candidate.module.module())
        };
        let new: Vec<&Candidate> = group.candidates.iter().filter(is_new).collect();
        let attempts =
            join_all(new.iter().map(|candidate| self.detector.detect(&candidate.module)));
        for (candidate, attempt) in new.iter().zip(attempts.await) {
            let module = candidate.module.module();
            let attempt = attempt
                .map_err(|source| DetectError::Detector { module: module.to_string(), source })?;
            self.runs.insert(module, Outcome::of(&candidate.module, &attempt));
        }
        Ok(())
    }

    /// Whether a group passes, once all of it ran.
    fn judge(&mut self, group: &Attempted) -> Result<Verdict, TooMuch> {
        let (mut passed, mut error, mut failed) = (Vec::new(), false, false);
        group.skipped.iter().for_each(|line| self.line(line.clone()));
        for (at, candidate) in group.candidates.iter().enumerate() {
            let module = candidate.module.module();
            let (line, passes) = match self.outcome(candidate) {
                Outcome::Pass(alternatives) => {
                    let (module, optional) = (module.clone(), candidate.optional);
                    passed.push((at, Passed { module, optional, alternatives }));
                    ("pass", true)
                }
                Outcome::Fail if candidate.optional => ("skip", true),
                Outcome::Fail => ("fail", false),
                Outcome::Error { code, reason } => {
                    error = true;
                    let reason = if reason.is_empty() { code.to_string() } else { reason };
                    self.line(format!("err:  {module} ({reason})"));
                    failed |= !candidate.optional;
                    continue;
                }
            };
            self.line(format!("{line}: {module}"));
            failed |= !passes;
        }
        let builds = passed.iter().any(|(_, passed)| passed.module.kind == Kind::Buildpack);
        if failed || !builds {
            if !failed {
                self.line("fail: no buildpack of the group takes part".to_owned());
            }
            return Ok(Verdict::Failed { error });
        }
        let (at, passed): (Vec<usize>, Vec<Passed>) = passed.into_iter().unzip();
        let resolved = self.resolve(&passed)?;
        Ok(match resolved {
            None => Verdict::Failed { error },
            Some(Resolved { members, plan }) => {
                let candidates = members.into_iter().map(|member| at[member]).collect();
                Verdict::Passed(Members { candidates, plan })
            }
        })
    }

    fn resolve(&mut self, passed: &[Passed]) -> Result<Option<Resolved>, TooMuch> {
        let mut search = Search { passed, work: &mut self.work, report: Vec::new() };
        let resolved = search.run();
        let lines = search.report;
        lines.into_iter().for_each(|line| self.line(line));
        resolved
    }

    fn outcome(&self, candidate: &Candidate) -> Outcome {
        if candidate.misfit {
            return Outcome::problem("does not run on what the run image runs on");
        }
        let outcome = self.runs.get(&candidate.module.module()).cloned();
        outcome.unwrap_or_else(|| Outcome::problem("did not run"))
    }

    fn finish(mut self, group: &Attempted, members: Members) -> Detected {
        let Members { candidates, plan } = members;
        let all = group.candidates.len();
        let module = |at: &usize| Arc::clone(&group.candidates[*at].module);
        let members: Vec<Arc<Descriptor>> = candidates.iter().map(module).collect();
        if members.len() < all {
            self.line(format!("{} of {all} modules participate", members.len()));
        }
        members.iter().for_each(|module| self.line(module.module().to_string()));
        for entry in &plan {
            let providers: Vec<String> = entry.providers.iter().map(ToString::to_string).collect();
            self.line(format!("plan: {} from {}", entry.name, providers.join(", ")));
        }
        let (extensions, buildpacks) =
            members.into_iter().partition(|module| module.kind == Kind::Extension);
        Detected { buildpacks, extensions, plan, report: self.report }
    }
}

impl<D> Detection<'_, D> {
    fn line(&mut self, line: String) {
        if self.report.len() < MAX_REPORT {
            self.report.push(shown(&line, MAX_LINE));
        }
    }
}
