//! A build's builder: started when first asked for, reached through the gateway.

use std::sync::Arc;
use std::time::SystemTime;

use chrono::Utc;
use cofferdam_fleet::{FleetError, Isolation, Lease, ProjectSpec};
use cofferdam_records::{Project, RecordsError};
use tokio::net::UnixStream;
use tracing::Instrument;

use super::tap::Tap;
use super::{Builds, LiveBuild};
use crate::gateway::{AuthorityError, server_name};
use crate::metrics::{ALL, CONNECTIONS, ERRORS};
use crate::walls::{self, WallsError};

/// What a client needs to reach its builder.
pub(crate) struct Connection {
    /// Name to ask for and to verify.
    pub(crate) server_name: String,
    /// The client's certificate, PEM.
    pub(crate) certificate: String,
    /// Its key, PEM.
    pub(crate) key: String,
    /// What verifies the gateway, PEM.
    pub(crate) authority: String,
}

/// Why there is no builder for a build.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// It is over.
    #[error("build {0} has ended: begin another one")]
    Ended(String),
    /// Its project's cache is being removed, or all places are taken: ask again.
    #[error("{0}")]
    Wait(&'static str),
    /// The builder cannot be started at the level that somebody demands.
    #[error(
        "this build needs isolation level {level}, and the server cannot start a builder of that level"
    )]
    Level {
        /// Which level.
        level: Isolation,
        /// What is in the way.
        #[source]
        source: FleetError,
    },
    /// The builder cannot be started.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// What its project demands cannot be read.
    #[error(transparent)]
    Walls(#[from] WallsError),
    /// Its certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Records.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl Builds {
    /// The builder of a build, started if need be.
    pub(crate) async fn endpoint(
        self: &Arc<Self>,
        live: &Arc<LiveBuild>,
    ) -> Result<Connection, EndpointError> {
        let connection = self.give_endpoint(live).instrument(live.span().clone()).await;
        if let Err(error) = &connection {
            live.span().in_scope(|| tell(error));
        }
        connection
    }

    async fn give_endpoint(
        self: &Arc<Self>,
        live: &Arc<LiveBuild>,
    ) -> Result<Connection, EndpointError> {
        live.asked();
        self.lease(live).await?;
        let certificate = match live.certificate() {
            Some(certificate) => certificate,
            None => live.set_certificate(self.authority.client(live.project_id(), live.id())?),
        };
        self.lock().certificates.insert(certificate.fingerprint, Arc::clone(live));
        Ok(Connection {
            server_name: server_name(live.id()),
            certificate: certificate.certificate.clone(),
            key: certificate.key.clone(),
            authority: self.authority.pem().to_owned(),
        })
    }

    /// A stream of bytes to the builder, which knows whose build they are.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        live: &Arc<LiveBuild>,
    ) -> Result<UnixStream, EndpointError> {
        let lease = self.lease(live).await?;
        let stream = lease.connect(live.id()).await?;
        CONNECTIONS.count(ALL, 1);
        Ok(stream)
    }

    async fn lease(self: &Arc<Self>, live: &Arc<LiveBuild>) -> Result<Arc<Lease>, EndpointError> {
        let mut held = live.lease().lock().await;
        if !live.is_running() {
            return Err(EndpointError::Ended(live.id().to_owned()));
        }
        if let Some(lease) = &*held {
            return Ok(Arc::clone(lease));
        }
        let project = self.cache_is_there(live).await?;
        let spec = spec(&project, live.demanded(), self.least())?;
        let (asking, from) = (live.ask(), SystemTime::now());
        let lease = self.fleet.lease(&spec).await.map_err(|error| unstarted(error, &spec));
        match &lease {
            Ok(lease) => live.trace().got_builder(from, lease.timing()),
            Err(_) => live.trace().got_no_builder(from),
        }
        let lease = Arc::new(lease?);
        // Before the client gets there: nothing that happens may be missed.
        let events = lease.watch(live.id()).await?;
        let level = spec.isolation.name();
        if let Err(error) = self.records.start_build(live.id(), Utc::now(), level).await {
            tracing::warn!(%error, "the start of a build was not recorded");
        }
        *live.tap() = Some(Tap::start(self, live, &lease, events));
        *held = Some(Arc::clone(&lease));
        asking.done();
        Ok(lease)
    }

    /// A cache that is being removed must not be built on. Gives the project as it is now: its walls may have been raised since the
    /// build began.
    async fn cache_is_there(&self, live: &LiveBuild) -> Result<Project, EndpointError> {
        match self.records.project(live.project_id()).await? {
            Some(project) if !project.reset_pending => Ok(project),
            _ => Err(EndpointError::Wait("the project's cache is being removed")),
        }
    }
}

/// Puts into the log why a builder cannot be had, which clients are not told.
fn tell(error: &EndpointError) {
    let what = match error {
        EndpointError::Level { .. } => "a level cannot be had",
        EndpointError::Fleet(_) | EndpointError::Authority(_) => "a builder cannot be had",
        _ => return,
    };
    ERRORS.count("builder", 1);
    tracing::error!(error = error as &dyn std::error::Error, "{what}");
}

/// The first level is the machine's own; others may be missing altogether, which is no passing trouble.
fn unstarted(error: FleetError, spec: &ProjectSpec) -> EndpointError {
    match error {
        source @ FleetError::Start(_) if spec.isolation > Isolation::Namespaces => {
            EndpointError::Level { level: spec.isolation, source }
        }
        other => other.into(),
    }
}

/// What the builder of a build is started with: nothing about its walls is weaker than what server, project and client demand.
pub(super) fn spec(
    project: &Project,
    demanded: Isolation,
    least: Isolation,
) -> Result<ProjectSpec, WallsError> {
    let built = walls::built(project, least)?;
    Ok(ProjectSpec {
        project: project.id.clone(),
        slot: project.slot,
        isolation: built.isolation.max(demanded),
        network: built.network,
        limits: built.limits,
        resources: crate::hardware::resources(project.hardware),
        keep_gb: u32::try_from(project.cache.keep_gb).unwrap_or(0),
        keep_days: u32::try_from(project.cache.keep_days).unwrap_or(0),
    })
}
