//! The groups that an order stands for, one after the other.
//!
//! Composite buildpacks stand for the groups of their own order, extensions for any of theirs or
//! none; the walk is depth first, as the specification asks. Orders are hostile: the walk uses no
//! recursion, and length, depth and number of groups are bounded. Must never run anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use cofferdam_cnb::{Descriptor, Group, GroupElement, Kind, Order};

use crate::detect::{DetectRequest, LookupError};
use crate::target::fits;

/// Most modules of one group: a builder with all its languages has some dozens.
const MAX_GROUP: usize = 512;
/// How deep composites may lie in composites.
const MAX_DEPTH: usize = 32;
/// Most alternatives that wait to be tried; more is an order made to cost memory.
const MAX_WAITING: usize = 2_000;
/// Steps of one walk: elements looked at.
const MAX_STEPS: usize = 2_000_000;

/// A module of a group that is to be tried.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// The module.
    pub(crate) module: Arc<Descriptor>,
    /// Whether the group passes without it.
    pub(crate) optional: bool,
    /// Whether it cannot run on the target, which is an error where it is required.
    pub(crate) misfit: bool,
}

/// A group that is to be tried, and lines about what is not in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempted {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) skipped: Vec<String>,
}

/// Why a walk ended before its end.
#[derive(Debug, PartialEq)]
pub(crate) enum WalkError {
    Lookup(LookupError),
    Order { module: String, problem: &'static str },
    Limit { what: &'static str, limit: usize },
}

/// Composites around an element, the innermost first.
#[derive(Debug)]
struct Ancestors {
    module: String,
    depth: usize,
    parent: Option<Arc<Ancestors>>,
}

#[derive(Debug, Clone)]
enum Step {
    Extensions,
    Module { kind: Kind, element: Arc<GroupElement>, ancestors: Option<Arc<Ancestors>> },
}

/// What is still to be looked at, the next step last.
#[derive(Debug, Clone, Default)]
struct State {
    group: Attempted,
    steps: Vec<Step>,
}

/// A walk through an order.
pub(crate) struct Walk<'a> {
    request: &'a DetectRequest,
    waiting: Vec<State>,
    steps: usize,
}

impl<'a> Walk<'a> {
    /// A walk through the order of a request, with system buildpacks around its groups and
    /// extensions before them.
    pub(crate) fn new(request: &'a DetectRequest) -> Result<Self, WalkError> {
        let mut walk = Self { request, waiting: Vec::new(), steps: 0 };
        for group in request.order.iter().rev() {
            let group = with_system(group, request);
            let mut steps = steps_of(&group, Kind::Buildpack, None);
            if !request.order_extensions.is_empty() {
                steps.push(Step::Extensions);
            }
            walk.push(State { group: Attempted::default(), steps })?;
        }
        Ok(walk)
    }

    /// The next group; nothing after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Attempted>, WalkError> {
        while let Some(mut state) = self.waiting.pop() {
            if self.advance(&mut state)? {
                return Ok(Some(state.group));
            }
        }
        Ok(None)
    }

    /// Takes steps until the group is whole (true) or alternatives took its place (false).
    fn advance(&mut self, state: &mut State) -> Result<bool, WalkError> {
        while let Some(step) = state.steps.pop() {
            self.spend(1)?;
            let request = self.request;
            match step {
                Step::Extensions => {
                    self.branch(state, &request.order_extensions, Kind::Extension, true, None)?;
                    return Ok(false);
                }
                Step::Module { kind, element, ancestors } => {
                    let same = |candidate: &Candidate| {
                        candidate.module.kind == kind
                            && candidate.module.info.id.as_str() == element.id
                    };
                    if state.group.candidates.iter().any(same) {
                        continue;
                    }
                    let found = request.modules.find(kind, &element.id, &element.version);
                    let module = found.map_err(WalkError::Lookup)?;
                    if !self.takes_part(module, &element, &mut state.group) {
                        continue;
                    }
                    if module.is_composite() {
                        let ancestors = nested(module, ancestors)?;
                        let optional = element.optional;
                        self.branch(state, &module.order, kind, optional, Some(ancestors))?;
                        return Ok(false);
                    }
                    let optional = element.optional || kind == Kind::Extension;
                    self.add(&mut state.group, module, optional)?;
                }
            }
        }
        Ok(true)
    }

    /// Puts the groups of an order in the place of the element that stood for them.
    fn branch(
        &mut self,
        state: &State,
        order: &Order,
        kind: Kind,
        optional: bool,
        ancestors: Option<Arc<Ancestors>>,
    ) -> Result<(), WalkError> {
        if optional {
            self.push(state.clone())?;
        }
        for group in order.iter().rev() {
            let mut state = state.clone();
            state.steps.extend(steps_of(group, kind, ancestors.as_ref()));
            self.push(state)?;
        }
        Ok(())
    }

    fn push(&mut self, state: State) -> Result<(), WalkError> {
        if state.steps.len() + state.group.candidates.len() > MAX_GROUP {
            return Err(WalkError::Limit { what: "modules of one group", limit: MAX_GROUP });
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(WalkError::Limit { what: "groups of nested orders", limit: MAX_WAITING });
        }
        self.spend(state.steps.len() + state.group.candidates.len())?;
        self.waiting.push(state);
        Ok(())
    }

    fn spend(&mut self, steps: usize) -> Result<(), WalkError> {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            return Err(WalkError::Limit { what: "elements of orders", limit: MAX_STEPS });
        }
        Ok(())
    }

    /// Whether a module is for the execution environment of this build.
    fn takes_part(
        &self,
        module: &Descriptor,
        element: &GroupElement,
        group: &mut Attempted,
    ) -> bool {
        let current = &self.request.exec_env;
        if !self.request.platform_api.at_least(15) || current.is_empty() {
            return true;
        }
        let holds = |list: &[String]| {
            list.is_empty() || list.iter().any(|entry| entry == "*" || entry == current)
        };
        let declared: &[String] = if module.api.at_least(12) { &module.info.exec_env } else { &[] };
        let fits = holds(declared) && holds(&element.exec_env);
        if !fits {
            group.skipped.push(format!("skip: {} (not for {current})", module.module()));
        }
        fits
    }

    fn add(
        &self,
        group: &mut Attempted,
        module: &Arc<Descriptor>,
        optional: bool,
    ) -> Result<(), WalkError> {
        let misfit = self.request.platform_api.at_least(12) && !fits(module, &self.request.target);
        if misfit && optional {
            group.skipped.push(format!("skip: {} (not for this target)", module.module()));
            return Ok(());
        }
        let same_directory = |candidate: &Candidate| {
            candidate.module.kind == module.kind
                && candidate.module.info.id.escaped() == module.info.id.escaped()
        };
        if group.candidates.iter().any(same_directory) {
            let problem = "another module of its group has the same directory of layers";
            return Err(WalkError::Order { module: module.module().to_string(), problem });
        }
        group.candidates.push(Candidate { module: Arc::clone(module), optional, misfit });
        Ok(())
    }
}

/// A composite's place below others; an error where it would contain itself.
fn nested(
    module: &Descriptor,
    parent: Option<Arc<Ancestors>>,
) -> Result<Arc<Ancestors>, WalkError> {
    let name = module.module().to_string();
    let mut above = parent.as_deref();
    while let Some(ancestor) = above {
        if ancestor.module == name {
            return Err(WalkError::Order { module: name, problem: "contains itself" });
        }
        above = ancestor.parent.as_deref();
    }
    let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
    if depth >= MAX_DEPTH {
        let problem = "lies too deep in other composite buildpacks";
        return Err(WalkError::Order { module: name, problem });
    }
    Ok(Arc::new(Ancestors { module: name, depth, parent }))
}

/// The steps of a group, its first element last.
fn steps_of(group: &Group, kind: Kind, ancestors: Option<&Arc<Ancestors>>) -> Vec<Step> {
    let step = |element: &GroupElement| Step::Module {
        kind,
        element: Arc::new(element.clone()),
        ancestors: ancestors.cloned(),
    };
    group.group.iter().rev().map(step).collect()
}

/// A group with the system buildpacks around it that it does not have itself.
fn with_system(group: &Group, request: &DetectRequest) -> Group {
    if !request.platform_api.at_least(15) {
        return group.clone();
    }
    let own: BTreeSet<&str> = group.group.iter().map(|element| element.id.as_str()).collect();
    let missing = |elements: &[GroupElement]| {
        let missing = elements.iter().filter(|element| !own.contains(element.id.as_str()));
        missing.cloned().collect::<Vec<_>>()
    };
    let mut all = missing(&request.system.pre.buildpacks);
    all.extend(group.group.iter().cloned());
    all.extend(missing(&request.system.post.buildpacks));
    Group { group: all }
}
