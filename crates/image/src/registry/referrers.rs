//! Referrers: manifests that are about another one, such as signatures.
//!
//! What a registry lists here is anybody's claim: it is for the reader to find out what a referrer is worth.

use cofferdam_digest::Digest;
use http::Method;

use super::client::{Access, Repository};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::pull::accept_header;
use super::transport::{read_bounded, refusal};
use crate::{Descriptor, Document, DocumentError, MAX_DOCUMENT, media};

impl Repository {
    /// What refers to manifest `digest`, as far as the registry lists it in one answer. Registries that have no such lists are
    /// asked for the tag that stands for one.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        let endpoints = self.endpoints(Access::Pull)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.referrers_at(endpoint, digest).await {
                Ok(found) => return Ok(found),
                Err(error) if number < last && self.try_next(endpoint, Access::Pull, &error) => {}
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error),
            }
        }
        match self.fetch(&format!("sha256-{}", digest.hex())).await {
            Ok(fetched) => Ok(listed(fetched.document)),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn referrers_at(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let rest = format!("referrers/{digest}");
        let refuse = |source| RegistryError::Document { what: self.what(&rest), source };
        let mut request = self.request(endpoint, Method::GET, &rest);
        request.headers = accept_header(media::OCI_INDEX);
        let response = self.call(endpoint, &request, &self.scopes(endpoint, Access::Pull)).await?;
        if !response.status().is_success() {
            return Err(refusal(&Method::GET, &self.what(&rest), response).await);
        }
        let bytes = read_bounded(response, MAX_DOCUMENT, self.client.transport.config.read_timeout)
            .await?
            .ok_or_else(|| refuse(DocumentError::TooLarge { size: MAX_DOCUMENT + 1 }))?;
        Document::parse(&bytes, Some(media::OCI_INDEX)).map(listed).map_err(refuse)
    }
}

fn listed(document: Document) -> Vec<Descriptor> {
    match document {
        Document::Index(index) => index.manifests,
        Document::Manifest(_) => Vec::new(),
    }
}
