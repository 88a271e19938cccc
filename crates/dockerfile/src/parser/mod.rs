//! Text to nodes: directives, comments, continuation lines, heredocs and the raw arguments
//! of each instruction.
//!
//! Follows the [format](https://docs.docker.com/reference/dockerfile/#format) section of
//! the Dockerfile reference. Knows how each instruction splits its arguments but not what
//! they mean. Bytes that are not UTF-8 become U+FFFD, for they are usually in comments.

mod directives;
mod heredoc;
mod keyword;
mod node;
mod words;

pub use directives::{Directive, check_directive, syntax_directive};
pub use heredoc::{Heredoc, parse_heredoc, strip_tabs};

pub(crate) use directives::check_in_comment;
pub(crate) use keyword::Keyword;
pub(crate) use node::{Node, parse_nodes};

use crate::expand::ExpandError;

/// Bytes in a Dockerfile. Real ones stay below 100 KiB; heredoc bodies make some larger.
pub(crate) const MAX_FILE: usize = 1 << 20;
/// Bytes in one physical line, the limit of the existing frontend.
const MAX_LINE: usize = (64 << 10) - 1;
/// Instructions in a file: no more than a graph may have operations. Generated files have a few hundred.
pub(crate) const MAX_INSTRUCTIONS: usize = 20_000;

/// Text that does not split into instructions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// No bytes at all.
    #[error("the Dockerfile cannot be empty")]
    NoContent,
    /// Nothing but comments and space.
    #[error("file with no instructions")]
    NoInstructions,
    /// More than the largest accepted file.
    #[error("dockerfile greater than max allowed size of {0}")]
    FileTooLong(usize),
    /// A line over the limit.
    #[error("dockerfile line greater than max allowed size of {0}")]
    LineTooLong(usize),
    /// A NUL byte, as in UTF-16 text.
    #[error("instruction contains a NUL byte, a dockerfile must be UTF-8 text")]
    Nul,
    /// The `escape` directive has another value than the two allowed.
    #[error("invalid escape token '{0}' does not match ` or \\")]
    Escape(String),
    /// A directive is given twice.
    #[error("only one {0} parser directive can be used")]
    RepeatedDirective(String),
    /// The file ends within a heredoc.
    #[error("unterminated heredoc")]
    UnterminatedHeredoc,
    /// The delimiter of a heredoc is malformed.
    #[error(transparent)]
    HeredocWord(#[from] ExpandError),
    /// A JSON array holds something other than strings.
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotStringArray,
    /// `ENV name` or `LABEL name` without a value.
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    /// A word of `ENV` or `LABEL` after the first has no `=`.
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    NoEquals(String),
}

#[cfg(test)]
mod tests;
