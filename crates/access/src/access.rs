//! The authorization function: who asks, what for, and whether they may.
//!
//! In this order: who asks is found out; then what they ask for, which they must be able to see; then whether they may do this
//! with it. So nobody learns of anything that is not theirs by asking for something they may not do.

use std::sync::Arc;

use chrono::Utc;
use cofferdam_records::{
    Build, BuildStatus, PageRequest, Project, ProjectState, Records, Token, TokenKind,
};

use crate::denied::{Denied, Unauthenticated};
use crate::oidc::{OidcOptions, Verifier};
use crate::principal::Principal;
use crate::resource::{Grant, Resource};
use crate::revocations::Revocations;
use crate::rules::{Action, Reach, rule};
use crate::token;

/// Longest text that is looked at as a token; JWTs of CI providers stay below 4 KiB.
const MAX_BEARER: usize = 16 << 10;

/// How access is configured.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// Trust in CI providers.
    pub oidc: OidcOptions,
}

/// Decides who may do what.
pub struct Access {
    records: Records,
    oidc: Verifier,
    revocations: Revocations,
}

/// What a resource turned out to be.
struct Found {
    organization: String,
    project: Option<Project>,
    build: Option<Build>,
}

impl Access {
    /// Access by these records. An issuer that [`OidcOptions::check`] refuses is never trusted.
    #[must_use]
    pub fn new(records: Records, options: AccessOptions) -> Arc<Self> {
        Arc::new(Self {
            records,
            oidc: Verifier::new(options.oidc),
            revocations: Revocations::default(),
        })
    }

    /// Revocations of tokens. Whoever deletes tokens must revoke them here.
    #[must_use]
    pub const fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Finds out who asks.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] when nobody is known by this token, [`Denied::Unavailable`] when that cannot be found out.
    pub async fn identify(&self, bearer: Option<&str>) -> Result<Principal, Denied> {
        Ok(self.who(bearer).await?.0)
    }

    /// The one function that decides: every call, page and registry request comes through here.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn authorize(
        &self,
        bearer: Option<&str>,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<Grant, Denied> {
        let (principal, token) = self.who(bearer).await?;
        let found = self.find(&principal, resource).await?;
        let rule = rule(action);
        let allowed = match rule.reach(principal.kind()) {
            Reach::Nothing => false,
            Reach::Build => found.build.is_some(),
            Reach::RunningBuild => self.runs(&principal).await?,
            // Whatever was found is the principal's own: it saw it.
            Reach::Project | Reach::Organization => true,
        };
        if !allowed {
            return Err(Denied::Forbidden {
                principal: principal.kind(),
                action: rule.called,
                needed: rule.needed(),
            });
        }
        let Found { organization, project, build } = found;
        Ok(Grant { principal, organization, project, build, token })
    }

    /// The build that a share link shows, for as long as it is shared and its project exists. The link is all that is needed.
    ///
    /// # Errors
    /// [`Denied::NotFound`] or [`Denied::Unavailable`].
    pub async fn shared(&self, secret: &str) -> Result<Build, Denied> {
        let unknown = || Denied::not_found("shared build", "");
        if secret.len() > MAX_BEARER {
            return Err(unknown());
        }
        let shared = self.records.build_by_share(&token::hash(secret)).await?;
        let build = shared.ok_or_else(unknown)?;
        self.active(&build.project).await?.ok_or_else(unknown)?;
        Ok(build)
    }

    async fn who(&self, bearer: Option<&str>) -> Result<(Principal, Option<Token>), Denied> {
        let text = bearer.map(str::trim).filter(|text| !text.is_empty());
        let text = text.ok_or(Unauthenticated::Missing)?;
        if text.len() > MAX_BEARER {
            return Err(Unauthenticated::Malformed.into());
        }
        if token::is_ours(text) {
            let (principal, token) = self.token_holder(text).await?;
            return Ok((principal, Some(token)));
        }
        Ok((self.job(text).await?, None))
    }

    async fn token_holder(&self, secret: &str) -> Result<(Principal, Token), Denied> {
        if !token::is_well_formed(secret) {
            return Err(Unauthenticated::Malformed.into());
        }
        let token = self.records.token_by_hash(&token::hash(secret)).await?;
        let token = token.ok_or(Unauthenticated::Unknown)?;
        if token.expires_at.is_some_and(|at| at <= Utc::now()) {
            return Err(Unauthenticated::Expired.into());
        }
        let principal = principal(&token).ok_or_else(|| {
            tracing::error!(token = token.id, "a token lacks what its kind must have");
            Unauthenticated::Unknown
        })?;
        Ok((principal, token))
    }

    /// A job of a CI provider, by the JWT it has from there.
    async fn job(&self, text: &str) -> Result<Principal, Denied> {
        let claim = self.oidc.read(text)?;
        // Organizations may have issuers of their own. Those of strangers are not asked for keys, and strangers cannot tell an
        // organization that is trusted from one that is not.
        let own_issuer = claim.has_own_issuer();
        if own_issuer && self.trusting(&claim.provider).await?.is_empty() {
            return Err(claim.untrusted().into());
        }
        let identity = match self.oidc.verify(&claim).await {
            Err(Denied::Unauthenticated(Unauthenticated::Refused { reason, .. }))
                if own_issuer && reason.shows_no_key() =>
            {
                return Err(claim.untrusted().into());
            }
            identity => identity?,
        };
        let projects = self.trusting(&identity.provider).await?;
        if projects.is_empty() {
            return Err(claim.untrusted().into());
        }
        Ok(Principal::Oidc { provider: identity.provider, subject: identity.subject, projects })
    }

    async fn trusting(
        &self,
        provider: &cofferdam_records::Provider,
    ) -> Result<Vec<Project>, Denied> {
        let mut projects = self.records.projects_trusting(provider).await?;
        projects.retain(|project| project.state == ProjectState::Active);
        Ok(projects)
    }

    /// A project that is not being deleted.
    async fn active(&self, id: &str) -> Result<Option<Project>, Denied> {
        let project = self.records.project(id).await?;
        Ok(project.filter(|project| project.state == ProjectState::Active))
    }

    async fn find(&self, principal: &Principal, resource: Resource<'_>) -> Result<Found, Denied> {
        match resource {
            Resource::Organization(id) => organization(principal, id),
            Resource::Project(id) => {
                let project = self.project(principal, id).await?;
                Ok(found(project.ok_or_else(|| Denied::not_found("project", id))?))
            }
            Resource::AnyProject => self.only_project(principal).await,
            Resource::Build(id) => self.build(principal, id).await,
            Resource::Token(id) => self.token(principal, id).await,
        }
    }

    /// A project that the principal sees.
    async fn project(&self, principal: &Principal, id: &str) -> Result<Option<Project>, Denied> {
        Ok(self.active(id).await?.filter(|project| principal.sees_project(project)))
    }

    async fn build(&self, principal: &Principal, id: &str) -> Result<Found, Denied> {
        let unknown = || Denied::not_found("build", id);
        let build = self.records.build(id).await?.ok_or_else(unknown)?;
        let project = self.project(principal, &build.project).await?.ok_or_else(unknown)?;
        if !principal.sees_build(&build.id) {
            return Err(unknown());
        }
        Ok(Found { build: Some(build), ..found(project) })
    }

    async fn token(&self, principal: &Principal, id: &str) -> Result<Found, Denied> {
        let unknown = || Denied::not_found("token", id);
        let token = self.records.token(id).await?.ok_or_else(unknown)?;
        match (token.kind, &token.project) {
            (TokenKind::Project, Some(project)) => {
                Ok(found(self.project(principal, project).await?.ok_or_else(unknown)?))
            }
            (TokenKind::Organization, None) if sees_organization_tokens(principal, &token) => {
                Ok(Found { organization: token.organization, project: None, build: None })
            }
            _ => Err(unknown()),
        }
    }

    async fn only_project(&self, principal: &Principal) -> Result<Found, Denied> {
        let project = match principal {
            Principal::Project { project, .. }
            | Principal::Build { project, .. }
            | Principal::Pull { project, .. } => {
                let own = self.project(principal, project).await?;
                Some(own.ok_or_else(|| Denied::not_found("project", project))?)
            }
            Principal::Oidc { projects, .. } => only(projects.clone()),
            Principal::Organization { organization, .. }
            | Principal::Session { organization, .. } => {
                let two = PageRequest { size: Some(2), token: None };
                only(self.records.projects(organization, None, two).await?.items)
            }
        };
        let organization = principal.organization().to_owned();
        Ok(project.map_or(Found { organization, project: None, build: None }, found))
    }

    /// Whether the build of a build's token runs.
    async fn runs(&self, principal: &Principal) -> Result<bool, Denied> {
        let Principal::Build { build, .. } = principal else { return Ok(false) };
        let build = self.records.build(build).await?;
        Ok(build.is_some_and(|build| build.status == BuildStatus::Running))
    }
}

fn principal(token: &Token) -> Option<Principal> {
    let token_id = token.id.clone();
    let organization = token.organization.clone();
    Some(match token.kind {
        TokenKind::Organization => Principal::Organization { token_id, organization },
        TokenKind::Session => {
            Principal::Session { token_id, organization, parent: token.parent.clone() }
        }
        TokenKind::Project => {
            Principal::Project { token_id, organization, project: token.project.clone()? }
        }
        TokenKind::Build => Principal::Build {
            token_id,
            organization,
            project: token.project.clone()?,
            build: token.build.clone()?,
        },
        TokenKind::Pull => {
            Principal::Pull { token_id, organization, project: token.project.clone()? }
        }
    })
}

fn organization(principal: &Principal, id: Option<&str>) -> Result<Found, Denied> {
    let organization = match id.filter(|id| !id.is_empty()) {
        None => principal.organization(),
        Some(id) if principal.is_in(id) => id,
        Some(id) => return Err(Denied::not_found("organization", id)),
    };
    Ok(Found { organization: organization.to_owned(), project: None, build: None })
}

fn sees_organization_tokens(principal: &Principal, token: &Token) -> bool {
    match principal {
        Principal::Organization { organization, .. } | Principal::Session { organization, .. } => {
            token.organization == *organization
        }
        _ => false,
    }
}

fn found(project: Project) -> Found {
    Found { organization: project.organization.clone(), project: Some(project), build: None }
}

fn only(mut projects: Vec<Project>) -> Option<Project> {
    if projects.len() == 1 { projects.pop() } else { None }
}
