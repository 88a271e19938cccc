//! `cofferdam.server.v1.BuildService`: what this server offers beyond Depot's API.

use std::collections::HashMap;
use std::sync::Arc;

use cofferdam_access::{Action, Resource};
use cofferdam_records::{ConnectionRecord, PageRequest, RecordsError};
use cofferdam_wire::cofferdam::server::v1 as wire;
use cofferdam_wire::cofferdam::server::v1::BuildService;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};

use super::convert::at;
use super::{Api, failed};

/// The service.
pub(super) struct ServerApi(pub(super) Arc<Api>);

impl BuildService for ServerApi {
    async fn cancel_build(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::CancelBuildRequest>,
    ) -> ServiceResult<wire::CancelBuildResponse> {
        let id = request.to_owned_message().build_id;
        self.0.authorize(&context, Action::CancelBuild, Resource::Build(&id)).await?;
        if let Some(live) = self.0.builds.get(&id) {
            self.0.builds.cancel(&live, "canceled through the API").await;
        }
        Response::ok(wire::CancelBuildResponse::default())
    }

    async fn get_walls(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetWallsRequest>,
    ) -> ServiceResult<wire::GetWallsResponse> {
        let id = request.to_owned_message().build_id;
        let grant = self.0.authorize(&context, Action::ReadBuild, Resource::Build(&id)).await?;
        let isolation = grant.build.map(|build| build.isolation).unwrap_or_default();
        Response::ok(wire::GetWallsResponse { isolation, ..Default::default() })
    }

    async fn list_connections(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListConnectionsRequest>,
    ) -> ServiceResult<wire::ListConnectionsResponse> {
        let request = request.to_owned_message();
        let id = &request.build_id;
        self.0.authorize(&context, Action::ReadBuild, Resource::Build(id)).await?;
        let page = PageRequest { size: request.page_size, token: request.page_token.as_deref() };
        let page = self.0.records.connections(id, page).await.map_err(failed)?;
        let names = self.0.step_names(id, &page.items).await.map_err(failed)?;
        let connections = page.items.into_iter().map(|connection| wire::StepConnection {
            step_name: names.get(&connection.step).cloned().unwrap_or_default(),
            step_digest: connection.step,
            protocol: connection.protocol,
            host: connection.host,
            address: connection.address,
            port: u32::from(connection.port),
            allowed: connection.allowed,
            sent_bytes: connection.sent,
            received_bytes: connection.received,
            opened_at: at(connection.opened_at),
            ..Default::default()
        });
        Response::ok(wire::ListConnectionsResponse {
            connections: connections.collect(),
            next_page_token: page.next.unwrap_or_default(),
            ..Default::default()
        })
    }
}

impl Api {
    /// Names of the steps that some connections belong to.
    async fn step_names(
        &self,
        build: &str,
        connections: &[ConnectionRecord],
    ) -> Result<HashMap<String, String>, RecordsError> {
        let mut names = HashMap::new();
        for connection in connections {
            if names.contains_key(&connection.step) {
                continue;
            }
            let step = self.records.step_by_digest(build, &connection.step).await?;
            names.insert(connection.step.clone(), step.map(|step| step.name).unwrap_or_default());
        }
        Ok(names)
    }
}
