//! Pushing blobs and manifests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_digest::Digest;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use reqwest::{Body, Response};
use url::Url;

use super::client::{Access, Repository};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::pace::Progress;
use super::transport::{Request, Transport, refusal, shown};
use crate::{Descriptor, Document};

/// Bytes read from a file at a time.
const READ: usize = 256 << 10;

/// Attempts at an upload when the registry stalls: each began from nothing and cost minutes.
const STALLED_ATTEMPTS: u32 = 2;

/// What became of a pushed blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The repository had it.
    Existed,
    /// It was mounted from another repository.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

/// Content to push; opened again for every attempt.
pub trait BlobBody: Send + Sync {
    /// `length` bytes from `offset` on.
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, io::Result<Bytes>>;
}

impl BlobBody for Bytes {
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
        let bound = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).min(self.len());
        let piece = self.slice(bound(offset)..bound(offset.saturating_add(length)));
        stream::once(async move { Ok(piece) }).boxed()
    }
}

/// A blob in a file, read by position.
#[derive(Debug, Clone)]
pub struct FileBody(Arc<File>);

impl FileBody {
    /// Pushes what is in `file`, from its start.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(Arc::new(file))
    }
}

impl BlobBody for FileBody {
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
        let end = offset.saturating_add(length);
        stream::try_unfold((Arc::clone(&self.0), offset), move |(file, offset)| async move {
            let wanted = usize::try_from(end - offset).unwrap_or(READ).min(READ);
            if wanted == 0 {
                return Ok(None);
            }
            let read = move || {
                let mut buffer = vec![0; wanted];
                file.read_exact_at(&mut buffer, offset).map(|()| (Bytes::from(buffer), file))
            };
            let (chunk, file) =
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            let next = offset + chunk.len() as u64;
            Ok(Some((chunk, (file, next))))
        })
        .boxed()
    }
}

impl Repository {
    /// Makes sure the repository has a blob: looks, mounts it from the repository `from` (a path on
    /// the same host) when given, else uploads it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        body: &dyn BlobBody,
        from: Option<&str>,
    ) -> Result<Pushed, RegistryError> {
        let endpoints = self.endpoints(Access::Push)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.push_blob_at(endpoint, descriptor, body, from).await {
                Err(error) if number < last && error.is_connect() => {}
                result => return result,
            }
        }
        Err(RegistryError::NotFound { what: self.what(&descriptor.digest.to_string()) })
    }

    async fn push_blob_at(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        body: &dyn BlobBody,
        from: Option<&str>,
    ) -> Result<Pushed, RegistryError> {
        if self.exists_at(endpoint, &format!("blobs/{}", descriptor.digest), Access::Push).await? {
            return Ok(Pushed::Existed);
        }
        let transport = &self.client.transport;
        let mut attempt = 1;
        let mut patience = transport.config.max_retry_after;
        loop {
            // A mount that is refused once is not asked for again.
            let from = from.filter(|_| attempt == 1);
            let result = match self.start_upload(endpoint, descriptor, from).await {
                Ok(None) => return Ok(Pushed::Mounted),
                Ok(Some(location)) => self.upload(endpoint, descriptor, body, location).await,
                // It was waited for already.
                Err(error @ RegistryError::RateLimited { .. }) => return Err(error),
                Err(error) => Err(error),
            };
            let Err(error) = result else { return Ok(Pushed::Uploaded) };
            let Some(wait) = pause(transport, &error, attempt, &mut patience) else {
                return Err(error);
            };
            tracing::debug!(digest = %descriptor.digest, %error, ?wait, "upload will be repeated");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// Where to upload to; `None` when the blob was mounted instead.
    async fn start_upload(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        from: Option<&str>,
    ) -> Result<Option<Url>, RegistryError> {
        let mut scopes = self.scopes(endpoint, Access::Push);
        let mut request = self.request(endpoint, Method::POST, "blobs/uploads/");
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        let plain = request.url.clone();
        if let Some(from) = from {
            scopes.push(format!("repository:{from}:pull"));
            let mut pairs = request.url.query_pairs_mut();
            pairs.append_pair("mount", &descriptor.digest.to_string()).append_pair("from", from);
            drop(pairs);
        }
        let mut response = self.call(endpoint, &request, &scopes).await?;
        let mountable = matches!(response.status(), StatusCode::CREATED | StatusCode::ACCEPTED);
        if from.is_some() && !mountable && response.status().is_client_error() {
            request.url = plain;
            response = self.call(endpoint, &request, &self.scopes(endpoint, Access::Push)).await?;
        }
        match response.status() {
            StatusCode::CREATED if from.is_some() => Ok(None),
            StatusCode::ACCEPTED => location(&response).map(Some),
            _ => {
                Err(refusal(&Method::POST, &self.what(&descriptor.digest.to_string()), response)
                    .await)
            }
        }
    }

    async fn upload(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        body: &dyn BlobBody,
        mut location: Url,
    ) -> Result<(), RegistryError> {
        let size = descriptor.size;
        let chunk =
            self.client.transport.config.chunk_size.filter(|chunk| *chunk > 0 && size > *chunk);
        let mut sent = 0;
        if let Some(chunk) = chunk {
            while sent < size {
                let length = chunk.min(size - sent);
                location =
                    self.patch(endpoint, descriptor, body, &location, (sent, length)).await?;
                sent += length;
            }
        }
        location.query_pairs_mut().append_pair("digest", &descriptor.digest.to_string());
        let response = self
            .send_piece(endpoint, Method::PUT, &location, body, (sent, size - sent), false)
            .await?;
        if response.status() != StatusCode::CREATED && response.status() != StatusCode::NO_CONTENT {
            return Err(refusal(
                &Method::PUT,
                &self.what(&descriptor.digest.to_string()),
                response,
            )
            .await);
        }
        check_digest(&response, descriptor.digest)
    }

    async fn patch(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        body: &dyn BlobBody,
        url: &Url,
        piece: (u64, u64),
    ) -> Result<Url, RegistryError> {
        let response = self.send_piece(endpoint, Method::PATCH, url, body, piece, true).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(refusal(
                &Method::PATCH,
                &self.what(&descriptor.digest.to_string()),
                response,
            )
            .await);
        }
        location(&response)
    }

    /// Sends `(offset, length)` of the blob. Not repeated by itself: the registry may have kept a part.
    async fn send_piece(
        &self,
        endpoint: &Endpoint,
        method: Method,
        url: &Url,
        body: &dyn BlobBody,
        (offset, length): (u64, u64),
        ranged: bool,
    ) -> Result<Response, RegistryError> {
        let make = |progress: &Arc<Progress>| {
            if length == 0 {
                progress.finish();
                return Body::from("");
            }
            Body::wrap_stream(progress.watch(body.open(offset, length), length))
        };
        let mut request = Request::new(method, url.clone());
        request.once = true;
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if ranged {
            let range = HeaderValue::from_str(&format!("{offset}-{}", offset + length - 1));
            request.headers.extend(range.ok().map(|range| (CONTENT_RANGE, range)));
        }
        request.upload = Some(&make);
        self.call(endpoint, &request, &self.scopes(endpoint, Access::Push)).await
    }

    /// Pushes a manifest or index under `tag`, or under its digest alone. What it refers to must be
    /// there already.
    ///
    /// # Errors
    /// See [`RegistryError`]; bytes that are no unambiguous manifest of `media_type` are refused.
    pub async fn push_manifest(
        &self,
        media_type: &str,
        bytes: Bytes,
        tag: Option<&str>,
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::of(&bytes);
        let target = tag.map_or_else(|| digest.to_string(), str::to_owned);
        Document::parse(&bytes, Some(media_type))
            .map_err(|source| RegistryError::Document { what: self.what(&target), source })?;
        let endpoints = self.endpoints(Access::Push)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.push_manifest_at(endpoint, media_type, &bytes, &target).await {
                Err(error) if number < last && error.is_connect() => {}
                Err(error) => return Err(error),
                Ok(response) => return check_digest(&response, digest).map(|()| digest),
            }
        }
        Err(RegistryError::NotFound { what: self.what(&target) })
    }

    async fn push_manifest_at(
        &self,
        endpoint: &Endpoint,
        media_type: &str,
        bytes: &Bytes,
        target: &str,
    ) -> Result<Response, RegistryError> {
        let make = || Body::from(bytes.clone());
        let mut request = self.manifest_request(endpoint, Method::PUT, target)?;
        let bad = |_| RegistryError::Protocol {
            url: self.what(target),
            reason: "the media type is malformed",
        };
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_str(media_type).map_err(bad)?);
        request.body = Some(&make);
        let response = self.call(endpoint, &request, &self.scopes(endpoint, Access::Push)).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(&Method::PUT, &self.what(target), response).await)
    }
}

/// The next URL of an upload, which may be relative and may be on another host (that then sees
/// no credentials).
fn location(response: &Response) -> Result<Url, RegistryError> {
    let broken = || RegistryError::Protocol {
        url: shown(response.url()),
        reason: "the answer names no place to upload to",
    };
    let text = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(broken)?;
    let url = response.url().join(text).map_err(|_| broken())?;
    let downgrade = response.url().scheme() == "https" && url.scheme() != "https";
    if downgrade || !matches!(url.scheme(), "http" | "https") { Err(broken()) } else { Ok(url) }
}

fn check_digest(response: &Response, expected: Digest) -> Result<(), RegistryError> {
    let Some(value) = response.headers().get("docker-content-digest") else { return Ok(()) };
    if value.to_str().ok() == Some(expected.to_string().as_str()) {
        return Ok(());
    }
    let reason = "the registry stored it under another digest";
    Err(RegistryError::Mismatch { url: shown(response.url()), expected, reason })
}

/// How long to wait before the upload is started again; `None` when that cannot help.
fn pause(
    transport: &Transport,
    error: &RegistryError,
    attempt: u32,
    patience: &mut Duration,
) -> Option<Duration> {
    let mut asked = None;
    let (may_pass, limit) = match error {
        RegistryError::Transport { .. } => (!error.is_connect(), u32::MAX),
        RegistryError::Stalled { .. } => (true, STALLED_ATTEMPTS),
        RegistryError::RateLimited { after, .. } => {
            asked = *after;
            (true, u32::MAX)
        }
        RegistryError::Status { status, .. } => (matches!(status, 408 | 416 | 500..=504), u32::MAX),
        _ => (false, 0),
    };
    if !may_pass || attempt >= limit.min(transport.config.attempts) {
        return None;
    }
    transport.wait(attempt, asked, patience)
}
