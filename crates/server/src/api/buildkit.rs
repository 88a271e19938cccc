//! `depot.buildkit.v1.BuildKitService`: the endpoint of a build's builder, for programs that speak BuildKit's API themselves.

use std::sync::Arc;
use std::time::Duration;

use buffa::MessageField;
use cofferdam_access::{Action, Resource};
use cofferdam_records::{Build, BuildStatus};
use cofferdam_wire::depot::buildkit::v1 as wire;
use cofferdam_wire::depot::buildkit::v1::BuildKitService;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::StreamExt;
use wire::__buffa::oneof::get_endpoint_response::Connection;

use super::cli_build::no_endpoint;
use super::{Api, failed, origin};
use crate::builds::{EndpointError, Outcome, ended_already};

/// How often a client is told that it still has to wait.
const STILL_WAITING: Duration = Duration::from_secs(1);

/// The service.
pub(super) struct BuildKitApi(pub(super) Arc<Api>);

impl BuildKitService for BuildKitApi {
    async fn get_endpoint(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetEndpointRequest>,
    ) -> ServiceResult<ServiceStream<wire::GetEndpointResponse>> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
        let endpoint = format!("tcp://{}", origin(&context).host_port());
        let api = Arc::clone(&self.0);
        let state = Some((api, id, endpoint));
        let answers = futures::stream::unfold(state, |state| async {
            let (api, id, endpoint) = state?;
            match api.endpoint(&id).await {
                Ok(active) => Some((Ok(answer(&active, &endpoint)), None)),
                Err(EndpointError::Wait(_)) => {
                    tokio::time::sleep(STILL_WAITING).await;
                    let pending = wire::GetEndpointResponse {
                        connection: Some(Connection::Pending(Box::default())),
                        ..Default::default()
                    };
                    Some((Ok(pending), Some((api, id, endpoint))))
                }
                Err(error) => Some((Err(no_endpoint(error)), None)),
            }
        });
        Response::stream_ok(answers)
    }

    async fn report_health(
        &self,
        context: RequestContext,
        mut requests: InboundStream<wire::ReportHealthRequest>,
    ) -> ServiceResult<wire::ReportHealthResponse> {
        let mut open = None;
        while let Some(request) = requests.next().await {
            let id = request?.to_owned_message().build_id;
            self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
            let Some(live) = self.0.builds.get(&id).filter(|live| live.is_running()) else {
                return Err(ConnectError::failed_precondition(format!("build {id} has ended")));
            };
            live.sign();
            // For as long as the stream is open, its client lives.
            if open.is_none() {
                open = live.connection();
            }
        }
        drop(open);
        Response::ok(wire::ReportHealthResponse::default())
    }

    async fn release_endpoint(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ReleaseEndpointRequest>,
    ) -> ServiceResult<wire::ReleaseEndpointResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::ConnectBuild, Resource::Build(&id)).await?;
        // The build goes on until it is finished: a client may ask for another platform's endpoint. The builder is kept or
        // stopped by whether builds use it, not by this call.
        Response::ok(wire::ReleaseEndpointResponse::default())
    }
}

fn answer(active: &crate::builds::Connection, endpoint: &str) -> wire::GetEndpointResponse {
    let certificate = |pem: &str| {
        MessageField::some(wire::PublicCertificate { cert: pem.to_owned(), ..Default::default() })
    };
    let active = wire::get_endpoint_response::ActiveConnection {
        endpoint: endpoint.to_owned(),
        server_name: active.server_name.clone(),
        cert: MessageField::some(wire::CertificatePair {
            cert: certificate(&active.certificate),
            key: MessageField::some(wire::PrivateKey {
                key: active.key.clone(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ca_cert: certificate(&active.authority),
        ..Default::default()
    };
    wire::GetEndpointResponse {
        connection: Some(Connection::Active(Box::new(active))),
        ..Default::default()
    }
}

impl Api {
    /// The builder of a build that the caller may connect to.
    pub(super) async fn endpoint(
        &self,
        build: &str,
    ) -> Result<crate::builds::Connection, EndpointError> {
        match self.builds.get(build) {
            Some(live) => self.builds.endpoint(&live).await,
            None => Err(EndpointError::Ended(build.to_owned())),
        }
    }

    /// Ends a build that the caller may end. One that has ended stays as it is, and the caller is told when that is not what it
    /// says.
    pub(super) async fn finish(&self, build: &str, outcome: Outcome) -> Result<(), ConnectError> {
        let said = outcome.status();
        if let Some(live) = self.builds.get(build) {
            self.builds.end(&live, outcome).await;
        }
        // One that is gone with its project has no end to differ from.
        let recorded = self.records.build(build).await.map_err(failed)?;
        recorded.map_or(Ok(()), |recorded| agrees(said, &recorded))
    }
}

/// Whether a build has ended as its client says. What a client takes for a failure can be a builder that was lost: to both of
/// them the build came to nothing.
fn agrees(said: BuildStatus, recorded: &Build) -> Result<(), ConnectError> {
    match recorded.status {
        // Its end could not be recorded at once, and is as soon as it can be.
        BuildStatus::Running => Ok(()),
        status if status == said => Ok(()),
        BuildStatus::Error if said == BuildStatus::Failed => Ok(()),
        _ => Err(ConnectError::failed_precondition(ended_already(recorded))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_records::{NewBuild, Records};
    use connectrpc::ErrorCode;

    use super::*;

    #[tokio::test]
    async fn another_end_than_the_recorded_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        let new = NewBuild {
            id: None,
            project: "project".to_owned(),
            organization: "organization".to_owned(),
            token: None,
            command: 1,
            options: "[]".to_owned(),
        };
        let id = records.create_build(new).await.unwrap().id;
        let lost = Some("the builder is gone\nand more");
        records.finish_build(&id, BuildStatus::Error, lost, chrono::Utc::now()).await.unwrap();
        let recorded = records.build(&id).await.unwrap().unwrap();
        agrees(BuildStatus::Error, &recorded).unwrap();
        agrees(BuildStatus::Failed, &recorded).unwrap();
        for said in [BuildStatus::Success, BuildStatus::Canceled] {
            let error = agrees(said, &recorded).unwrap_err();
            assert_eq!(error.code, ErrorCode::FailedPrecondition);
            let message = error.message.unwrap();
            assert!(message.ends_with("recorded as broken off: the builder is gone"), "{message}");
        }
        let running = Build { status: BuildStatus::Running, ..recorded };
        agrees(BuildStatus::Success, &running).unwrap();
    }
}
