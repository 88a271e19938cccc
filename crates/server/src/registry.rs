//! The image registry as part of the server: who may reach it, and what builds may put there.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_access::{Access, Action, Denied, Resource};
use cofferdam_records::Records;
use cofferdam_registry::{
    Authorize, OpenRegistryError, Operation, Permit, Refusal, Registry, RegistryOptions,
};

/// The registry of this server.
pub(crate) fn open(records: Records, data_dir: &Path) -> Result<Registry, OpenRegistryError> {
    Registry::open(RegistryOptions {
        records,
        dir: data_dir.join("registry"),
        trash: data_dir.join("trash"),
        limits: cofferdam_registry::Limits::default(),
    })
}

/// The server's authorization function, as the registry asks it.
pub(crate) struct Gatekeeper(pub(crate) Arc<Access>);

#[async_trait]
impl Authorize for Gatekeeper {
    async fn identify(&self, token: Option<&str>) -> Result<(), Refusal> {
        self.0.identify(token).await.map(|_| ()).map_err(refusal)
    }

    async fn authorize(
        &self,
        token: Option<&str>,
        operation: Operation,
        project: &str,
    ) -> Result<Permit, Refusal> {
        let action = match operation {
            Operation::Pull => Action::Pull,
            Operation::Push => Action::Push,
            Operation::Delete => Action::DeleteImage,
        };
        let grant = self.0.authorize(token, action, Resource::Project(project)).await;
        let grant = grant.map_err(refusal)?;
        let watch = grant.token.as_ref().map(|token| self.0.revocations().watch(&token.id));
        let revoked = watch.as_ref().map(cofferdam_access::Watch::signal);
        Ok(Permit { revoked, held: watch.map(|watch| Arc::new(watch) as _) })
    }
}

fn refusal(denied: Denied) -> Refusal {
    match &denied {
        Denied::Unauthenticated(_) => Refusal::Unauthenticated(denied.to_string()),
        Denied::NotFound { .. } => Refusal::NotFound,
        Denied::Forbidden { .. } => Refusal::Forbidden(denied.to_string()),
        Denied::Unavailable(_) => Refusal::Unavailable,
    }
}
