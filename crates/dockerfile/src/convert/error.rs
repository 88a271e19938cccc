//! Why a Dockerfile cannot become a graph.
//!
//! Every error knows the lines it is about. Texts are matched literally by existing clients and their
//! tests, so they read as those clients expect.

use cofferdam_graph::{LoadError, ParsePlatformError};

use super::copy::CopyError;
use super::epoch::EpochError;
use super::expose::ExposeError;
use super::run::RunStepError;
use super::signal::SignalError;
use crate::client::ClientError;
use crate::error::Error;
use crate::expand::ExpandError;
use crate::frontend::context::ContextError;
use crate::frontend::named::NamedContextError;
use crate::instructions::ExpandInstructionError;
use crate::lines::Lines;
use crate::suggest::{DidYouMean, suggest};

/// A stage that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// `FROM` of nothing.
    #[error("base name ({0}) should not be blank")]
    Blank(String),
    /// The platform is empty after expansion.
    #[error("empty platform value from expression {text}{hint}")]
    EmptyPlatform {
        /// As written.
        text: String,
        /// Perhaps another variable was meant.
        hint: String,
    },
    /// The platform is none.
    #[error("failed to parse platform {text}: {reason}{hint}")]
    Platform {
        /// As written.
        text: String,
        /// Perhaps another variable was meant.
        hint: String,
        /// Why; part of the text because clients expect the hint last.
        reason: ParsePlatformError,
    },
    /// The base is not an image reference.
    #[error("failed to parse stage name {0:?}: {1}")]
    Name(String, crate::frontend::reference::ReferenceError),
    /// The base image could not be looked up.
    #[error("{name}: {source}{hint}")]
    Image {
        /// As written.
        name: String,
        /// Perhaps another image or stage was meant.
        hint: String,
        /// The builder's answer, part of the text because clients expect the hint last.
        source: ClientError,
    },
    /// The base image's configuration is not one.
    #[error("failed to parse image config")]
    Config(#[source] serde_json::Error),
    /// There is no such target.
    #[error("target stage {name:?} could not be found{hint}")]
    Target {
        /// What was asked for.
        name: String,
        /// Perhaps another stage was meant.
        hint: String,
    },
    /// `--from=7`.
    #[error("invalid stage index {0}")]
    Index(i64),
    /// Stages need each other.
    #[error("circular dependency detected on stage: {0}")]
    Circular(String),
    /// `COPY --from=$x`.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
         global scope as a workaround"
    )]
    VariableFrom,
    /// `VOLUME ""`.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// Longer lists than this product handles.
    #[error("more than {limit} {what} in a stage")]
    TooMany {
        /// Variables or triggers.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The graph would be larger than this product handles.
    #[error("the Dockerfile grows to more than {mebibytes} MiB of build steps")]
    TooLarge {
        /// The limit.
        mebibytes: usize,
    },
    /// The Dockerfile has no bytes.
    #[error("the Dockerfile cannot be empty")]
    EmptyDockerfile,
}

/// Why a Dockerfile cannot become a graph.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] Error),
    /// A stage is wrong.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A word does not expand.
    #[error(transparent)]
    Word(#[from] ExpandError),
    /// An instruction does not expand.
    #[error(transparent)]
    Expand(#[from] ExpandInstructionError),
    /// A `COPY` or `ADD` is wrong.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A `RUN` is wrong.
    #[error(transparent)]
    Run(#[from] RunStepError),
    /// An `EXPOSE` is wrong.
    #[error(transparent)]
    Expose(#[from] ExposeError),
    /// A `STOPSIGNAL` is wrong.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// `SOURCE_DATE_EPOCH` is wrong.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// A named context cannot be used.
    #[error(transparent)]
    Named(#[from] NamedContextError),
    /// The context cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Warnings count as errors.
    #[error("{0}")]
    Lint(String),
    /// An input graph is wrong.
    #[error("failed to marshal LLB definition")]
    Definition(#[source] LoadError),
}

/// A [`ConvertError`] with its place.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) error: Box<ConvertError>,
    /// Innermost first; empty when the file as a whole is meant.
    pub(crate) places: Vec<Lines>,
}

impl Located {
    pub(crate) fn new(error: impl Into<ConvertError>, lines: Lines) -> Self {
        Self { error: Box::new(error.into()), places: vec![lines] }
    }

    /// An error that no line is to blame for.
    pub(crate) fn nowhere(error: impl Into<ConvertError>) -> Self {
        Self { error: Box::new(error.into()), places: Vec::new() }
    }

    /// Gives a place to an error that has none.
    pub(crate) fn or_at(mut self, lines: Lines) -> Self {
        if self.places.is_empty() {
            self.places.push(lines);
        }
        self
    }
}

impl From<Error> for Located {
    fn from(error: Error) -> Self {
        Self { places: error.lines().into_iter().collect(), error: Box::new(error.into()) }
    }
}

impl From<ConvertError> for Located {
    fn from(error: ConvertError) -> Self {
        let places = match &error {
            ConvertError::Read(read) => read.lines().into_iter().collect(),
            _ => Vec::new(),
        };
        Self { error: Box::new(error), places }
    }
}

/// ` (did you mean x?)`, or nothing.
pub(crate) fn hint<'a>(value: &str, options: impl IntoIterator<Item = &'a str>) -> String {
    DidYouMean(suggest(value, options)).to_string()
}
