//! `PolicyVerifier.CheckPolicy`: the client decides on a source of its build.

use cofferdam_wire::moby::buildkit::v1::sourcepolicy::policysession::{
    CheckPolicyRequest, CheckPolicyResponse, PolicyVerifierClient,
};

use crate::session::{RpcError, Session};

const METHOD: &str = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";

impl Session {
    /// Asks the client what it thinks of a source, once. The answer may be that it wants to know more.
    ///
    /// # Errors
    /// A client that does not answer, or answers with an error: the source is then not to be used.
    pub async fn check_policy(
        &self,
        request: CheckPolicyRequest,
    ) -> Result<CheckPolicyResponse, RpcError> {
        let client = PolicyVerifierClient::new(self.transport().clone(), self.config());
        let answer = client.check_policy_with_options(request, Self::options()).await;
        answer.map(|answer| answer.into_owned()).map_err(|error| RpcError::new(METHOD, error))
    }
}
