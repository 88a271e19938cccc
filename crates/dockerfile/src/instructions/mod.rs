//! Nodes to typed instructions.
//!
//! Each instruction has a reader that checks its flags and arguments; what a value refers to
//! is not known here. Messages are those existing clients look for.

mod expand;
mod files;
mod flags;
mod from;
mod health;
mod mount;
mod read;
mod run;
mod types;

pub use expand::ExpandInstructionError;
pub use flags::FlagError;
pub use health::HealthError;
pub use mount::{Mount, MountError, MountKind, MountSharing};
pub use read::{parse, parse_trigger};
pub use run::RunError;
pub use types::{
    Add, ArgPair, Command, CommandLine, Copy, Device, Dockerfile, Healthcheck, InlineFile,
    InlineSource, Instruction, KeyValue, Network, Run, Security, Sources, Stage,
};

use crate::suggest::DidYouMean;

/// An instruction that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstructionError {
    /// No such instruction.
    #[error("unknown instruction: {keyword}{hint}")]
    Unknown {
        /// The keyword as written.
        keyword: String,
        /// A similar one.
        hint: DidYouMean,
    },
    /// A flag is wrong.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// The arguments are wrong.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// A `--mount` is wrong.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Another flag of `RUN` is wrong.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A `HEALTHCHECK` is wrong.
    #[error(transparent)]
    Health(#[from] HealthError),
}

/// Arguments that are wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// None given.
    #[error("{0} requires at least one argument")]
    AtLeastOne(&'static str),
    /// None or several given.
    #[error("{0} requires exactly one argument")]
    ExactlyOne(&'static str),
    /// `COPY` or `ADD` with fewer than two.
    #[error(
        "{0} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination(&'static str),
    /// A heredoc as the destination.
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    /// A pair without a name.
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    /// `FROM` with another number of arguments than one or three.
    #[error("FROM requires either one or three arguments")]
    From,
    /// A stage name with other characters than the allowed ones.
    #[error(
        "invalid name for build stage: {0:?}, name can't start with a number or contain symbols"
    )]
    StageName(String),
    /// `ONBUILD ONBUILD`
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    /// An instruction that cannot be a trigger.
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    /// An empty path in `VOLUME`.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// `SHELL` in shell form.
    #[error("{0} requires the arguments to be in JSON form")]
    NotJson(&'static str),
}

#[cfg(test)]
mod tests;
