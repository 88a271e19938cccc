//! `depot.core.v1.ProjectService`: projects, their tokens and whom they trust.
//!
//! Tokens and trust policies are in the modules beside this one; this one has the projects themselves and hands the rest on.

use std::sync::Arc;

use cofferdam_access::{Action, Resource};
use cofferdam_records::{CachePolicy, NewProject, PageRequest, Project, ProjectChange};
use cofferdam_wire::depot::core::v1 as wire;
use cofferdam_wire::depot::core::v1::ProjectService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

use super::convert::at;
use super::{Api, failed};

/// Longest name of a project.
const MAX_NAME: usize = 200;
/// Longest region.
const MAX_REGION: usize = 64;
/// The region of projects that name none, as the `depot` program has it.
const DEFAULT_REGION: &str = "us-east-1";
/// Bytes of a GB in cache policies.
const GB: i64 = 1 << 30;

/// Projects of a page whose size nobody gave, the most there can be: older SDKs know no pages and see only the first.
const MOST_PROJECTS: i32 = 250;

/// The service.
pub(super) struct ProjectApi(pub(super) Arc<Api>);

impl ProjectService for ProjectApi {
    async fn list_projects(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListProjectsRequest>,
    ) -> ServiceResult<wire::ListProjectsResponse> {
        let request = request.to_owned_message();
        let resource = Resource::Organization(None);
        let grant = self.0.authorize(&context, Action::ListProjects, resource).await?;
        let region = request.region_id.as_deref().filter(|region| !region.is_empty());
        let size = request.page_size.or(Some(MOST_PROJECTS));
        let page = PageRequest { size, token: request.page_token.as_deref() };
        let page =
            self.0.records.projects(&grant.organization, region, page).await.map_err(failed)?;
        Response::ok(wire::ListProjectsResponse {
            projects: page.items.into_iter().map(project).collect(),
            next_page_token: Some(page.next.unwrap_or_default()),
            ..Default::default()
        })
    }

    async fn get_project(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::GetProjectRequest>,
    ) -> ServiceResult<wire::GetProjectResponse> {
        let id = request.to_owned_message().project_id;
        let resource = Resource::Project(&id);
        let grant = self.0.authorize(&context, Action::ReadProject, resource).await?;
        Response::ok(wire::GetProjectResponse {
            project: grant.project.map(project).into(),
            ..Default::default()
        })
    }

    async fn create_project(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::CreateProjectRequest>,
    ) -> ServiceResult<wire::CreateProjectResponse> {
        let request = request.to_owned_message();
        let organization = request.organization_id.as_deref().filter(|id| !id.is_empty());
        let resource = Resource::Organization(organization);
        let grant = self.0.authorize(&context, Action::CreateProject, resource).await?;
        let region = if request.region_id.is_empty() { DEFAULT_REGION } else { &request.region_id };
        let new = NewProject {
            organization: grant.organization,
            name: name(&request.name)?,
            region: region_id(region)?,
            cache: request.cache_policy.as_option().map(cache).transpose()?.unwrap_or_default(),
            hardware: request.hardware.map_or(Ok(0), |known| hardware(known.to_i32()))?,
        };
        let created = self.0.records.create_project(new).await.map_err(failed)?;
        tracing::info!(
            project = created.id,
            organization = created.organization,
            "a project was created"
        );
        Response::ok(wire::CreateProjectResponse {
            project: Some(project(created)).into(),
            ..Default::default()
        })
    }

    async fn update_project(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::UpdateProjectRequest>,
    ) -> ServiceResult<wire::UpdateProjectResponse> {
        let request = request.to_owned_message();
        let id = &request.project_id;
        self.0.authorize(&context, Action::ChangeProject, Resource::Project(id)).await?;
        let change = ProjectChange {
            name: request.name.as_deref().map(name).transpose()?,
            region: request.region_id.as_deref().map(region_id).transpose()?,
            cache: request.cache_policy.as_option().map(cache).transpose()?,
            hardware: request.hardware.map(|known| hardware(known.to_i32())).transpose()?,
        };
        let changed = self.0.records.update_project(id, change).await.map_err(failed)?;
        let changed = changed.ok_or_else(|| {
            ConnectError::not_found(format!("project {id} was deleted at this moment"))
        })?;
        Response::ok(wire::UpdateProjectResponse {
            project: Some(project(changed)).into(),
            ..Default::default()
        })
    }

    async fn delete_project(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::DeleteProjectRequest>,
    ) -> ServiceResult<wire::DeleteProjectResponse> {
        let id = request.to_owned_message().project_id;
        self.0.authorize(&context, Action::DeleteProject, Resource::Project(&id)).await?;
        self.0.builds.delete(&id).await.map_err(failed)?;
        Response::ok(wire::DeleteProjectResponse::default())
    }

    async fn reset_project(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ResetProjectRequest>,
    ) -> ServiceResult<wire::ResetProjectResponse> {
        let id = request.to_owned_message().project_id;
        self.0.authorize(&context, Action::ResetProject, Resource::Project(&id)).await?;
        self.0.builds.reset(&id).await.map_err(failed)?;
        Response::ok(wire::ResetProjectResponse::default())
    }

    async fn list_trust_policies(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListTrustPoliciesRequest>,
    ) -> ServiceResult<wire::ListTrustPoliciesResponse> {
        self.0.list_trust_policies(&context, request.to_owned_message()).await
    }

    async fn add_trust_policy(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::AddTrustPolicyRequest>,
    ) -> ServiceResult<wire::AddTrustPolicyResponse> {
        self.0.add_trust_policy(&context, request.to_owned_message()).await
    }

    async fn remove_trust_policy(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::RemoveTrustPolicyRequest>,
    ) -> ServiceResult<wire::RemoveTrustPolicyResponse> {
        self.0.remove_trust_policy(&context, request.to_owned_message()).await
    }

    async fn list_tokens(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListTokensRequest>,
    ) -> ServiceResult<wire::ListTokensResponse> {
        self.0.list_tokens(&context, &request.to_owned_message().project_id).await
    }

    async fn create_token(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::CreateTokenRequest>,
    ) -> ServiceResult<wire::CreateTokenResponse> {
        self.0.create_token(&context, request.to_owned_message()).await
    }

    async fn update_token(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::UpdateTokenRequest>,
    ) -> ServiceResult<wire::UpdateTokenResponse> {
        self.0.update_token(&context, request.to_owned_message()).await
    }

    async fn delete_token(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::DeleteTokenRequest>,
    ) -> ServiceResult<wire::DeleteTokenResponse> {
        self.0.delete_token(&context, &request.to_owned_message().token_id).await
    }
}

fn name(name: &str) -> Result<String, ConnectError> {
    let name = name.trim();
    let plain = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    plain.then(|| name.to_owned()).ok_or_else(|| {
        ConnectError::invalid_argument(format!(
            "name: expected 1 to {MAX_NAME} bytes without control characters"
        ))
    })
}

fn region_id(region: &str) -> Result<String, ConnectError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let known = !region.is_empty() && region.len() <= MAX_REGION && region.bytes().all(plain);
    known.then(|| region.to_owned()).ok_or_else(|| {
        ConnectError::invalid_argument(
            "region_id: expected lower-case letters, digits and dashes, such as us-east-1",
        )
    })
}

fn hardware(number: i32) -> Result<i32, ConnectError> {
    if crate::hardware::is_known(number) {
        return Ok(number);
    }
    Err(ConnectError::invalid_argument(format!("hardware: there is no size number {number}")))
}

/// Both forms of a policy: GB where there are any, else bytes.
fn cache(policy: &wire::CachePolicy) -> Result<CachePolicy, ConnectError> {
    let bytes = policy.keep_bytes.unwrap_or(0);
    if policy.keep_gb < 0 || policy.keep_days < 0 || bytes < 0 {
        return Err(ConnectError::invalid_argument("cache_policy: negative values mean nothing"));
    }
    let of_bytes = || i32::try_from(bytes / GB + i64::from(bytes % GB > 0)).unwrap_or(i32::MAX);
    let keep_gb = if policy.keep_gb > 0 { policy.keep_gb } else { of_bytes() };
    Ok(CachePolicy { keep_gb, keep_days: policy.keep_days })
}

/// A project as the wire has it; the cache policy in both forms, because clients read one or the other.
pub(super) fn project(project: Project) -> wire::Project {
    wire::Project {
        project_id: project.id,
        organization_id: project.organization,
        name: project.name,
        region_id: project.region,
        created_at: at(project.created_at),
        cache_policy: Some(wire::CachePolicy {
            keep_bytes: Some(i64::from(project.cache.keep_gb) * GB),
            keep_days: project.cache.keep_days,
            keep_gb: project.cache.keep_gb,
            ..Default::default()
        })
        .into(),
        hardware: project.hardware.into(),
        ..Default::default()
    }
}
