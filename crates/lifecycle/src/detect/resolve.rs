//! The plan of a group: one alternative of each module so that every need has an earlier offer and
//! every offer a need.
//!
//! Trials go through the alternatives depth first, as the specification asks. Their number grows
//! with the power of the group, so branches that cannot end well are cut, and work is bounded. Must
//! never decide who passed: it is given those that did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cofferdam_cnb::{Kind, ModuleRef, PlanEntry, Require};

use crate::detect::lookup::shown;
use crate::detect::plan::Sections;

/// Names and modules looked at in all trials of one detection: a second of work.
pub(crate) const MAX_WORK: usize = 5_000_000;
/// Lines about trials of one group; later trials go unreported.
const MAX_LINES: usize = 200;
/// Longest name in a line.
const MAX_NAME: usize = 80;

/// A module that passed.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub(crate) module: ModuleRef,
    pub(crate) optional: bool,
    pub(crate) alternatives: Arc<Vec<Sections>>,
}

/// More work than is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMuch;

/// A group with its plan: indexes of those that take part.
#[derive(Debug, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) members: Vec<usize>,
    pub(crate) plan: Vec<PlanEntry>,
}

/// One alternative of one module in a trial.
#[derive(Debug, Clone, Copy)]
struct Choice<'a> {
    at: usize,
    droppable: bool,
    sections: &'a Sections,
}

/// Names of a trial, in the order they were first seen.
#[derive(Debug, Default)]
struct Names<'a> {
    order: Vec<Name<'a>>,
    index: HashMap<&'a str, usize>,
}

#[derive(Debug)]
struct Name<'a> {
    name: &'a str,
    providers: Vec<usize>,
    waiting_providers: Vec<usize>,
    requires: Vec<&'a Require>,
    early: Vec<usize>,
}

/// A search for a plan; `work` is shared by all groups of a detection.
pub(crate) struct Search<'a> {
    pub(crate) passed: &'a [Passed],
    pub(crate) work: &'a mut usize,
    pub(crate) report: Vec<String>,
}

impl<'a> Search<'a> {
    /// The first trial that works out; nothing when none does.
    pub(crate) fn run(&mut self) -> Result<Option<Resolved>, TooMuch> {
        let passed = self.passed;
        let needed_after = needed_after(passed);
        let mut chosen: Vec<usize> = vec![0];
        while let Some(&last) = chosen.last() {
            let at = chosen.len() - 1;
            if passed.is_empty() {
                return Ok(None);
            }
            if last >= passed[at].alternatives.len() {
                chosen.pop();
                chosen.iter_mut().last().into_iter().for_each(|index| *index += 1);
                continue;
            }
            let choices: Vec<Choice<'a>> =
                chosen.iter().enumerate().map(|(at, index)| choice(passed, at, *index)).collect();
            if self.is_hopeless(&choices, &needed_after[at])? {
                chosen[at] += 1;
            } else if at + 1 < passed.len() {
                chosen.push(0);
            } else if let Some(resolved) = self.trial(choices)? {
                return Ok(Some(resolved));
            } else {
                chosen[at] += 1;
            }
        }
        Ok(None)
    }

    /// Whether no continuation works out: the last choice must stay, and needs what nobody before
    /// it offers, or offers what nobody after it can need.
    fn is_hopeless(
        &mut self,
        choices: &[Choice<'_>],
        after: &HashSet<&str>,
    ) -> Result<bool, TooMuch> {
        let Some(last) = choices.last().filter(|last| !last.droppable) else { return Ok(false) };
        let offered: HashSet<&str> =
            choices.iter().flat_map(|choice| provides(choice.sections)).collect();
        let size = |choice: &Choice<'_>| 1 + choice.sections.provides.len();
        self.spend(last.sections.requires.len() + choices.iter().map(size).sum::<usize>())?;
        let needs = || last.sections.requires.iter().map(|require| require.name.as_str());
        let who = &self.passed[last.at].module;
        if let Some(name) = needs().find(|name| !offered.contains(name)) {
            let line = format!("fail: {who} requires {}", shown(name, MAX_NAME));
            self.line(line);
            return Ok(true);
        }
        let own: HashSet<&str> = needs().collect();
        let unused =
            provides(last.sections).find(|name| !own.contains(name) && !after.contains(name));
        if let Some(name) = unused {
            let line = format!("fail: {who} provides unused {}", shown(name, MAX_NAME));
            self.line(line);
        }
        Ok(unused.is_some())
    }

    /// Tries one choice for each module; optional ones go until the rest fits or must fail.
    fn trial(&mut self, mut choices: Vec<Choice<'a>>) -> Result<Option<Resolved>, TooMuch> {
        loop {
            let size = |choice: &Choice<'_>| {
                choice.sections.provides.len() + choice.sections.requires.len()
            };
            self.spend(1 + choices.iter().map(|choice| 1 + size(choice)).sum::<usize>())?;
            let names = Names::of(&choices);
            let mut dropped: HashSet<usize> = HashSet::new();
            for (at, problem, name) in names.unmet() {
                let who = &self.passed[at].module;
                let droppable = choices.iter().any(|choice| choice.at == at && choice.droppable);
                let verdict = if droppable { "skip" } else { "fail" };
                let line = format!("{verdict}: {who} {problem} {}", shown(name, MAX_NAME));
                self.line(line);
                if !droppable {
                    return Ok(None);
                }
                dropped.insert(at);
            }
            if dropped.is_empty() {
                return Ok(self.resolved(&choices, &names));
            }
            choices.retain(|choice| !dropped.contains(&choice.at));
        }
    }

    fn resolved(&self, choices: &[Choice<'_>], names: &Names<'_>) -> Option<Resolved> {
        let members: Vec<usize> = choices.iter().map(|choice| choice.at).collect();
        let builds = |at: &usize| self.passed[*at].module.kind == Kind::Buildpack;
        if !members.iter().any(builds) {
            return None;
        }
        let entry = |name: &Name<'_>| PlanEntry {
            name: name.name.to_owned(),
            providers: name.providers.iter().map(|at| self.passed[*at].module.clone()).collect(),
            requires: name.requires.iter().map(|require| (*require).clone()).collect(),
        };
        Some(Resolved { members, plan: names.order.iter().map(entry).collect() })
    }

    fn spend(&mut self, work: usize) -> Result<(), TooMuch> {
        *self.work = self.work.saturating_add(work);
        if *self.work > MAX_WORK { Err(TooMuch) } else { Ok(()) }
    }

    fn line(&mut self, line: String) {
        if self.report.len() < MAX_LINES {
            self.report.push(line);
        }
    }
}

impl<'a> Names<'a> {
    fn of(choices: &[Choice<'a>]) -> Self {
        let mut names = Self::default();
        for choice in choices {
            for provide in &choice.sections.provides {
                names.entry(provide).waiting_providers.push(choice.at);
            }
            for require in &choice.sections.requires {
                let name = names.entry(&require.name);
                name.providers.append(&mut name.waiting_providers);
                if name.providers.is_empty() {
                    name.early.push(choice.at);
                } else {
                    name.requires.push(require);
                }
            }
        }
        names
    }

    fn entry(&mut self, name: &'a str) -> &mut Name<'a> {
        let next = self.order.len();
        let at = *self.index.entry(name).or_insert(next);
        if at == next {
            self.order.push(Name {
                name,
                providers: Vec::new(),
                waiting_providers: Vec::new(),
                requires: Vec::new(),
                early: Vec::new(),
            });
        }
        &mut self.order[at]
    }

    /// Modules with a need or an offer that is not met, which of the two, and its name.
    fn unmet(&self) -> impl Iterator<Item = (usize, &'static str, &'a str)> {
        self.order.iter().flat_map(|name| {
            let early = name.early.iter().map(|at| (*at, "requires", name.name));
            let unused = name.waiting_providers.iter();
            early.chain(unused.map(|at| (*at, "provides unused", name.name)))
        })
    }
}

fn choice(passed: &[Passed], at: usize, index: usize) -> Choice<'_> {
    let module = &passed[at];
    let is_last = index + 1 == module.alternatives.len();
    Choice { at, droppable: module.optional && is_last, sections: &module.alternatives[index] }
}

fn provides(sections: &Sections) -> impl Iterator<Item = &str> {
    sections.provides.iter().map(String::as_str)
}

/// For each module, the names that modules after it may need.
fn needed_after(passed: &[Passed]) -> Vec<HashSet<&str>> {
    let mut after: HashSet<&str> = HashSet::new();
    let mut all = Vec::with_capacity(passed.len());
    for module in passed.iter().rev() {
        all.push(after.clone());
        let requires = module.alternatives.iter().flat_map(|sections| &sections.requires);
        after.extend(requires.map(|require| require.name.as_str()));
    }
    all.reverse();
    all
}
