//! How large a conversion may grow.
//!
//! A Dockerfile is limited in size, but what it means is not: every `RUN` repeats all variables, every
//! stage repeats what it is built on. So everything that multiplies is charged to one budget, and
//! lists that are searched one by one have limits of their own.

use super::error::StageError;
use super::stage::Stage;

/// Bytes that the plan of one platform may take. The largest real builds (hundreds of steps with some
/// KiB of variables) stay below 10 MiB.
const MAX_PLAN: usize = 128 << 20;

/// Variables of a stage, and arguments of a file or stage. Images have tens, the largest some hundred.
const MAX_VARIABLES: usize = 2_000;

/// Triggers that a base image may bring.
const MAX_TRIGGERS: usize = 1_000;

/// What one source, mount or node takes beside its texts.
const ITEM: usize = 512;

/// Findings that get a suggestion. Looking for one compares all names, and nobody reads that many.
const MAX_SUGGESTIONS: usize = 100;

/// Longest source path that is compared with ignore patterns; the longest that Linux knows.
pub(super) const MAX_CHECKED_PATH: usize = 4096;

/// What is left.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: MAX_PLAN }
    }
}

impl Budget {
    fn charge(&mut self, bytes: usize) -> Result<(), StageError> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or(StageError::TooLarge { mebibytes: MAX_PLAN >> 20 })?;
        Ok(())
    }

    /// Sources, mounts and the like.
    pub(super) fn items(&mut self, count: usize) -> Result<(), StageError> {
        self.charge(count.saturating_mul(ITEM))
    }

    /// A command, which repeats all variables and arguments of its stage.
    pub(super) fn command(&mut self, stage: &Stage, words: &[String]) -> Result<(), StageError> {
        let words: usize = words.iter().map(String::len).sum();
        let arguments = stage.args.iter();
        let arguments: usize = arguments
            .map(|arg| arg.key.len() + arg.value.as_ref().map_or(0, String::len) + 32)
            .sum();
        self.charge(ITEM + words + arguments + stage.state.env.size())
    }

    /// A variable of the image, which is looked for among all others.
    pub(super) fn variable(&mut self, stage: &Stage) -> Result<(), StageError> {
        self.charge(stage.image.config.env.len().saturating_mul(16))
    }

    /// A stage built on another one.
    pub(super) fn inherit(&mut self, base: &Stage) -> Result<(), StageError> {
        let history = base.image.history.iter();
        let history: usize = history.map(|entry| entry.created_by.len() + ITEM).sum();
        let arguments = base.args.len().saturating_mul(ITEM);
        self.charge(ITEM + history + arguments + base.state.env.size())
    }
}

/// Refuses a stage with too many variables or arguments.
pub(super) fn check_variables(stage: &Stage) -> Result<(), StageError> {
    check_count(stage.state.env.len().max(stage.args.len()))?;
    check_count(stage.image.config.env.len())
}

/// Refuses too many variables.
pub(super) fn check_count(variables: usize) -> Result<(), StageError> {
    if variables > MAX_VARIABLES {
        return Err(StageError::TooMany { what: "variables", limit: MAX_VARIABLES });
    }
    Ok(())
}

/// Refuses too many triggers.
pub(super) fn check_triggers(count: usize) -> Result<(), StageError> {
    if count > MAX_TRIGGERS {
        return Err(StageError::TooMany { what: "triggers", limit: MAX_TRIGGERS });
    }
    Ok(())
}

/// Whether a finding, the latest of `known`, is still worth a suggestion.
pub(super) const fn may_suggest(known: usize) -> bool {
    known < MAX_SUGGESTIONS
}
