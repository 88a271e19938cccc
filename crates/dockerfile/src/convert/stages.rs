//! From `FROM` lines to stages: names, bases, platforms, and which stage needs which.

use std::collections::BTreeSet;

use cofferdam_graph::parse_platform;
use cofferdam_wire::pb;

use super::error::{ConvertError, Located, StageError, hint};
use super::stage::{Counter, From, Planned, Stage, StageId, Used};
use super::{Converter, budget, validate};
use crate::expand::Expanded;
use crate::instructions::{Command, Dockerfile, Instruction, Stage as Declared};
use crate::lines::Lines;
use crate::lint::{Finding, Warnings};

const SCRATCH: &str = "scratch";

impl Converter<'_> {
    /// Expands every `FROM` and finds the stages it builds on.
    pub(super) fn add_stages(
        &mut self,
        dockerfile: &Dockerfile,
        warnings: &mut Warnings,
    ) -> Result<(), Located> {
        for (index, declared) in dockerfile.stages.iter().enumerate() {
            self.add_stage(index, declared, warnings)
                .map_err(|error| error.or_at(declared.lines))?;
        }
        self.declared = self.stages.len();
        Ok(())
    }

    fn add_stage(
        &mut self,
        index: usize,
        declared: &Declared,
        warnings: &mut Warnings,
    ) -> Result<(), Located> {
        let base =
            self.expander.expand(&declared.base, &self.globals).map_err(ConvertError::from)?;
        self.report_undefined(&base, declared, warnings);
        if base.text.is_empty() {
            return Err(Located::nowhere(StageError::Blank(declared.base.clone())));
        }
        let platform = self.stage_platform(declared, warnings)?;
        let mut stage = Stage {
            name: declared.name.clone().unwrap_or_else(|| format!("stage-{index}")),
            from: From {
                name: declared.name.clone(),
                base: base.text.clone(),
                text: declared.text.clone(),
                description: declared.description.clone(),
                lines: Some(declared.lines),
                comments: declared.comments.clone(),
                implicit: false,
            },
            outline: self.global_outline.clone(),
            commands: declared.instructions.iter().map(unplanned).collect(),
            used: Used { context: BTreeSet::new(), own: self.new_paths() },
            platform: platform.as_ref().map(|(platform, _)| platform.clone()),
            ..Stage::default()
        };
        if let Some(name) = &declared.name {
            let asked = stage.platform.as_ref().unwrap_or(&self.platforms.target);
            let named = self.request.contexts.named(name, Some(asked));
            stage.named = named.map_err(Located::nowhere)?;
        }
        if stage.named.is_none() {
            stage.base = self.find(&stage.from.base);
            if let Some(base) = stage.base {
                stage.outline = self.stages[base].outline.clone();
            }
            stage.outline.use_args(&base.matched);
            stage.outline.use_args(&platform.map(|(_, matched)| matched).unwrap_or_default());
            let pulls = stage.from.base != SCRATCH && stage.base.is_none();
            stage.counter =
                Counter { total: count_steps(declared) + usize::from(pulls), ..Counter::default() };
            let name = declared.name.as_deref().unwrap_or_default();
            stage.ignore_cache = self.request.contexts.options.ignores_cache(name);
        }
        self.push(stage);
        Ok(())
    }

    fn new_paths(&mut self) -> usize {
        self.paths.push(BTreeSet::new());
        self.paths.len() - 1
    }

    fn push(&mut self, stage: Stage) -> StageId {
        let id = self.stages.len();
        if let Some(name) = &stage.from.name {
            self.by_name.insert(name.to_lowercase(), id);
        }
        self.stages.push(stage);
        id
    }

    fn find(&self, name: &str) -> Option<StageId> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// The value of `FROM --platform` and the variables in it.
    fn stage_platform(
        &self,
        declared: &Declared,
        warnings: &mut Warnings,
    ) -> Result<Option<(pb::Platform, BTreeSet<String>)>, Located> {
        if declared.platform.is_empty() {
            return Ok(None);
        }
        let expanded =
            self.expander.expand(&declared.platform, &self.globals).map_err(ConvertError::from)?;
        self.report_undefined(&expanded, declared, warnings);
        validate::stage_platform(declared, &expanded, &self.globals, warnings);
        let hint = expanded
            .unmatched
            .iter()
            .map(|name| hint(name, self.globals.names()))
            .find(|hint| !hint.is_empty())
            .unwrap_or_default();
        let text = declared.platform.clone();
        if expanded.text.is_empty() {
            return Err(Located::nowhere(StageError::EmptyPlatform { text, hint }));
        }
        let platform = parse_platform(&expanded.text)
            .map_err(|reason| Located::nowhere(StageError::Platform { text, hint, reason }))?;
        Ok(Some((platform, expanded.matched)))
    }

    fn report_undefined(&self, expanded: &Expanded, declared: &Declared, warnings: &mut Warnings) {
        if expanded.unmatched.is_empty() {
            return;
        }
        let known: BTreeSet<&str> =
            self.globals.names().chain(self.global_outline.arg_names()).collect();
        for name in expanded.unmatched.iter().filter(|name| !known.contains(name.as_str())) {
            let names =
                known.iter().copied().filter(|_| budget::may_suggest(warnings.kept().len()));
            let suggestion = crate::suggest::suggest(name, names);
            let finding =
                Finding::UndefinedArgInFrom { arg: name, suggestion: suggestion.as_deref() };
            warnings.report(&finding, declared.lines, &declared.comments);
        }
    }

    /// The stage that the request wants: by name, by index, or the last one.
    pub(super) fn target(&self) -> Result<StageId, Located> {
        let wanted = &self.request.contexts.options.target;
        if wanted.is_empty() {
            return Ok(self.declared.saturating_sub(1));
        }
        if let Some(found) = self.find(wanted) {
            return Ok(found);
        }
        if let Some(index) = wanted.parse().ok().filter(|index| *index < self.declared) {
            return Ok(index);
        }
        let names = self.stages.iter().map(|stage| stage.name.as_str());
        let error = StageError::Target { name: wanted.clone(), hint: hint(wanted, names) };
        Err(Located::nowhere(error))
    }

    /// Finds the stages behind every `--from`.
    pub(super) fn link_stages(&mut self) -> Result<(), Located> {
        for id in 0..self.declared {
            let mut commands = std::mem::take(&mut self.stages[id].commands);
            for command in &mut commands {
                self.link(id, command)?;
            }
            self.stages[id].commands = commands;
        }
        self.refuse_circles()?;
        if self.stages.len() == 1 && !self.has_unnamed_sources {
            self.stages[0].name.clear();
        }
        Ok(())
    }

    /// Fills `command.sources`; says whether there are any.
    pub(super) fn link(&mut self, id: StageId, command: &mut Planned) -> Result<bool, Located> {
        let lines = command.instruction.lines;
        command.sources = match &command.instruction.command {
            Command::Copy(copy) if !copy.from.is_empty() => {
                let source = self.copy_source(&copy.from, lines);
                vec![Some(source.map_err(|error| error.or_at(lines))?)]
            }
            Command::Run(run) => {
                let names: Vec<String> =
                    run.mounts.iter().map(|mount| mount.from.clone()).collect();
                self.has_unnamed_sources |= !names.is_empty();
                names.iter().map(|name| self.mount_source(name, lines)).collect()
            }
            _ => Vec::new(),
        };
        let needs: Vec<_> =
            command.sources.iter().flatten().map(|source| (*source, lines)).collect();
        let any = !needs.is_empty();
        self.stages[id].needs.extend(needs);
        Ok(any)
    }

    fn copy_source(&mut self, name: &str, lines: Lines) -> Result<StageId, Located> {
        let expanded = self.expander.expand(name, &()).map_err(ConvertError::from)?;
        if expanded.text != name {
            return Err(Located::nowhere(StageError::VariableFrom));
        }
        if let Ok(index) = name.parse::<i64>() {
            let declared = usize::try_from(index).ok().filter(|index| *index < self.declared);
            return declared.ok_or_else(|| Located::nowhere(StageError::Index(index)));
        }
        Ok(self.find(name).unwrap_or_else(|| self.implicit(name, lines)))
    }

    fn mount_source(&mut self, name: &str, lines: Lines) -> Option<StageId> {
        if name.is_empty() {
            return None;
        }
        Some(self.find(name).unwrap_or_else(|| self.implicit(name, lines)))
    }

    /// An image that no `FROM` names; the same for all who name it.
    fn implicit(&mut self, name: &str, lines: Lines) -> StageId {
        if let Some(known) = self.implicit.get(name) {
            return *known;
        }
        let used = Used { context: BTreeSet::new(), own: self.new_paths() };
        let from =
            From { base: name.to_owned(), lines: Some(lines), implicit: true, ..From::default() };
        let id = self.push(Stage { from, used, ..Stage::default() });
        self.implicit.insert(name.to_owned(), id);
        id
    }

    fn refuse_circles(&self) -> Result<(), Located> {
        let mut done = vec![false; self.stages.len()];
        for start in 0..self.stages.len() {
            // One frame per stage on the way: the stage, how many of its needs were followed, and the
            // line that led to it.
            let mut way: Vec<(StageId, usize, Option<Lines>)> = vec![(start, 0, None)];
            while let Some((stage, next, _)) = way.last_mut() {
                let stage = *stage;
                let Some((need, lines)) = self.stages[stage].needs.get(*next).copied() else {
                    done[stage] = true;
                    way.pop();
                    continue;
                };
                *next += 1;
                if way.iter().any(|(on_way, ..)| *on_way == need) {
                    let name = self.stages[start].name.clone();
                    let mut error = Located::nowhere(StageError::Circular(name));
                    error.places = way.iter().filter_map(|(.., lines)| *lines).collect();
                    error.places.push(lines);
                    return Err(error);
                }
                if !done[need] {
                    way.push((need, 0, Some(lines)));
                }
            }
        }
        Ok(())
    }

    /// The stages that `target` needs, itself included.
    pub(super) fn reachable(&self, target: StageId) -> Vec<bool> {
        let mut reachable = vec![self.request.all_stages; self.stages.len()];
        let mut open = vec![target];
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                reachable[id] = true;
                let stage = &self.stages[id];
                open.extend(stage.base);
                open.extend(stage.needs.iter().map(|(need, _)| *need));
            }
        }
        reachable
    }
}

fn unplanned(instruction: &Instruction) -> Planned {
    Planned { instruction: instruction.clone(), sources: Vec::new(), onbuild: false }
}

/// Instructions that get a vertex of their own.
fn count_steps(stage: &Declared) -> usize {
    let counts = |instruction: &&Instruction| {
        matches!(
            instruction.command,
            Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_)
        )
    };
    stage.instructions.iter().filter(counts).count()
}
