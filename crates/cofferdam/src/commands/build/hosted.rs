//! A build on a server: announced there, run on the builder the server gives, and reported as ended in any case.
//!
//! Nothing but the build's own short-lived token is used after the announcement.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::Utc;
use cofferdam_apiclient::{
    ApiClient, BuildOrder, Connection, Endpoint, ErrorCode, Outcome, RegistryLogin, StartedBuild,
};
use cofferdam_client::{Client, MutualTls, SolveError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::arguments::BuildArgs;
use super::outputs::Outputs;
use crate::remote::{ProjectArgs, RemoteArgs};
use crate::terminal::note;

/// Between two signs of life.
const HEALTH: Duration = Duration::from_secs(5);

/// Longest wait for a builder: it may have to be started, and others may be in front.
const BUILDER: Duration = Duration::from_secs(300);

/// Wait after which it is mentioned.
const MENTIONED: Duration = Duration::from_secs(2);

/// Attempts at what may succeed a moment later, and the pause between them.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Longest that reporting the end may take, attempts included.
const FAREWELL: Duration = Duration::from_secs(10);

/// A build that was announced and has not been reported as ended.
pub(super) struct HostedBuild {
    /// Shows the build's token.
    client: ApiClient,
    started: StartedBuild,
    health: JoinHandle<()>,
}

impl HostedBuild {
    /// Announces the build; `cancel` fires when the server wants it to end.
    pub(super) async fn begin(
        args: &BuildArgs,
        outputs: &Outputs,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let choice = &args.server;
        let remote = RemoteArgs { server: choice.server.clone(), token: choice.token.clone() };
        let project = ProjectArgs { project: choice.project.clone() }.find()?;
        let client = remote.connect()?;
        let named = project.is_some();
        let started = client.create_build(order(args, outputs, project)).await;
        let started = started.map_err(|error| match error.code() {
            Some(ErrorCode::InvalidArgument) if !named => {
                anyhow::Error::new(error).context("name a project with --project ID")
            }
            _ => error.into(),
        })?;
        let client = client.with_token(&started.token)?;
        let health =
            tokio::spawn(report_health(client.clone(), started.id.clone(), cancel.clone()));
        Ok(Self { client, started, health })
    }

    /// The build's page; empty when there is none.
    pub(super) fn url(&self) -> &str {
        &self.started.url
    }

    /// Where an image that is saved is pushed to.
    pub(super) fn save_names(&self) -> anyhow::Result<&[String]> {
        ensure!(
            !self.started.save_names.is_empty(),
            "this server keeps no images: leave out --save"
        );
        Ok(&self.started.save_names)
    }

    /// Registries that the build may push to.
    pub(super) fn logins(&self) -> &[RegistryLogin] {
        &self.started.logins
    }

    /// Waits for the builder and connects to it.
    pub(super) async fn connect(&self, cancel: &CancellationToken) -> anyhow::Result<Client> {
        tokio::select! {
            client = self.builder() => client,
            () = cancel.cancelled() => Err(SolveError::Canceled.into()),
        }
    }

    async fn builder(&self) -> anyhow::Result<Client> {
        let started = Instant::now();
        let (mut mentioned, mut failures) = (false, 0);
        let endpoint = loop {
            match self.client.builder_connection(&self.started.id).await {
                Ok(Connection::Ready(endpoint)) => break endpoint,
                Ok(Connection::Pending(pause)) => {
                    failures = 0;
                    sleep(pause).await;
                }
                Err(error) if error.is_passing() && failures < ATTEMPTS => {
                    failures += 1;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error).context("get a builder"),
            }
            if !mentioned && started.elapsed() > MENTIONED {
                mentioned = true;
                note("Waiting for a builder ...");
            }
            if started.elapsed() > BUILDER {
                bail!("the server gave no builder within {} s", BUILDER.as_secs());
            }
        };
        reach(endpoint).await
    }

    /// Reports the end. What goes wrong here is mentioned: the build itself has ended as it has.
    pub(super) async fn finish<T>(self, ended: &anyhow::Result<T>) {
        self.health.abort();
        let outcome = match ended {
            Ok(_) => Outcome::Success,
            Err(error) if was_canceled(error) => Outcome::Canceled,
            Err(error) => Outcome::Error(format!("{error:#}")),
        };
        let report = async {
            loop {
                match self.client.finish_build(&self.started.id, outcome.clone()).await {
                    Err(error) if error.is_passing() => sleep(PAUSE).await,
                    result => return result,
                }
            }
        };
        match timeout(FAREWELL, report).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => note(&format!("The end of the build was not reported: {error}")),
            Err(_) => note("The end of the build was not reported: the server does not answer"),
        }
    }
}

fn order(args: &BuildArgs, outputs: &Outputs, project: Option<String>) -> BuildOrder {
    let listed = outputs.0.iter();
    BuildOrder {
        project,
        tags: args.tag.clone(),
        outputs: listed.map(|(one, _)| (one.kind.clone(), one.attrs.clone())).collect(),
        push: args.outputs.push,
        load: args.outputs.load,
        target: args.target.clone(),
        save: args.server.saves(),
        save_tags: args.server.save_tag.clone(),
        isolation: args.builder.isolation.map(|level| level.name().to_owned()),
    }
}

/// Says that somebody waits, until the server says that nobody shall.
async fn report_health(client: ApiClient, build: String, cancel: CancellationToken) {
    loop {
        let next = Instant::now() + HEALTH;
        match client.report_health(&build).await {
            Ok(Some(at)) if at <= Utc::now() => {
                note("The server ends this build.");
                cancel.cancel();
                return;
            }
            Ok(_) => {}
            // The builder's connection tells sooner than this when it matters.
            Err(error) => tracing::debug!(%error, "health was not reported"),
        }
        sleep_until(next).await;
    }
}

async fn reach(endpoint: Endpoint) -> anyhow::Result<Client> {
    let tls = MutualTls {
        server_name: server_name(&endpoint),
        authority: endpoint.authority,
        certificate: endpoint.certificate,
        key: endpoint.key,
    };
    let mut attempt = 1;
    loop {
        match Client::connect_tls(&endpoint.address, &tls).await {
            Ok(client) => return Ok(client),
            Err(error) if attempt == ATTEMPTS => return Err(error).context("reach the builder"),
            Err(error) => tracing::debug!(%error, "the builder cannot be reached yet"),
        }
        attempt += 1;
        sleep(PAUSE).await;
    }
}

/// The name in the builder's certificate: the address's host when none is given.
fn server_name(endpoint: &Endpoint) -> String {
    if !endpoint.server_name.is_empty() {
        return endpoint.server_name.clone();
    }
    let place = endpoint.address.trim_start_matches("tcp://").trim_end_matches('/');
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Whether somebody stopped the build, here or there.
fn was_canceled(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<SolveError>() {
        Some(SolveError::Canceled) => true,
        Some(error) => error.status().is_some_and(|status| status.code == ErrorCode::Canceled),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_builders() {
        let name = |address: &str, server_name: &str| {
            super::server_name(&Endpoint {
                address: address.into(),
                server_name: server_name.into(),
                authority: String::new(),
                certificate: String::new(),
                key: String::new(),
            })
        };
        assert_eq!(name("tcp://192.0.2.1:8443", "b.builder.internal"), "b.builder.internal");
        assert_eq!(name("tcp://builder.example:8443", ""), "builder.example");
        assert_eq!(name("tcp://[::1]:8443/", ""), "::1");
    }

    #[test]
    fn only_cancellations_are_cancellations() {
        assert!(was_canceled(&SolveError::Canceled.into()));
        assert!(!was_canceled(&anyhow::anyhow!("build canceled")));
    }
}
