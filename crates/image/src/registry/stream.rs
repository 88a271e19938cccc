//! Blob downloads that survive broken connections.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;

use super::client::{Access, Repository};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::pace::{HARDLY_SENT, Pace, TooSlow};
use super::transport::{refusal, shown, stalled, transport_error};
use crate::Descriptor;

/// Bytes of a blob. Exactly as many as the descriptor says, or an error.
pub type BlobStream = BoxStream<'static, Result<Bytes, RegistryError>>;

/// Connections one download may use up in all, however much progress each made.
const MAX_CONNECTIONS: u32 = 100;

/// What is downloaded.
struct Blob {
    repository: Repository,
    descriptor: Descriptor,
}

struct Download {
    blob: Blob,
    /// Bytes delivered or skipped so far.
    offset: u64,
    body: Option<Body>,
    /// Connections that ended early since the last byte, and in all.
    fruitless: u32,
    connections: u32,
    /// Of the download as a whole: a new connection is not a way to be slow for longer.
    pace: Pace,
}

struct Body {
    url: url::Url,
    stream: BoxStream<'static, reqwest::Result<Bytes>>,
    /// Bytes to drop first: the registry did not honour the range.
    skip: u64,
}

impl Repository {
    /// Streams a blob from `offset`, mirrors first. A connection that breaks is taken up again
    /// where it broke. The number of bytes is checked here, their digest by whoever stores them.
    #[must_use]
    pub fn blob(&self, descriptor: &Descriptor, offset: u64) -> BlobStream {
        let download = Download {
            blob: Blob { repository: self.clone(), descriptor: descriptor.clone() },
            offset,
            body: None,
            fruitless: 0,
            connections: 0,
            pace: Pace::new(self.client.transport.config.read_timeout),
        };
        stream::try_unfold(download, |mut download| async move {
            Ok(download.next().await?.map(|chunk| (chunk, download)))
        })
        .boxed()
    }
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(body) = &mut self.body else {
                if self.offset == self.blob.descriptor.size {
                    return Ok(None);
                }
                self.connections += 1;
                self.body = Some(self.blob.open(self.offset).await?);
                continue;
            };
            let url = body.url.clone();
            match self.pace.next(&mut body.stream).await {
                Ok(Some(Ok(chunk))) => {
                    if let Some(chunk) = self.accept(chunk)? {
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) if self.offset == self.blob.descriptor.size => return Ok(None),
                Ok(None) => {
                    let reason = "the answer ended early";
                    self.interrupted(RegistryError::Protocol { url: shown(&url), reason }).await?;
                }
                Ok(Some(Err(error))) => {
                    self.interrupted(transport_error(&Method::GET, &url, error)).await?
                }
                Err(TooSlow) => {
                    let limit = self.blob.repository.client.transport.config.read_timeout;
                    self.interrupted(stalled(&Method::GET, &url, HARDLY_SENT, limit)).await?
                }
            }
        }
    }

    fn accept(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, RegistryError> {
        if let Some(body) = &mut self.body {
            let dropped = body.skip.min(chunk.len() as u64);
            body.skip -= dropped;
            chunk = chunk.split_off(usize::try_from(dropped).unwrap_or(chunk.len()));
        }
        if chunk.is_empty() {
            return Ok(None);
        }
        self.offset += chunk.len() as u64;
        self.fruitless = 0;
        if self.offset > self.blob.descriptor.size {
            return Err(self.blob.mismatch("it is larger than its descriptor says"));
        }
        Ok(Some(chunk))
    }

    /// Waits before the next connection, or gives up with `error`.
    async fn interrupted(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.body = None;
        self.fruitless += 1;
        let transport = &self.blob.repository.client.transport;
        let tries = self.fruitless.max(self.pace.missed());
        if tries >= transport.config.attempts || self.connections >= MAX_CONNECTIONS {
            return Err(error);
        }
        tracing::debug!(offset = self.offset, %error, "download interrupted");
        tokio::time::sleep(transport.backoff(self.fruitless)).await;
        Ok(())
    }
}

impl Blob {
    async fn open(&self, offset: u64) -> Result<Body, RegistryError> {
        if offset > self.descriptor.size {
            return Err(self.mismatch("the offset lies behind its end"));
        }
        let endpoints = self.repository.endpoints(Access::Pull)?;
        let last = endpoints.len().saturating_sub(1);
        for (number, endpoint) in endpoints.iter().enumerate() {
            match self.open_at(endpoint, offset).await {
                Err(error)
                    if number < last
                        && self.repository.try_next(endpoint, Access::Pull, &error) => {}
                result => return result,
            }
        }
        Err(RegistryError::NotFound { what: self.what() })
    }

    async fn open_at(&self, endpoint: &Endpoint, offset: u64) -> Result<Body, RegistryError> {
        let mut response = self.ask(endpoint, offset).await?;
        if offset > 0 && is_another_range(&response, offset) {
            // It knows of ranges, but not what they are: all of it is had without one.
            response = self.ask(endpoint, 0).await?;
        }
        let skip = match response.status() {
            StatusCode::OK => offset,
            StatusCode::PARTIAL_CONTENT if offset > 0 && range_start(&response) == Some(offset) => {
                0
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                let reason = "the registry sends another range than was asked for";
                return Err(RegistryError::Protocol { url: shown(response.url()), reason });
            }
            _ => return Err(refusal(&Method::GET, &self.what(), response).await),
        };
        let length = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length != self.descriptor.size - offset + skip) {
            return Err(self.mismatch("its size is not what its descriptor says"));
        }
        Ok(Body { url: response.url().clone(), stream: response.bytes_stream().boxed(), skip })
    }

    /// Asks for what follows `offset`.
    async fn ask(&self, endpoint: &Endpoint, offset: u64) -> Result<Response, RegistryError> {
        let repository = &self.repository;
        let mut request =
            repository.request(endpoint, Method::GET, &format!("blobs/{}", self.descriptor.digest));
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", offset));
            request.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        repository.call(endpoint, &request, &repository.scopes(endpoint, Access::Pull)).await
    }

    fn mismatch(&self, reason: &'static str) -> RegistryError {
        RegistryError::Mismatch { url: self.what(), expected: self.descriptor.digest, reason }
    }

    fn what(&self) -> String {
        self.repository.what(&self.descriptor.digest.to_string())
    }
}

fn is_another_range(response: &Response, offset: u64) -> bool {
    match response.status() {
        StatusCode::PARTIAL_CONTENT => range_start(response) != Some(offset),
        status => status == StatusCode::RANGE_NOT_SATISFIABLE,
    }
}

/// The first byte of a partial answer: `bytes 5-9/10`.
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
