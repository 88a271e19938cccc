//! Expansion of variables within instructions: which words take part.

use super::mount::{MountError, expanded};
use super::{Command, Instruction, KeyValue, Sources};
use crate::expand::ExpandError;

/// Maps one word.
type Expand<'a> = dyn FnMut(&str) -> Result<String, ExpandError> + 'a;

/// Why expanding an instruction failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandInstructionError {
    /// A word does not expand.
    #[error(transparent)]
    Word(#[from] ExpandError),
    /// A `--mount` is wrong once expanded.
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl Instruction {
    /// Expands variables wherever the instruction supports it (not in `ARG`, whose default may
    /// be unused, nor in `EXPOSE`, which splits into words): `word` maps one word. For `RUN`
    /// this reads the mounts.
    ///
    /// # Errors
    /// What `word` returns, and wrong mounts.
    pub fn expand(
        &mut self,
        word: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<(), ExpandInstructionError> {
        match &mut self.command {
            Command::Env(pairs) | Command::Label(pairs) => expand_pairs(pairs, word)?,
            Command::Add(add) => {
                in_place([&mut add.chown, &mut add.chmod, &mut add.checksum], word)?;
                expand_sources(&mut add.sources, word)?;
            }
            Command::Copy(copy) => {
                in_place([&mut copy.chown, &mut copy.chmod], word)?;
                expand_sources(&mut copy.sources, word)?;
            }
            Command::Stopsignal(text) | Command::User(text) | Command::Workdir(text) => {
                in_place([text], word)?
            }
            Command::Volume(paths) => in_place(paths, word)?,
            Command::Run(run) => {
                run.mounts = run
                    .mount_flags
                    .iter()
                    .map(|text| expanded(text, word))
                    .collect::<Result<_, _>>()?;
            }
            Command::Arg(_)
            | Command::Cmd(_)
            | Command::Entrypoint(_)
            | Command::Expose(_)
            | Command::Healthcheck(_)
            | Command::Maintainer(_)
            | Command::Onbuild(_)
            | Command::Shell(_) => {}
        }
        Ok(())
    }

    /// Expands the heredoc bodies of `COPY` and `ADD`. `text` should be an expander with
    /// escape `\` and [`literal_quotes`](crate::Expander::literal_quotes).
    ///
    /// # Errors
    /// What `text` returns.
    pub fn expand_inline(
        &mut self,
        text: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<(), ExpandError> {
        let sources = match &mut self.command {
            Command::Add(add) => &mut add.sources,
            Command::Copy(copy) => &mut copy.sources,
            _ => return Ok(()),
        };
        in_place(
            sources.inline.iter_mut().filter(|inline| inline.expand).map(|inline| &mut inline.data),
            text,
        )
    }
}

fn in_place<'t>(
    texts: impl IntoIterator<Item = &'t mut String>,
    word: &mut Expand<'_>,
) -> Result<(), ExpandError> {
    for text in texts {
        *text = word(text)?;
    }
    Ok(())
}

fn expand_pairs(pairs: &mut [KeyValue], word: &mut Expand<'_>) -> Result<(), ExpandError> {
    in_place(pairs.iter_mut().flat_map(|pair| [&mut pair.key, &mut pair.value]), word)
}

fn expand_sources(sources: &mut Sources, word: &mut Expand<'_>) -> Result<(), ExpandError> {
    in_place(sources.paths.iter_mut().chain([&mut sources.destination]), word)
}
