//! Running a build: announcing it, getting to its builder, saying how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use cofferdam_wire::depot::cli::v1 as wire;
use cofferdam_wire::depot::cli::v1::__buffa::oneof::finish_build_request::Result as WireOutcome;
use cofferdam_wire::depot::cli::v1::__buffa::oneof::get_build_kit_connection_response::Connection as WireConnection;

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::time;

/// Bounds of the pause between two questions for a builder, whatever the server asks for.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Header by which a level of isolation is demanded: the message is another's.
const ISOLATION_HEADER: &str = "cofferdam-isolation";

/// Longest reason that is reported for a failed build.
const MAX_REASON: usize = 16 << 10;

/// What is announced about a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOrder {
    /// The project; the token's only one when absent.
    pub project: Option<String>,
    /// Names of the image.
    pub tags: Vec<String>,
    /// Kind and attributes of each output.
    pub outputs: Vec<(String, BTreeMap<String, String>)>,
    /// Whether the image is pushed.
    pub push: bool,
    /// Whether the image is loaded on this machine.
    pub load: bool,
    /// The stage that is built.
    pub target: Option<String>,
    /// Whether the image is kept in the project's registry.
    pub save: bool,
    /// Further names there.
    pub save_tags: Vec<String>,
    /// The level of isolation that it has at least.
    pub isolation: Option<String>,
}

/// A build that was announced.
#[derive(Clone, PartialEq, Eq)]
pub struct StartedBuild {
    /// Its identity.
    pub id: String,
    /// The token for everything else about it.
    pub token: String,
    /// Its page; empty when the server has none.
    pub url: String,
    /// Its project; empty when the server does not say.
    pub project: String,
    /// Where to push an image that is saved.
    pub save_names: Vec<String>,
    /// Registries that the build may push to.
    pub logins: Vec<RegistryLogin>,
}

/// How to log in to a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// Host and port.
    pub host: String,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for StartedBuild {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StartedBuild").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RegistryLogin").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The answer to the question for a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// It is being started: ask again after this pause.
    Pending(Duration),
    /// It is there.
    Ready(Endpoint),
}

/// Where a build's builder is, and what both sides show.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `tcp://HOST:PORT`.
    pub address: String,
    /// The name in its certificate.
    pub server_name: String,
    /// The authority of its certificate, PEM.
    pub authority: String,
    /// The build's certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// Not well, for this reason.
    Error(String),
    /// Before it was done, because somebody wanted so.
    Canceled,
}

fn options(order: BuildOrder) -> wire::BuildOptions {
    let outputs = order.outputs.into_iter().map(|(kind, attributes)| wire::BuildOutput {
        kind,
        attributes: attributes.into_iter().collect(),
        ..Default::default()
    });
    wire::BuildOptions {
        command: wire::Command::COMMAND_BUILD.into(),
        tags: order.tags,
        outputs: outputs.collect(),
        push: order.push,
        load: order.load,
        target_name: order.target,
        save: order.save,
        save_tags: order.save_tags,
        ..Default::default()
    }
}

/// `user:password` in base64; whatever else it may be opens nothing.
fn login(credential: wire::create_build_response::Credential) -> Option<RegistryLogin> {
    let text = String::from_utf8(STANDARD.decode(credential.token).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(RegistryLogin {
        host: credential.host,
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

fn connection(answer: wire::GetBuildKitConnectionResponse) -> Result<Connection, ApiError> {
    let active = match answer.connection {
        None => return Ok(Connection::Pending(PAUSES.1)),
        Some(WireConnection::Pending(pending)) => {
            let asked = Duration::from_millis(u64::try_from(pending.wait_ms).unwrap_or(0));
            return Ok(Connection::Pending(asked.clamp(PAUSES.0, PAUSES.1)));
        }
        Some(WireConnection::Active(active)) => active,
    };
    let missing = |what| ApiError::Incomplete { what };
    let own = active.cert.into_option().unwrap_or_default();
    let authority = active.ca_cert.into_option().unwrap_or_default().cert;
    if own.cert.is_empty() || own.key.is_empty() {
        return Err(missing("certificate for this build"));
    }
    if authority.is_empty() {
        return Err(missing("certificate authority of the builder"));
    }
    if active.endpoint.is_empty() {
        return Err(missing("address of the builder"));
    }
    Ok(Connection::Ready(Endpoint {
        address: active.endpoint,
        server_name: active.server_name,
        authority,
        certificate: own.cert,
        key: own.key,
    }))
}

fn outcome(outcome: Outcome) -> WireOutcome {
    match outcome {
        Outcome::Success => wire::finish_build_request::BuildSuccess::default().into(),
        Outcome::Canceled => wire::finish_build_request::BuildCanceled::default().into(),
        Outcome::Error(mut error) => {
            let mut end = error.len().min(MAX_REASON);
            while !error.is_char_boundary(end) {
                end -= 1;
            }
            error.truncate(end);
            wire::finish_build_request::BuildError { error, ..Default::default() }.into()
        }
    }
}

impl ApiClient {
    /// Announces a build.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn create_build(&self, order: BuildOrder) -> Result<StartedBuild, ApiError> {
        let mut settings = Self::quick();
        if let Some(isolation) = &order.isolation {
            settings = settings.with_header(ISOLATION_HEADER, isolation.as_str());
        }
        let request = wire::CreateBuildRequest {
            project_id: order.project.clone(),
            options: vec![options(order)],
            ..Default::default()
        };
        let call = self.run_service().create_build_with_options(request, settings).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        if answer.build_id.is_empty() || answer.build_token.is_empty() {
            return Err(ApiError::Incomplete { what: "build" });
        }
        Ok(StartedBuild {
            id: answer.build_id,
            token: answer.build_token,
            url: answer.build_url,
            project: answer.project_id,
            save_names: answer.additional_tags.into_iter().map(|tag| tag.tag).collect(),
            logins: answer.additional_credentials.into_iter().filter_map(login).collect(),
        })
    }

    /// Asks for the builder of a build. Wants the build's token.
    ///
    /// # Errors
    /// See [`ApiError`]; also when the server offers a builder without certificates.
    pub async fn builder_connection(&self, build: &str) -> Result<Connection, ApiError> {
        let request = wire::GetBuildKitConnectionRequest {
            build_id: build.to_owned(),
            platform: platform().into(),
            ..Default::default()
        };
        let call =
            self.run_service().get_build_kit_connection_with_options(request, Self::quick()).await;
        connection(call.map_err(|error| self.failed(error))?.into_owned())
    }

    /// Says that a build is still wanted; gives the moment it will be cancelled. Wants the build's token.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn report_health(&self, build: &str) -> Result<Option<DateTime<Utc>>, ApiError> {
        let request = wire::ReportBuildHealthRequest {
            build_id: build.to_owned(),
            platform: platform().into(),
            ..Default::default()
        };
        let call =
            self.run_service().report_build_health_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        Ok(time::read(&answer.cancels_at))
    }

    /// Says how a build ended. Wants the build's token.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn finish_build(&self, build: &str, ended: Outcome) -> Result<(), ApiError> {
        let request = wire::FinishBuildRequest {
            build_id: build.to_owned(),
            result: Some(outcome(ended)),
            ..Default::default()
        };
        let call = self.run_service().finish_build_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }
}

/// The kind of machine this program runs on: what a build gets that asks for no platform.
const fn platform() -> wire::BuilderPlatform {
    if cfg!(target_arch = "aarch64") {
        wire::BuilderPlatform::BUILDER_PLATFORM_ARM64
    } else {
        wire::BuilderPlatform::BUILDER_PLATFORM_AMD64
    }
}

#[cfg(test)]
#[path = "build_run_tests.rs"]
mod tests;
