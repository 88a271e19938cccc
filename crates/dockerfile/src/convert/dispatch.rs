//! Runs through the stages in order and hands every instruction to the module of its family.

use super::env::split_entry;
use super::error::{ConvertError, Located, StageError};
use super::stage::{Planned, Stage, StageId};
use super::{Converter, budget};
use crate::expand::ExpandError;
use crate::image::DEFAULT_PATH;
use crate::instructions::{Command, Instruction};
use crate::lint::{Finding, Warnings};

/// An instruction at work: where it stands and who hears of its faults.
pub(super) struct Step<'a> {
    pub(super) instruction: &'a Instruction,
    pub(super) sources: &'a [Option<StageId>],
    pub(super) warnings: &'a mut Warnings,
}

impl Step<'_> {
    pub(super) fn report(&mut self, finding: &Finding<'_>) {
        self.warnings.report(finding, self.instruction.lines, &self.instruction.comments);
    }
}

impl Converter<'_> {
    /// Plans every stage that `target` needs.
    pub(super) fn dispatch_stages(
        &mut self,
        target: StageId,
        warnings: &mut Warnings,
    ) -> Result<(), Located> {
        let reachable = self.reachable(target);
        for (id, _) in reachable.iter().enumerate().filter(|(_, reachable)| **reachable) {
            if self.stages[id].status.dispatched {
                continue;
            }
            self.inherit(id)?;
            let mut stage = std::mem::take(&mut self.stages[id]);
            stage.status.dispatched = true;
            self.start(&mut stage).map_err(|error| Located::new(error, stage.lines()))?;
            let commands = std::mem::take(&mut stage.commands);
            for command in &commands {
                let lines = command.instruction.lines;
                self.dispatch(&mut stage, command, warnings)
                    .map_err(|error| Located::from(error).or_at(lines))?;
            }
            stage.commands = commands;
            self.stages[id] = stage;
        }
        Ok(())
    }

    /// What the base image says about how its commands run.
    fn start(&self, stage: &mut Stage) -> Result<(), StageError> {
        budget::check_variables(stage)?;
        let platform = stage.platform.get_or_insert_with(|| self.platforms.target.clone()).clone();
        if stage.image.env("PATH").is_none() && platform.OS != "windows" {
            stage.image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for entry in &stage.image.config.env {
            let (name, value) = split_entry(entry);
            stage.state.env.set(name, value);
        }
        if !stage.image.config.working_dir.is_empty() {
            let directory = stage.image.config.working_dir.clone();
            stage.enter(&directory);
        }
        if !stage.image.config.user.is_empty() {
            stage.state.user.clone_from(&stage.image.config.user);
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        stage: &mut Stage,
        command: &Planned,
        warnings: &mut Warnings,
    ) -> Result<(), ConvertError> {
        stage.counter.onbuild = command.onbuild;
        let mut instruction = command.instruction.clone();
        self.expand(stage, &mut instruction, warnings)?;
        let mut step = Step { instruction: &instruction, sources: &command.sources, warnings };
        match &instruction.command {
            Command::Add(add) => self.add_files(stage, add, &mut step)?,
            Command::Copy(copy) => self.copy_files(stage, copy, &mut step)?,
            Command::Run(run) => self.run(stage, run, &mut step)?,
            Command::Workdir(path) => self.workdir(stage, path, &mut step),
            Command::Arg(pairs) => self.arg(stage, pairs, &mut step)?,
            Command::Expose(ports) => self.expose(stage, ports, &mut step)?,
            _ => self.setting(stage, &mut step)?,
        }
        Ok(budget::check_variables(stage)?)
    }

    /// Replaces variables wherever the instruction has any. `ARG` and `EXPOSE` do it themselves.
    fn expand(
        &self,
        stage: &Stage,
        instruction: &mut Instruction,
        warnings: &mut Warnings,
    ) -> Result<(), ConvertError> {
        let env = &stage.state.env;
        let mut unmatched = Vec::new();
        let mut word = |text: &str| -> Result<String, ExpandError> {
            let expanded = self.expander.expand(text, env)?;
            unmatched.extend(expanded.unmatched);
            Ok(expanded.text)
        };
        let expanded = instruction.expand(&mut word);
        report_undefined(stage, instruction, &unmatched, warnings);
        expanded?;
        let inline = self.expander.clone().with_escape('\\').literal_quotes();
        let mut unmatched = Vec::new();
        let mut text = |text: &str| -> Result<String, ExpandError> {
            let expanded = inline.expand(text, env)?;
            unmatched.extend(expanded.unmatched);
            Ok(expanded.text)
        };
        let expanded = instruction.expand_inline(&mut text);
        report_undefined(stage, instruction, &unmatched, warnings);
        Ok(expanded?)
    }
}

/// Variables that are used but neither set nor declared; once for every word that uses them.
pub(super) fn report_undefined<'u>(
    stage: &Stage,
    instruction: &Instruction,
    unmatched: impl IntoIterator<Item = &'u String>,
    warnings: &mut Warnings,
) {
    for variable in unmatched {
        let declared = stage.args.iter().any(|arg| arg.key == *variable);
        if declared || super::arg::is_scan_switch(variable) {
            continue;
        }
        let suggestion = if budget::may_suggest(warnings.kept().len()) {
            crate::suggest::suggest(variable, stage.state.env.names())
        } else {
            None
        };
        let finding = Finding::UndefinedVar { variable, suggestion: suggestion.as_deref() };
        warnings.report(&finding, instruction.lines, &instruction.comments);
    }
}
