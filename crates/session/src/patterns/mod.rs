//! The pattern language of `.dockerignore` and of include and exclude lists.
//!
//! Behaviour follows moby's patternmatcher: order matters, `!` takes back, a match of a
//! directory covers what is below it, `**` crosses directories, `*`, `?` and classes do not.
//! Every match is linear in the path: patterns are exact text, prefixes, suffixes, or regular
//! expressions without backtracking. This module must never touch a file.

mod glob;
mod ignore_file;
mod matcher;
mod translate;

pub use glob::{Glob, GlobError};
pub use ignore_file::parse_ignore_file;
pub use matcher::{MatchInfo, Matcher, Pattern, PatternError};
