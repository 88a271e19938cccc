//! Why a Dockerfile could not be read.
//!
//! Two steps can fail: splitting the text into instructions ([`TextError`]) and reading an
//! instruction ([`InstructionError`]). Both end in an [`Error`] that knows the lines.
//! Messages are matched literally by existing clients and their tests.

use crate::instructions::InstructionError;
use crate::lines::Lines;
use crate::parser::TextError;

/// A Dockerfile that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text does not split into instructions.
    #[error("{problem}")]
    Text {
        /// Where; `None` when the file as a whole is meant.
        lines: Option<Lines>,
        /// What is wrong.
        problem: TextError,
    },
    /// An instruction is wrong.
    #[error("dockerfile parse error on line {}: {problem}", lines.start)]
    Instruction {
        /// Where.
        lines: Lines,
        /// What is wrong.
        problem: InstructionError,
    },
    /// An instruction other than `ARG` stands before the first `FROM`.
    #[error("no build stage in current context")]
    BeforeFirstStage {
        /// Where.
        lines: Lines,
    },
    /// There is no `FROM`.
    #[error("dockerfile contains no stages to build")]
    NoStages,
    /// A file or trigger is over a limit of this product.
    #[error("dockerfile has more than {limit} {what}")]
    TooMany {
        /// Where the limit was passed.
        lines: Lines,
        /// Instructions or stages.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// An `ONBUILD` trigger does not hold exactly one instruction.
    #[error("onbuild trigger should be a single expression")]
    Trigger,
}

impl Error {
    /// The lines to show with the error.
    #[must_use]
    pub fn lines(&self) -> Option<Lines> {
        match self {
            Self::Text { lines, .. } => *lines,
            Self::Instruction { lines, .. }
            | Self::BeforeFirstStage { lines }
            | Self::TooMany { lines, .. } => Some(*lines),
            Self::NoStages | Self::Trigger => None,
        }
    }
}
