//! Frontend: Dockerfile text to instructions to a build graph.
//!
//! In stages: `parser` splits text into instructions, `instructions` types them, `expand`
//! replaces variables, `lint` collects findings; the conversion to a graph builds on these.
//! The text comes from strangers: every stage is bounded and none may panic.

mod client;
mod convert;
mod dockerignore;
mod error;
mod expand;
mod frontend;
mod image;
mod instructions;
mod lines;
mod lint;
mod parser;
mod paths;
mod scalar;
mod suggest;
mod untrusted;

pub use dockerignore::ignore_patterns;
pub use error::Error;
pub use expand::{Budget, ExpandError, ExpandProblem, Expanded, Expander, Variables};
pub use instructions::{
    Add, ArgPair, ArgumentError, Command, CommandLine, Copy, Device, Dockerfile,
    ExpandInstructionError, FlagError, HealthError, Healthcheck, InlineFile, InlineSource,
    Instruction, InstructionError, KeyValue, Mount, MountError, MountKind, MountSharing, Network,
    Run, RunError, Security, Sources, Stage, parse, parse_trigger,
};
pub use lines::Lines;
pub use lint::{
    Finding, LintConfig, LintOptionError, LintWarning, RULES, Rule, Warnings, looks_secret, rule,
};
pub use parser::{
    Directive, Heredoc, TextError, check_directive, parse_heredoc, strip_tabs, syntax_directive,
};
pub use scalar::{CsvError, DurationError};
pub use suggest::{DidYouMean, suggest};
pub use untrusted::parse_untrusted;

pub use client::{Client, ClientError, ResolvedImage, Warning};
pub use convert::{
    ConvertError, CopyError, EpochError, ExposeError, RunStepError, Scan, SignalError, StageError,
};
pub use frontend::{
    AttrError, BuildError, BuildErrorKind, Built, BuiltRef, ContextError, GitError,
    NamedContextError, ReferenceError, build, git_fragment,
};
pub use image::{
    Config, DEFAULT_PATH, Empty, Extra, HISTORY_COMMENT, Healthcheck as HealthcheckConfig, History,
    Image, RootFs,
};
