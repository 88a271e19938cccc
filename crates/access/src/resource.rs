//! What is asked for, and what a granted request gets to know about it.

use cofferdam_records::{Build, Project, Token};

use crate::principal::Principal;

/// What an action is to be done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// An organization; without an id (or an empty one) the principal's own.
    Organization(Option<&'a str>),
    /// A project, by its id.
    Project(&'a str),
    /// The one project that can be meant: the token's own, or the organization's only one.
    AnyProject,
    /// A build, by its id.
    Build(&'a str),
    /// A token that somebody manages, by its id: a project's or an organization's. Tokens of builds, pulls and sessions are
    /// managed by what they were made from.
    Token(&'a str),
}

/// A request that may go on, with what was found on the way.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Who asks.
    pub principal: Principal,
    /// The organization of what it is done with.
    pub organization: String,
    /// The project it is done with. None for organizations and their tokens, and for [`Resource::AnyProject`] where more or fewer
    /// than one could be meant.
    pub project: Option<Project>,
    /// The build it is done with.
    pub build: Option<Build>,
    /// The token of whoever asks; a JWT has none.
    pub token: Option<Token>,
}
