//! `depot.core.v1.OrganizationService`: the one organization that a token belongs to.

use std::sync::Arc;

use cofferdam_access::{Action, Resource};
use cofferdam_wire::depot::core::v1 as wire;
use cofferdam_wire::depot::core::v1::OrganizationService;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};

use super::convert::at;
use super::{Api, failed};

/// The service.
pub(super) struct OrganizationApi(pub(super) Arc<Api>);

impl OrganizationService for OrganizationApi {
    async fn list_organizations(
        &self,
        context: RequestContext,
        _request: ServiceRequest<'_, wire::ListOrganizationsRequest>,
    ) -> ServiceResult<wire::ListOrganizationsResponse> {
        let resource = Resource::Organization(None);
        let grant = self.0.authorize(&context, Action::ListOrganizations, resource).await?;
        let found = self.0.records.organization(&grant.organization).await.map_err(failed)?;
        let organizations = found.into_iter().map(|organization| wire::Organization {
            org_id: organization.id,
            name: organization.name,
            created_at: at(organization.created_at),
            ..Default::default()
        });
        Response::ok(wire::ListOrganizationsResponse {
            organizations: organizations.collect(),
            ..Default::default()
        })
    }
}
