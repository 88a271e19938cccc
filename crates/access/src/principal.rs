//! Who is asking.
//!
//! A principal says what a token stands for; what it may do is written in the rules alone.

use std::fmt;

use cofferdam_records::{Project, Provider};

/// Who is asking, as far as their token tells.
#[derive(Debug, Clone)]
pub enum Principal {
    /// The holder of an organization's token.
    Organization {
        /// The token.
        token_id: String,
        /// The organization.
        organization: String,
    },
    /// A browser that was signed in with an organization's token.
    Session {
        /// The session's own token.
        token_id: String,
        /// The organization.
        organization: String,
        /// The token it was signed in with; with that one it ends.
        parent: Option<String>,
    },
    /// The holder of a project's token.
    Project {
        /// The token.
        token_id: String,
        /// The project's organization.
        organization: String,
        /// The project.
        project: String,
    },
    /// The client of one build.
    Build {
        /// The token.
        token_id: String,
        /// The project's organization.
        organization: String,
        /// The build's project.
        project: String,
        /// The build.
        build: String,
    },
    /// A container engine that fetches images of one project.
    Pull {
        /// The token.
        token_id: String,
        /// The project's organization.
        organization: String,
        /// The project.
        project: String,
    },
    /// A job of a CI provider that at least one project trusts.
    Oidc {
        /// The provider and what it says the job belongs to.
        provider: Provider,
        /// What the provider calls the job.
        subject: String,
        /// The projects that trust it; never empty, none being deleted.
        projects: Vec<Project>,
    },
}

/// The kinds of principals, in the order of the columns of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// An organization's token.
    Organization,
    /// A browser's session.
    Session,
    /// A project's token.
    Project,
    /// A JWT of a CI provider.
    Oidc,
    /// A build's token.
    Build,
    /// A pull token.
    Pull,
}

impl PrincipalKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Organization, Self::Session, Self::Project, Self::Oidc, Self::Build, Self::Pull];
}

impl fmt::Display for PrincipalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Organization => "an organization token",
            Self::Session => "a signed-in browser",
            Self::Project => "a project token",
            Self::Oidc => "a JWT of a CI provider",
            Self::Build => "a build token",
            Self::Pull => "a pull token",
        })
    }
}

impl Principal {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> PrincipalKind {
        match self {
            Self::Organization { .. } => PrincipalKind::Organization,
            Self::Session { .. } => PrincipalKind::Session,
            Self::Project { .. } => PrincipalKind::Project,
            Self::Oidc { .. } => PrincipalKind::Oidc,
            Self::Build { .. } => PrincipalKind::Build,
            Self::Pull { .. } => PrincipalKind::Pull,
        }
    }

    /// The token's id; a JWT has none.
    #[must_use]
    pub fn token_id(&self) -> Option<&str> {
        match self {
            Self::Organization { token_id, .. }
            | Self::Session { token_id, .. }
            | Self::Project { token_id, .. }
            | Self::Build { token_id, .. }
            | Self::Pull { token_id, .. } => Some(token_id),
            Self::Oidc { .. } => None,
        }
    }

    /// Whether it belongs to an organization. A JWT belongs to those of the projects that trust it.
    pub(crate) fn is_in(&self, id: &str) -> bool {
        match self {
            Self::Oidc { projects, .. } => {
                projects.iter().any(|project| project.organization == id)
            }
            _ => self.organization() == id,
        }
    }

    /// The organization it belongs to, or the first of several.
    pub(crate) fn organization(&self) -> &str {
        match self {
            Self::Organization { organization, .. }
            | Self::Session { organization, .. }
            | Self::Project { organization, .. }
            | Self::Build { organization, .. }
            | Self::Pull { organization, .. } => organization,
            Self::Oidc { projects, .. } => {
                projects.first().map_or("", |project| project.organization.as_str())
            }
        }
    }

    /// Whether it may know that a project exists.
    pub(crate) fn sees_project(&self, found: &Project) -> bool {
        match self {
            Self::Organization { organization, .. } | Self::Session { organization, .. } => {
                found.organization == *organization
            }
            Self::Project { organization, project, .. }
            | Self::Build { organization, project, .. }
            | Self::Pull { organization, project, .. } => {
                found.organization == *organization && found.id == *project
            }
            Self::Oidc { projects, .. } => projects.iter().any(|project| project.id == found.id),
        }
    }

    /// Whether it may know that a build of a project that it sees exists.
    pub(crate) fn sees_build(&self, id: &str) -> bool {
        match self {
            Self::Build { build, .. } => build == id,
            _ => true,
        }
    }
}
