//! Trust policies: whose jobs may build in a project without a stored token.

use cofferdam_wire::depot::core::v1 as wire;
use cofferdam_wire::depot::core::v1::__buffa::oneof::add_trust_policy_request::Provider as NewProvider;
use cofferdam_wire::depot::core::v1::__buffa::oneof::trust_policy::Provider as WireProvider;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;

/// A trust policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrustPolicy {
    /// Its identity.
    pub id: String,
    /// Whom it trusts; absent when this program does not know the kind.
    pub provider: Option<Provider>,
}

/// Whose jobs are trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Provider {
    /// A repository's workflows.
    GitHub {
        /// The user or organization.
        owner: String,
        /// The repository, without its owner.
        repository: String,
    },
    /// A project's jobs.
    CircleCi {
        /// The organization's UUID.
        organization: String,
        /// The project's UUID.
        project: String,
    },
    /// A pipeline's jobs.
    Buildkite {
        /// The organization's slug.
        organization: String,
        /// The pipeline's slug.
        pipeline: String,
    },
}

impl From<WireProvider> for Provider {
    fn from(provider: WireProvider) -> Self {
        match provider {
            WireProvider::Github(github) => {
                Self::GitHub { owner: github.repository_owner, repository: github.repository }
            }
            WireProvider::Circleci(circle) => Self::CircleCi {
                organization: circle.organization_uuid,
                project: circle.project_uuid,
            },
            WireProvider::Buildkite(buildkite) => Self::Buildkite {
                organization: buildkite.organization_slug,
                pipeline: buildkite.pipeline_slug,
            },
        }
    }
}

impl From<Provider> for NewProvider {
    fn from(provider: Provider) -> Self {
        match provider {
            Provider::GitHub { owner, repository } => wire::trust_policy::GitHub {
                repository_owner: owner,
                repository,
                ..Default::default()
            }
            .into(),
            Provider::CircleCi { organization, project } => wire::trust_policy::CircleCI {
                organization_uuid: organization,
                project_uuid: project,
                ..Default::default()
            }
            .into(),
            Provider::Buildkite { organization, pipeline } => wire::trust_policy::Buildkite {
                organization_slug: organization,
                pipeline_slug: pipeline,
                ..Default::default()
            }
            .into(),
        }
    }
}

impl From<wire::TrustPolicy> for TrustPolicy {
    fn from(policy: wire::TrustPolicy) -> Self {
        Self { id: policy.trust_policy_id, provider: policy.provider.map(Provider::from) }
    }
}

impl ApiClient {
    /// The trust policies of a project.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn trust_policies(&self, project: &str) -> Result<Vec<TrustPolicy>, ApiError> {
        let request =
            wire::ListTrustPoliciesRequest { project_id: project.to_owned(), ..Default::default() };
        let call =
            self.project_service().list_trust_policies_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        Ok(answer.trust_policies.into_iter().map(TrustPolicy::from).collect())
    }

    /// Trusts somebody.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn add_trust_policy(
        &self,
        project: &str,
        provider: Provider,
    ) -> Result<TrustPolicy, ApiError> {
        let request = wire::AddTrustPolicyRequest {
            project_id: project.to_owned(),
            provider: Some(provider.into()),
            ..Default::default()
        };
        let call =
            self.project_service().add_trust_policy_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let policy = answer.trust_policy.into_option();
        policy.map(TrustPolicy::from).ok_or(ApiError::Incomplete { what: "trust policy" })
    }

    /// Trusts somebody no longer.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn remove_trust_policy(&self, project: &str, id: &str) -> Result<(), ApiError> {
        let request = wire::RemoveTrustPolicyRequest {
            project_id: project.to_owned(),
            trust_policy_id: id.to_owned(),
            ..Default::default()
        };
        let call =
            self.project_service().remove_trust_policy_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }
}
