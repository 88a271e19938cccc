//! Instructions that only change how a container of the image runs: `ENV`, `LABEL`, `USER`, `CMD`,
//! `ENTRYPOINT`, `HEALTHCHECK`, `VOLUME`, `STOPSIGNAL`, `SHELL`, `MAINTAINER`, `ONBUILD`.
//!
//! They make no layer, only a history entry; `ENV` and `USER` also affect later steps.

use super::dispatch::Step;
use super::error::{ConvertError, StageError};
use super::go_format::{healthcheck, list, quoted_list};
use super::signal::{self, SignalError};
use super::stage::Stage;
use super::validate;
use super::{Converter, budget};
use crate::image::{Empty, Healthcheck, Image};
use crate::instructions::{Command, CommandLine, Healthcheck as Check, KeyValue};
use crate::lines::Lines;
use crate::lint::Finding;

impl Converter<'_> {
    pub(super) fn setting(
        &mut self,
        stage: &mut Stage,
        step: &mut Step<'_>,
    ) -> Result<(), ConvertError> {
        match &step.instruction.command {
            Command::Env(pairs) => self.env(stage, pairs, step)?,
            Command::Label(pairs) => self.label(stage, pairs, step),
            Command::Cmd(line) => self.cmd(stage, line, step),
            Command::Entrypoint(line) => self.entrypoint(stage, line, step),
            Command::Healthcheck(check) => self.healthcheck(stage, check, step),
            Command::User(user) => {
                stage.state.user.clone_from(user);
                stage.image.config.user.clone_from(user);
                self.commit(stage, &format!("USER {user}"), false);
            }
            Command::Volume(paths) => self.volume(stage, paths)?,
            Command::Stopsignal(signal) => self.stop_signal(stage, signal)?,
            Command::Shell(words) => {
                stage.image.config.shell.clone_from(words);
                self.commit(stage, &format!("SHELL {}", list(words)), false);
            }
            Command::Maintainer(name) => {
                stage.image.author.clone_from(name);
                self.commit(stage, &format!("MAINTAINER {name}"), false);
            }
            Command::Onbuild(trigger) => stage.image.config.on_build.push(trigger.clone()),
            // These have modules of their own.
            Command::Add(_)
            | Command::Copy(_)
            | Command::Run(_)
            | Command::Workdir(_)
            | Command::Arg(_)
            | Command::Expose(_) => {}
        }
        Ok(())
    }

    fn env(
        &mut self,
        stage: &mut Stage,
        pairs: &[KeyValue],
        step: &mut Step<'_>,
    ) -> Result<(), StageError> {
        let mut text = "ENV".to_owned();
        for pair in pairs {
            report_legacy(pair, step);
            validate::secret_name("ENV", &pair.key, step);
            text.push_str(&format!(" {}={}", pair.key, pair.value));
            self.budget.variable(stage)?;
            stage.state.env.set(&pair.key, &pair.value);
            stage.image.set_env(&pair.key, &pair.value);
            budget::check_variables(stage)?;
        }
        self.commit(stage, &text, false);
        Ok(())
    }

    fn label(&self, stage: &mut Stage, pairs: &[KeyValue], step: &mut Step<'_>) {
        let mut text = "LABEL".to_owned();
        for pair in pairs {
            report_legacy(pair, step);
            text.push_str(&format!(" {}={}", pair.key, pair.value));
            stage.image.config.labels.insert(pair.key.clone(), pair.value.clone());
        }
        self.commit(stage, &text, false);
    }

    fn cmd(&self, stage: &mut Stage, line: &CommandLine, step: &mut Step<'_>) {
        let lines = step.instruction.lines;
        report_repeated(stage.seen.cmd.replace(lines), step);
        let words = start_words(&stage.image, line, step);
        self.commit(stage, &format!("CMD {}", quoted_list(&words)), false);
        stage.image.config.cmd = words;
        stage.image.config.args_escaped = true;
    }

    fn entrypoint(&self, stage: &mut Stage, line: &CommandLine, step: &mut Step<'_>) {
        let lines = step.instruction.lines;
        report_repeated(stage.seen.entrypoint.replace(lines), step);
        let words = start_words(&stage.image, line, step);
        self.commit(stage, &format!("ENTRYPOINT {}", quoted_list(&words)), false);
        stage.image.config.entrypoint = words;
        if stage.seen.cmd.is_none() {
            stage.image.config.cmd.clear();
        }
    }

    fn healthcheck(&self, stage: &mut Stage, check: &Check, step: &mut Step<'_>) {
        let lines = step.instruction.lines;
        report_repeated(stage.seen.healthcheck.replace(lines), step);
        let nanoseconds =
            |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let check = Healthcheck {
            test: check.test.clone(),
            interval: nanoseconds(check.interval),
            timeout: nanoseconds(check.timeout),
            start_period: nanoseconds(check.start_period),
            start_interval: nanoseconds(check.start_interval),
            retries: i64::from(check.retries),
        };
        self.commit(stage, &format!("HEALTHCHECK {}", healthcheck(&check)), false);
        stage.image.config.healthcheck = Some(check);
    }

    fn volume(&self, stage: &mut Stage, paths: &[String]) -> Result<(), StageError> {
        for path in paths {
            if path.is_empty() {
                return Err(StageError::EmptyVolume);
            }
            stage.image.config.volumes.insert(path.clone(), Empty {});
        }
        self.commit(stage, &format!("VOLUME {}", list(paths)), false);
        Ok(())
    }

    fn stop_signal(&self, stage: &mut Stage, signal: &str) -> Result<(), SignalError> {
        signal::check(signal)?;
        signal.clone_into(&mut stage.image.config.stop_signal);
        self.commit(stage, &format!("STOPSIGNAL {signal}"), false);
        Ok(())
    }
}

/// The words of a shell or exec form; shell forms get the stage's shell in front.
pub(super) fn with_shell(image: &Image, words: &[String]) -> Vec<String> {
    let shell = if !image.config.shell.is_empty() {
        image.config.shell.clone()
    } else if image.os == "windows" {
        ["cmd", "/S", "/C"].map(str::to_owned).to_vec()
    } else {
        ["/bin/sh", "-c"].map(str::to_owned).to_vec()
    };
    shell.into_iter().chain([words.join(" ")]).collect()
}

fn start_words(image: &Image, line: &CommandLine, step: &mut Step<'_>) -> Vec<String> {
    if !line.shell {
        return line.words.clone();
    }
    if image.config.shell.is_empty() {
        step.report(&Finding::JsonArgsRecommended { keyword: &step.instruction.keyword });
    }
    with_shell(image, &line.words)
}

fn report_legacy(pair: &KeyValue, step: &mut Step<'_>) {
    if pair.legacy {
        step.report(&Finding::LegacyKeyValueFormat { keyword: &step.instruction.keyword });
    }
}

/// Only the last of these instructions counts, so the earlier one is reported.
fn report_repeated(earlier: Option<Lines>, step: &mut Step<'_>) {
    if let Some(earlier) = earlier {
        let finding =
            Finding::MultipleInstructionsDisallowed { keyword: &step.instruction.keyword };
        step.warnings.report(&finding, earlier, &step.instruction.comments);
    }
}
