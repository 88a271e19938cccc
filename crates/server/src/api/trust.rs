//! Trust policies: which jobs of CI providers may build in a project without a token of ours.

use cofferdam_access::{Action, Resource};
use cofferdam_records::{Provider, TrustPolicy};
use cofferdam_wire::depot::core::v1 as wire;
use connectrpc::{ConnectError, RequestContext, Response, ServiceResult};
use wire::__buffa::oneof::{add_trust_policy_request, trust_policy};

use super::{Api, failed};

/// Longest name of an owner, repository, organization or pipeline.
const MAX_NAME: usize = 200;

impl Api {
    pub(super) async fn list_trust_policies(
        &self,
        context: &RequestContext,
        request: wire::ListTrustPoliciesRequest,
    ) -> ServiceResult<wire::ListTrustPoliciesResponse> {
        let project = &request.project_id;
        self.authorize(context, Action::ManageTrust, Resource::Project(project)).await?;
        let policies = self.records.trust_policies(project).await.map_err(failed)?;
        Response::ok(wire::ListTrustPoliciesResponse {
            trust_policies: policies.into_iter().map(policy).collect(),
            ..Default::default()
        })
    }

    pub(super) async fn add_trust_policy(
        &self,
        context: &RequestContext,
        request: wire::AddTrustPolicyRequest,
    ) -> ServiceResult<wire::AddTrustPolicyResponse> {
        let project = &request.project_id;
        self.authorize(context, Action::ManageTrust, Resource::Project(project)).await?;
        let provider = provider(request.provider)?;
        let added = self.records.add_trust_policy(project, provider).await.map_err(failed)?;
        Response::ok(wire::AddTrustPolicyResponse {
            trust_policy: Some(policy(added)).into(),
            ..Default::default()
        })
    }

    pub(super) async fn remove_trust_policy(
        &self,
        context: &RequestContext,
        request: wire::RemoveTrustPolicyRequest,
    ) -> ServiceResult<wire::RemoveTrustPolicyResponse> {
        let (project, id) = (&request.project_id, &request.trust_policy_id);
        self.authorize(context, Action::ManageTrust, Resource::Project(project)).await?;
        if !self.records.remove_trust_policy(project, id).await.map_err(failed)? {
            return Err(ConnectError::not_found(format!(
                "project {project} has no trust policy {id}"
            )));
        }
        Response::ok(wire::RemoveTrustPolicyResponse::default())
    }
}

fn provider(given: Option<add_trust_policy_request::Provider>) -> Result<Provider, ConnectError> {
    use add_trust_policy_request::Provider as Given;
    match given {
        Some(Given::Github(github)) => Ok(Provider::GitHub {
            owner: name("github.repository_owner", github.repository_owner)?,
            repository: name("github.repository", github.repository)?,
        }),
        Some(Given::Circleci(circleci)) => Ok(Provider::CircleCi {
            organization: uuid("circleci.organization_uuid", &circleci.organization_uuid)?,
            project: uuid("circleci.project_uuid", &circleci.project_uuid)?,
        }),
        Some(Given::Buildkite(buildkite)) => Ok(Provider::Buildkite {
            organization: name("buildkite.organization_slug", buildkite.organization_slug)?,
            pipeline: name("buildkite.pipeline_slug", buildkite.pipeline_slug)?,
        }),
        None => Err(ConnectError::invalid_argument(
            "provider is missing: github, circleci or buildkite",
        )),
    }
}

/// Providers' names are one path segment; anything else can never match a token.
fn name(field: &str, name: String) -> Result<String, ConnectError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(ConnectError::invalid_argument(format!(
        "{field}: expected letters, digits, dashes, dots and underscores, without slashes"
    )))
}

/// CircleCI's ids, in the form its tokens have them.
fn uuid(field: &str, text: &str) -> Result<String, ConnectError> {
    let form = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    if text.len() == 36 && text.bytes().enumerate().all(form) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(ConnectError::invalid_argument(format!("{field}: expected a UUID")))
}

fn policy(policy: TrustPolicy) -> wire::TrustPolicy {
    use trust_policy::Provider as Known;
    let provider = match policy.provider {
        Provider::GitHub { owner, repository } => {
            Known::Github(Box::new(wire::trust_policy::GitHub {
                repository_owner: owner,
                repository,
                ..Default::default()
            }))
        }
        Provider::CircleCi { organization, project } => {
            Known::Circleci(Box::new(wire::trust_policy::CircleCI {
                organization_uuid: organization,
                project_uuid: project,
                ..Default::default()
            }))
        }
        Provider::Buildkite { organization, pipeline } => {
            Known::Buildkite(Box::new(wire::trust_policy::Buildkite {
                organization_slug: organization,
                pipeline_slug: pipeline,
                ..Default::default()
            }))
        }
    };
    wire::TrustPolicy { trust_policy_id: policy.id, provider: Some(provider), ..Default::default() }
}
