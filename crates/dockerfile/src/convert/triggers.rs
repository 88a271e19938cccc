//! `ONBUILD`: instructions that a base leaves for those who build on it.
//!
//! Triggers of an image or stage run right after the `FROM` that names it, once, and do not pass on to
//! the result.

use super::error::Located;
use super::stage::{Planned, StageId};
use super::{Converter, budget};
use crate::instructions::{Command, parse_trigger};

impl Converter<'_> {
    /// Puts triggers in front of the instructions of every reachable stage. Says whether that brought
    /// in stages that have to be looked up.
    pub(super) fn add_triggers(&mut self, reachable: &[bool]) -> Result<bool, Located> {
        let mut more = false;
        for (id, _) in reachable.iter().enumerate().filter(|(_, reachable)| **reachable) {
            if self.stages[id].from.implicit {
                continue;
            }
            let triggers = self.triggers(id);
            if !triggers.is_empty() {
                more |= self.trigger(id, &triggers)?;
            }
        }
        Ok(more)
    }

    fn triggers(&mut self, id: StageId) -> Vec<String> {
        let stage = &mut self.stages[id];
        if stage.status.dispatched || stage.status.triggered {
            return Vec::new();
        }
        stage.status.triggered = true;
        match stage.base {
            None => std::mem::take(&mut stage.image.config.on_build),
            Some(base) => self.stages[base]
                .commands
                .iter()
                .filter_map(|command| match &command.instruction.command {
                    Command::Onbuild(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
        }
    }

    fn trigger(&mut self, id: StageId, triggers: &[String]) -> Result<bool, Located> {
        let lines = self.stages[id].lines();
        budget::check_triggers(triggers.len()).map_err(|error| Located::new(error, lines))?;
        let mut needs = false;
        let mut commands = Vec::with_capacity(triggers.len());
        for text in triggers {
            let instruction =
                parse_trigger(text, lines).map_err(|error| Located::new(error, lines))?;
            let mut command = Planned { instruction, sources: Vec::new(), onbuild: true };
            needs |= self.link(id, &mut command)?;
            commands.push(command);
        }
        let stage = &mut self.stages[id];
        stage.counter.total += commands.len();
        commands.append(&mut stage.commands);
        stage.commands = commands;
        Ok(needs)
    }
}
