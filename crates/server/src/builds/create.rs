//! The beginning of a build.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use cofferdam_access::{Grant, TokenKind, mint};
use cofferdam_fleet::Isolation;
use cofferdam_records::{Build, NewBuild, NewToken, Project, RecordsError};

use super::{Builds, LiveBuild, Outcome};
use crate::metrics::{ALL, BUILDS_BEGUN};

/// How long the token of a build is accepted.
const TOKEN_LIFE: TimeDelta = TimeDelta::hours(24);
/// Most builds of one project at once.
const MOST_RUNNING: usize = 500;

/// A build that has begun.
pub(crate) struct Created {
    /// The build.
    pub(crate) build: Build,
    /// Its token, the only copy.
    pub(crate) token: String,
}

/// Why a build does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// The server stops.
    #[error("the server is stopping and takes no new builds: try again in a minute")]
    Stopping,
    /// Too many already.
    #[error("project {0} has {MOST_RUNNING} builds running: wait until one of them ends")]
    TooMany(String),
    /// Records.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl Builds {
    /// Begins a build in a project that the grant allows building in, isolated at least as demanded.
    pub(crate) async fn create(
        self: &Arc<Self>,
        grant: &Grant,
        project: Project,
        command: i32,
        options: String,
        demanded: Isolation,
    ) -> Result<Created, CreateError> {
        if self.is_draining() {
            return Err(CreateError::Stopping);
        }
        if self.running().iter().filter(|live| live.project_id() == project.id).count()
            >= MOST_RUNNING
        {
            return Err(CreateError::TooMany(project.id));
        }
        let creator = grant.token.as_ref().map(|token| token.id.clone());
        let build = self
            .records
            .create_build(NewBuild {
                id: None,
                project: project.id.clone(),
                organization: project.organization.clone(),
                token: creator.clone(),
                command,
                options,
            })
            .await?;
        let live = LiveBuild::new(build.clone(), project.clone(), demanded);
        // From here on somebody sees to it that the build ends, also when the client has gone or the token cannot be recorded.
        self.add(Arc::clone(&live));
        BUILDS_BEGUN.count(ALL, 1);
        let (token, hash) = mint(TokenKind::Build);
        let record = self
            .records
            .create_token(NewToken {
                kind: TokenKind::Build,
                organization: project.organization,
                project: Some(project.id),
                build: Some(build.id.clone()),
                // What revokes the creator revokes the build.
                parent: creator,
                description: format!("build {}", build.id),
                hash,
                expires_at: Some(Utc::now() + TOKEN_LIFE),
            })
            .await;
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let builds = Arc::clone(self);
                let outcome = Outcome::Lost("its token could not be recorded".to_owned());
                tokio::spawn(async move { builds.end(&live, outcome).await });
                return Err(error.into());
            }
        };
        self.follow_token(&live, &record.id);
        live.span().in_scope(|| tracing::info!("a build began"));
        Ok(Created { build, token })
    }

    /// Cancels the build when its token is revoked, be it directly or with the token that began it.
    fn follow_token(self: &Arc<Self>, live: &Arc<LiveBuild>, token: &str) {
        let revoked = self.access.revocations().watch(token);
        let (builds, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            tokio::select! {
                () = revoked.revoked() => {
                    builds.cancel(&live, "the token that began this build was revoked").await;
                }
                () = live.ended() => {}
            }
        });
    }
}
