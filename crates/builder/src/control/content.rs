//! `containerd.services.content.v1.Content` of the daemon: what records of builds name, to be read.
//!
//! Clients read logs, errors, traces, manifests and attestations of past builds here. Nothing can be written. A build of a server
//! sees what its own records name. Clients of a builder that somebody started by hand see names and sizes of all there is, so that
//! they can tell when nothing is left, and read what records name: layers are not for reading here.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_store::Blob;
use cofferdam_wire::containerd::services::content::v1 as wire;
use cofferdam_wire::containerd::services::content::v1::Content;
use connectrpc::{
    ConnectError, ErrorCode, InboundStream, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures::StreamExt;

use crate::blocking::blocking;
use crate::builder::Builder;
use crate::failure::Failure;
use crate::filters::Filters;
use crate::serving::Scope;

/// Bytes of one message.
const CHUNK: u64 = 1 << 20;
/// Entries of one message of a list.
const BATCH: usize = 1000;

/// The service over a builder.
pub(crate) struct ContentService {
    builder: Arc<Builder>,
    scope: Scope,
}

impl ContentService {
    /// The service of `builder` for connections of `scope`.
    pub(crate) const fn new(builder: Arc<Builder>, scope: Scope) -> Self {
        Self { builder, scope }
    }

    fn find(&self, digest: &str, seen: impl Fn(&Digest) -> bool) -> Result<Blob, Failure> {
        let digest = Digest::parse(digest).map_err(|error| Failure::invalid(error.to_string()))?;
        let blob =
            Some(digest).filter(seen).and_then(|digest| self.builder.context.store.blob(&digest));
        blob.ok_or_else(|| Failure::not_found(format!("content {digest}: not found")))
    }

    /// Whether a record that the client may see names the blob.
    fn named(&self, digest: &Digest) -> bool {
        self.builder.context.history.names(self.scope.owner(), digest)
    }

    async fn sizes(&self) -> Result<Vec<(Digest, u64)>, Failure> {
        let store = Arc::clone(&self.builder.context.store);
        if self.scope.is_alone() {
            return blocking(move || store.blobs()).await?.map_err(Failure::store);
        }
        let named = self.builder.context.history.blobs(self.scope.owner());
        let size = move |digest: Digest| Some((digest, store.blob(&digest)?.size()));
        blocking(move || named.into_iter().filter_map(size).collect()).await
    }
}

fn info(digest: &Digest, size: u64) -> wire::Info {
    wire::Info {
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..wire::Info::default()
    }
}

fn read_only() -> ConnectError {
    ConnectError::new(ErrorCode::Unimplemented, "the content of this builder can only be read")
}

/// The part of a blob that is asked for, in messages of bounded size.
struct Part {
    file: std::fs::File,
    offset: u64,
    end: u64,
    /// Held while it is read.
    blob: Blob,
}

impl Part {
    async fn next(mut self) -> Result<Option<(wire::ReadContentResponse, Self)>, Failure> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let read = blocking(move || {
            let mut data = Vec::new();
            self.file.seek(SeekFrom::Start(self.offset))?;
            (&self.file).take(CHUNK.min(self.end - self.offset)).read_to_end(&mut data)?;
            Ok::<_, std::io::Error>((data, self))
        });
        let (data, mut rest) = read.await?.map_err(Failure::store)?;
        if data.is_empty() {
            let message = format!("content {}: unexpected end", rest.blob.digest());
            return Err(Failure::new(ErrorCode::DataLoss, message));
        }
        let response = wire::ReadContentResponse {
            offset: i64::try_from(rest.offset).unwrap_or(i64::MAX),
            data: data.clone(),
            ..wire::ReadContentResponse::default()
        };
        rest.offset += data.len() as u64;
        Ok(Some((response, rest)))
    }
}

impl Content for ContentService {
    async fn info(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::InfoRequest>,
    ) -> ServiceResult<wire::InfoResponse> {
        let alone = self.scope.is_alone();
        let blob = self.find(request.digest, |digest| alone || self.named(digest))?;
        let info = info(&blob.digest(), blob.size());
        Response::ok(wire::InfoResponse { info: info.into(), ..wire::InfoResponse::default() })
    }

    async fn list(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ListContentRequest>,
    ) -> ServiceResult<ServiceStream<wire::ListContentResponse>> {
        let filters = Filters::parse(&request.to_owned_message().filters)?;
        let all = self.sizes().await?;
        let wanted: Vec<wire::Info> = all
            .iter()
            .filter(|(digest, size)| {
                filters.matches(|path| match path.first().map(String::as_str) {
                    Some("digest") => Some(digest.to_string()),
                    Some("size") => Some(size.to_string()),
                    _ => None,
                })
            })
            .map(|(digest, size)| info(digest, *size))
            .collect();
        let batches: Vec<_> = wanted
            .chunks(BATCH)
            .map(|batch| {
                Ok(wire::ListContentResponse { info: batch.to_vec(), ..Default::default() })
            })
            .collect();
        Response::stream_ok(futures::stream::iter(batches))
    }

    async fn read(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ReadContentRequest>,
    ) -> ServiceResult<ServiceStream<wire::ReadContentResponse>> {
        let blob = self.find(request.digest, |digest| self.named(digest))?;
        let range = (u64::try_from(request.offset), u64::try_from(request.size));
        let (Ok(offset), Ok(size)) = range else {
            return Err(ConnectError::invalid_argument("negative offset or size"));
        };
        if offset > blob.size() {
            return Err(ConnectError::new(ErrorCode::OutOfRange, "offset is behind the end"));
        }
        let rest = blob.size() - offset;
        if size > rest {
            return Err(ConnectError::new(ErrorCode::OutOfRange, "range is behind the end"));
        }
        let end = offset + if size == 0 { rest } else { size };
        let file = blob.open().map_err(Failure::store)?;
        let part = Part { file, offset, end, blob };
        let messages = futures::stream::unfold(Some(part), |part| async move {
            match part?.next().await {
                Ok(Some((message, part))) => Some((Ok(message), Some(part))),
                Ok(None) => None,
                Err(failure) => Some((Err(ConnectError::from(failure)), None)),
            }
        });
        Response::stream_ok(messages.boxed())
    }

    async fn status(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::StatusRequest>,
    ) -> ServiceResult<wire::StatusResponse> {
        Err(ConnectError::not_found("nothing is being written"))
    }

    async fn list_statuses(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::ListStatusesRequest>,
    ) -> ServiceResult<wire::ListStatusesResponse> {
        Response::ok(wire::ListStatusesResponse::default())
    }

    async fn update(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::UpdateRequest>,
    ) -> ServiceResult<wire::UpdateResponse> {
        Err(read_only())
    }

    async fn delete(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::DeleteContentRequest>,
    ) -> ServiceResult<buffa_types::google::protobuf::Empty> {
        Err(read_only())
    }

    async fn write(
        &self,
        _context: RequestContext,
        _requests: InboundStream<wire::WriteContentRequest>,
    ) -> ServiceResult<ServiceStream<wire::WriteContentResponse>> {
        Err(read_only())
    }

    async fn abort(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, wire::AbortRequest>,
    ) -> ServiceResult<buffa_types::google::protobuf::Empty> {
        Err(read_only())
    }
}
