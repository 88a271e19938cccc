//! Resolving and fetching: manifests, indexes, configs.

use bytes::{Bytes, BytesMut};
use cofferdam_digest::Digest;
use futures::TryStreamExt;
use http::Method;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::Response;

use super::client::{Access, Fetched, Repository, Resolved};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::transport::{read_bounded, refusal, shown};
use crate::{Descriptor, Document, DocumentError, MAX_DOCUMENT, Platform, media};

/// Every document we read, ours to choose from when the registry can serve several.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";
/// Indexes inside indexes.
const MAX_NESTING: usize = 4;
const CONTENT_DIGEST: &str = "docker-content-digest";

impl Repository {
    /// Asks what `target` (a tag or digest) names, without fetching it where possible.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn head(&self, target: &str) -> Result<Descriptor, RegistryError> {
        let endpoints = self.endpoints(Access::Pull)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.head_at(endpoint, target).await {
                Ok(Some(descriptor)) => return Ok(descriptor),
                // The registry does not say; the document itself will.
                Ok(None) => break,
                Err(error) if number < last && self.try_next(endpoint, Access::Pull, &error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.fetch(target).await?.descriptor)
    }

    async fn head_at(
        &self,
        endpoint: &Endpoint,
        target: &str,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let response = self.manifest_response(endpoint, Method::HEAD, target, ACCEPTED).await?;
        let digest = header_digest(&response)?;
        let text =
            |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let size = text(CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let (Some(digest), Some(size), Some(media_type)) = (digest, size, text(CONTENT_TYPE))
        else {
            return Ok(None);
        };
        if target.contains(':') && target != digest.to_string() {
            let reason = "the registry names another digest";
            return Err(RegistryError::Protocol { url: shown(response.url()), reason });
        }
        Ok(Some(Descriptor::new(media_type, digest, size)))
    }

    /// Fetches the manifest or index that `target` (a tag or digest) names, and verifies it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn fetch(&self, target: &str) -> Result<Fetched, RegistryError> {
        self.fetch_with(target, None).await
    }

    /// Fetches the manifest or index of a descriptor; its digest, size and media type must match.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Fetched, RegistryError> {
        self.fetch_with(&descriptor.digest.to_string(), Some(descriptor)).await
    }

    async fn fetch_with(
        &self,
        target: &str,
        expected: Option<&Descriptor>,
    ) -> Result<Fetched, RegistryError> {
        let endpoints = self.endpoints(Access::Pull)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.fetch_at(endpoint, target, expected).await {
                Err(error) if number < last && self.try_next(endpoint, Access::Pull, &error) => {}
                result => return result,
            }
        }
        Err(RegistryError::NotFound { what: self.what(target) })
    }

    async fn fetch_at(
        &self,
        endpoint: &Endpoint,
        target: &str,
        expected: Option<&Descriptor>,
    ) -> Result<Fetched, RegistryError> {
        let refuse = |source| RegistryError::Document { what: self.what(target), source };
        if let Some(size) =
            expected.map(|expected| expected.size).filter(|size| *size > MAX_DOCUMENT)
        {
            return Err(refuse(DocumentError::TooLarge { size }));
        }
        let accept = expected.map_or(ACCEPTED, |expected| expected.media_type.as_str());
        let response = self.manifest_response(endpoint, Method::GET, target, accept).await?;
        let url = shown(response.url());
        let stated = header_digest(&response)?;
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let bytes = read_bounded(response, MAX_DOCUMENT, self.client.transport.config.read_timeout)
            .await?
            .ok_or_else(|| refuse(DocumentError::TooLarge { size: MAX_DOCUMENT + 1 }))?;
        let digest = Digest::of(&bytes);
        let wanted = if target.contains(':') { Digest::parse(target).ok() } else { None };
        for expected in [wanted, stated].into_iter().flatten() {
            if expected != digest {
                return Err(RegistryError::Mismatch {
                    url,
                    expected,
                    reason: "the digest differs",
                });
            }
        }
        if expected.is_some_and(|expected| expected.size != bytes.len() as u64) {
            return Err(RegistryError::Mismatch {
                url,
                expected: digest,
                reason: "the size differs",
            });
        }
        let said = expected.map(|expected| expected.media_type.as_str()).or(media_type.as_deref());
        let document = Document::parse(&bytes, said).map_err(refuse)?;
        let mut descriptor = Descriptor::new(document.media_type(), digest, bytes.len() as u64);
        if let Some(expected) = expected {
            descriptor.platform.clone_from(&expected.platform);
            descriptor.annotations.clone_from(&expected.annotations);
        }
        Ok(Fetched { descriptor, bytes, document })
    }

    async fn manifest_response(
        &self,
        endpoint: &Endpoint,
        method: Method,
        target: &str,
        accept: &str,
    ) -> Result<Response, RegistryError> {
        let mut request = self.manifest_request(endpoint, method.clone(), target)?;
        request.headers = accept_header(accept);
        let response = self.call(endpoint, &request, &self.scopes(endpoint, Access::Pull)).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(&method, &self.what(target), response).await)
    }

    /// Resolves `target` (a tag or digest) to the manifest that runs on `platform`.
    ///
    /// # Errors
    /// See [`RegistryError`]; an index without a fitting manifest is [`RegistryError::NoPlatform`].
    pub async fn resolve(
        &self,
        target: &str,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let root = self.fetch(target).await?;
        let mut current = root.clone();
        for _ in 0..MAX_NESTING {
            match current.document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        root,
                        descriptor: current.descriptor,
                        manifest_bytes: current.bytes,
                        manifest,
                    });
                }
                Document::Index(index) => {
                    let chosen =
                        index.select(platform).ok_or_else(|| RegistryError::NoPlatform {
                            what: self.what(target),
                            wanted: platform.to_string(),
                            offered: index
                                .platforms()
                                .iter()
                                .map(ToString::to_string)
                                .collect::<Vec<_>>()
                                .join(", "),
                        })?;
                    current = self.document(chosen).await?;
                }
            }
        }
        Err(RegistryError::Protocol {
            url: self.what(target),
            reason: "indexes are nested too deeply",
        })
    }

    /// Fetches a config or another small blob, at most [`MAX_DOCUMENT`] bytes, and verifies it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        if descriptor.size > MAX_DOCUMENT {
            let source = DocumentError::TooLarge { size: descriptor.size };
            return Err(RegistryError::Document {
                what: self.what(&descriptor.digest.to_string()),
                source,
            });
        }
        let mut bytes = BytesMut::new();
        let mut stream = self.blob(descriptor, 0);
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let url = self.what(&descriptor.digest.to_string());
        if Digest::of(&bytes) != descriptor.digest {
            let expected = descriptor.digest;
            return Err(RegistryError::Mismatch { url, expected, reason: "the digest differs" });
        }
        Ok(bytes.freeze())
    }

    /// Asks how many bytes a blob has, mirrors first. Whoever is told may read it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob_size(&self, digest: &Digest) -> Result<u64, RegistryError> {
        let endpoints = self.endpoints(Access::Pull)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.blob_size_at(endpoint, digest).await {
                Err(error) if number < last && self.try_next(endpoint, Access::Pull, &error) => {}
                result => return result,
            }
        }
        Err(RegistryError::NotFound { what: self.what(&digest.to_string()) })
    }

    async fn blob_size_at(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
    ) -> Result<u64, RegistryError> {
        let request = self.request(endpoint, Method::HEAD, &format!("blobs/{digest}"));
        let response = self.call(endpoint, &request, &self.scopes(endpoint, Access::Pull)).await?;
        if !response.status().is_success() {
            let what = self.what(&digest.to_string());
            return Err(refusal(&Method::HEAD, &what, response).await);
        }
        let size = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        size.and_then(|text| text.parse().ok()).ok_or_else(|| RegistryError::Protocol {
            url: shown(response.url()),
            reason: "the registry does not say how large the blob is",
        })
    }

    /// Whether the registry itself has the manifest or index.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest_exists(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.exists(&format!("manifests/{digest}")).await
    }

    /// Whether the registry itself has the blob, in this repository.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob_exists(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.exists(&format!("blobs/{digest}")).await
    }

    async fn exists(&self, rest: &str) -> Result<bool, RegistryError> {
        let endpoints = self.endpoints(Access::Push)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.exists_at(endpoint, rest, Access::Pull).await {
                Err(error) if number < last && error.is_connect() => {}
                result => return result,
            }
        }
        Ok(false)
    }

    pub(super) async fn exists_at(
        &self,
        endpoint: &Endpoint,
        rest: &str,
        access: Access,
    ) -> Result<bool, RegistryError> {
        let mut request = self.request(endpoint, Method::HEAD, rest);
        request.headers = accept_header(ACCEPTED);
        let response = self.call(endpoint, &request, &self.scopes(endpoint, access)).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            http::StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refusal(&Method::HEAD, &self.what(rest), response).await),
        }
    }

    /// The full name of something in this repository, for messages.
    pub(super) fn what(&self, target: &str) -> String {
        let separator = if target.contains('/') {
            '/'
        } else if target.contains(':') {
            '@'
        } else {
            ':'
        };
        format!("{}{separator}{target}", self.name)
    }
}

pub(super) fn accept_header(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(value)
        .unwrap_or_else(|_| HeaderValue::from_static(media::OCI_MANIFEST));
    headers.insert(ACCEPT, value);
    headers
}

/// The digest the registry states; one that is malformed, or of another algorithm, is an error.
fn header_digest(response: &Response) -> Result<Option<Digest>, RegistryError> {
    let Some(value) = response.headers().get(CONTENT_DIGEST) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| Digest::parse(text).ok());
    match parsed {
        Some(digest) => Ok(Some(digest)),
        None => Err(RegistryError::Protocol {
            url: shown(response.url()),
            reason: "the stated digest is malformed",
        }),
    }
}
