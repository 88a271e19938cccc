//! Variable expansion and word splitting, in the manner of a shell.
//!
//! Follows the
//! [environment replacement](https://docs.docker.com/reference/dockerfile/#environment-replacement)
//! rules: `$x`, `${x}` and the modifiers `:- - :+ + :? ? # ## % %% / //`, quotes and the
//! escape character. Expansion can multiply its input, so every byte a variable
//! contributes is charged to a [`Budget`] shared by a whole Dockerfile.

mod budget;
mod lexer;
mod pattern;
mod variables;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use budget::Budget;
pub use variables::Variables;

use lexer::Lexer;

/// What an expansion gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The whole text, spaces kept.
    pub text: String,
    /// The text split at unquoted space.
    pub words: Vec<String>,
    /// Names that were looked up and found.
    pub matched: BTreeSet<String>,
    /// Names that were looked up and not found.
    pub unmatched: BTreeSet<String>,
}

/// An expander: an escape character, a few switches and a budget.
///
/// Clones and the results of the switch methods share the budget.
#[derive(Debug, Clone)]
pub struct Expander {
    escape: char,
    raw_quotes: bool,
    raw_escapes: bool,
    literal_quotes: bool,
    keep_unset: bool,
    budget: Arc<Budget>,
}

/// Text that could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {problem}")]
pub struct ExpandError {
    /// The text, cut when it is long.
    pub word: String,
    /// Why not.
    pub problem: ExpandProblem,
}

/// Why an expansion failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandProblem {
    /// The text ends inside a construct.
    #[error("unexpected end of statement while looking for matching {0}")]
    Unterminated(&'static str),
    /// The text ends inside `${`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${x/pattern` without the second slash.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${{`, `${:`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// A modifier that does not exist.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// A pattern that means nothing.
    #[error("invalid pattern ({pattern}) in substitution: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `?` found its variable unset or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The text after `?`, or a standard one.
        message: String,
    },
    /// The results of all expansions together are over the budget.
    #[error("variables expand to more than {0} bytes in one Dockerfile")]
    TooLarge(usize),
    /// Substitutions nested too deeply.
    #[error("substitutions are nested more than {0} deep")]
    TooDeep(usize),
}

/// Characters of the text an error repeats; enough to find it, small enough to print.
const MAX_QUOTED: usize = 512;

impl Expander {
    /// An expander with a fresh budget. `escape` is
    /// [`Dockerfile::escape`](crate::Dockerfile::escape).
    #[must_use]
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            literal_quotes: false,
            keep_unset: false,
            budget: Arc::new(Budget::default()),
        }
    }

    /// Keeps quotes in the result (they still quote).
    #[must_use]
    pub fn raw_quotes(mut self) -> Self {
        self.raw_quotes = true;
        self
    }

    /// Keeps escape characters in the result.
    #[must_use]
    pub fn raw_escapes(mut self) -> Self {
        self.raw_escapes = true;
        self
    }

    /// Quotes are ordinary characters.
    #[must_use]
    pub fn literal_quotes(mut self) -> Self {
        self.literal_quotes = true;
        self
    }

    /// Leaves references to unset variables as written.
    #[must_use]
    pub fn keep_unset(mut self) -> Self {
        self.keep_unset = true;
        self
    }

    /// Another escape character, same budget (heredoc bodies always use `\`).
    #[must_use]
    pub fn with_escape(mut self, escape: char) -> Self {
        self.escape = escape;
        self
    }

    /// Expands `word`.
    ///
    /// # Errors
    /// Bad syntax, a `?` modifier that applies, or too much output.
    pub fn expand<V: Variables + ?Sized>(
        &self,
        word: &str,
        variables: &V,
    ) -> Result<Expanded, ExpandError> {
        // `&V` is itself `Variables`, which turns an unsized `V` into a sized one.
        Lexer::new(self, word, &variables).run().map_err(|problem| {
            let mut shown: String = word.chars().take(MAX_QUOTED).collect();
            if shown.len() < word.len() {
                shown.push('…');
            }
            ExpandError { word: shown, problem }
        })
    }
}

#[cfg(test)]
mod tests;
