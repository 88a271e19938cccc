//! `depot.cli.v1beta1.ProjectsService`: what the `depot` program lists and resets.

use std::sync::Arc;

use cofferdam_access::{Action, Grant, Principal, Resource};
use cofferdam_records::{PageRequest, Project};
use cofferdam_wire::depot::cli::v1beta1 as wire;
use cofferdam_wire::depot::cli::v1beta1::ProjectsService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

use super::{Api, failed};

/// The list has no pages: more projects than this are not shown in a terminal's picker.
const MOST: usize = 10_000;
/// Projects read at a time.
const AT_ONCE: i32 = 250;

/// The service.
pub(super) struct ProjectsApi(pub(super) Arc<Api>);

impl ProjectsService for ProjectsApi {
    async fn list_projects(
        &self,
        context: RequestContext,
        _request: ServiceRequest<'_, wire::ListProjectsRequest>,
    ) -> ServiceResult<wire::ListProjectsResponse> {
        let resource = Resource::Organization(None);
        let grant = self.0.authorize(&context, Action::FindProjects, resource).await?;
        let mut projects = Vec::new();
        if let Principal::Project { .. } | Principal::Oidc { .. } = grant.principal {
            for project in self.own(&grant).await? {
                // A JWT may be trusted in several organizations.
                let organization = self.organization(&project.organization).await?;
                projects.push(listed(project, &organization));
            }
            return Response::ok(wire::ListProjectsResponse { projects, ..Default::default() });
        }
        let organization = self.organization(&grant.organization).await?;
        let mut token: Option<String> = None;
        while projects.len() < MOST {
            let request = PageRequest { size: Some(AT_ONCE), token: token.as_deref() };
            let records = &self.0.records;
            let page = records.projects(&grant.organization, None, request).await;
            let page = page.map_err(failed)?;
            projects.extend(page.items.into_iter().map(|project| listed(project, &organization)));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        Response::ok(wire::ListProjectsResponse { projects, ..Default::default() })
    }

    async fn reset_project_cache(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ResetProjectCacheRequest>,
    ) -> ServiceResult<wire::ResetProjectCacheResponse> {
        let id = request.to_owned_message().project_id;
        let resource = Resource::Project(&id);
        let grant = self.0.authorize(&context, Action::ResetProject, resource).await?;
        self.0.builds.reset(&id).await.map_err(failed)?;
        Response::ok(wire::ResetProjectCacheResponse {
            name: grant.project.map(|project| project.name).unwrap_or_default(),
            org_name: self.organization(&grant.organization).await?,
            ..Default::default()
        })
    }
}

fn listed(project: Project, organization: &str) -> wire::list_projects_response::Project {
    wire::list_projects_response::Project {
        id: project.id,
        name: project.name,
        org_id: project.organization,
        org_name: organization.to_owned(),
        ..Default::default()
    }
}

impl ProjectsApi {
    /// The projects that a token of a project, or a JWT, belongs to.
    async fn own(&self, grant: &Grant) -> Result<Vec<Project>, ConnectError> {
        match &grant.principal {
            Principal::Oidc { projects, .. } => Ok(projects.clone()),
            Principal::Project { project, .. } => {
                let found = self.0.records.project(project).await.map_err(failed)?;
                Ok(found.into_iter().collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn organization(&self, id: &str) -> Result<String, ConnectError> {
        let found = self.0.records.organization(id).await.map_err(failed)?;
        Ok(found.map(|organization| organization.name).unwrap_or_default())
    }
}
