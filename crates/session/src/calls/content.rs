//! containerd's `Content` service at the client: OCI layouts and local caches.
//!
//! Section 3.6 of the protocol. Digests of what arrives are checked by whoever asked for the
//! bytes; this module only moves them.

use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_wire::containerd::services::content::v1::{
    ContentClient, InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest,
    WriteContentResponse, WriteContentResponseView,
};
use connectrpc::client::{BidiStream, CallOptions};
use connectrpc::{ConnectError, ErrorCode};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use hyper::body::Incoming;

use crate::metadata::{self, headers};
use crate::session::{RpcError, Session};
use crate::tunnel::Transport;

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";

/// Largest piece of a blob in one message.
const CHUNK: usize = 1 << 20;

/// One blob of the client's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentInfo {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A blob that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The client serves no content stores.
    #[error("client offers no content store")]
    NotEnabled,
    /// The store or the blob does not exist there.
    #[error("{digest} not found in content store {store:?}")]
    NotFound {
        /// Store asked.
        store: String,
        /// Blob asked for.
        digest: Digest,
    },
    /// The blob is already there: nothing to write.
    #[error("blob already exists")]
    AlreadyExists,
    /// The client does not know a store whose name had to be escaped: not all of them undo that.
    #[error(
        "header key {key:?} contains value with non-printable ASCII characters: the client does \
         not know content store {store:?} by its escaped name",
        key = headers::STORE_ID
    )]
    Escaped {
        /// Store asked.
        store: String,
    },
    /// The call failed.
    #[error(transparent)]
    Rpc(RpcError),
    /// The client answered against the protocol.
    #[error("content store answered {what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
}

impl Session {
    /// Size of blob `digest` in the client's `store`.
    ///
    /// # Errors
    /// No store, no blob, or a failed call.
    pub async fn content_info(
        &self,
        store: &str,
        digest: &Digest,
    ) -> Result<ContentInfo, ContentError> {
        let client = self.content(INFO)?;
        let request = InfoRequest { digest: digest.to_string(), ..InfoRequest::default() };
        let response = client
            .info_with_options(request, store_options(store))
            .await
            .map_err(|error| read_error(INFO, store, digest, error))?
            .into_owned();
        let info = response.info.into_option();
        let info = info.ok_or(ContentError::Protocol { what: "without an info" })?;
        let size = u64::try_from(info.size)
            .map_err(|_| ContentError::Protocol { what: "with a negative size" })?;
        Ok(ContentInfo { digest: *digest, size })
    }

    /// Reads blob `digest` from `offset` on. The caller verifies and bounds what arrives.
    ///
    /// # Errors
    /// No store or a failed call; a missing blob may also come as the stream's first item.
    pub async fn content_read(
        &self,
        store: &str,
        digest: &Digest,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ContentError>>, ContentError> {
        let client = self.content(READ)?;
        let request = ReadContentRequest {
            digest: digest.to_string(),
            offset: i64::try_from(offset)
                .map_err(|_| ContentError::Protocol { what: "to an offset out of range" })?,
            ..ReadContentRequest::default()
        };
        let call = client
            .read_with_options(request, store_options(store))
            .await
            .map_err(|error| read_error(READ, store, digest, error))?;
        let (store, digest) = (store.to_string(), *digest);
        let chunks = stream::unfold(Some(call), move |state| {
            let store = store.clone();
            async move {
                let mut call = state?;
                match call.message().await {
                    Ok(Some(message)) => {
                        Some((Ok(message.bytes().slice_ref(message.view().data)), Some(call)))
                    }
                    Ok(None) => None,
                    Err(error) => Some((Err(read_error(READ, &store, &digest, error)), None)),
                }
            }
        });
        Ok(chunks.boxed())
    }

    /// Starts writing a blob of known digest and size into the client's `store`.
    ///
    /// # Errors
    /// [`ContentError::AlreadyExists`] when it is there; [`ContentError::Escaped`] when the client does not know the store by that
    /// name, and no header holds it; no store or a failed call.
    pub async fn content_writer(
        &self,
        store: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<ContentWriter, ContentError> {
        let client = self.content(WRITE)?;
        let total = i64::try_from(size)
            .map_err(|_| ContentError::Protocol { what: "to a size out of range" })?;
        let stream = client.write_with_options(store_options(store)).await.map_err(write_error)?;
        let mut writer = ContentWriter { stream, digest: *digest, total, offset: 0 };
        let answer = writer.ask(WriteAction::STAT, Vec::new()).await;
        let answer = answer.map_err(|error| unknown_store(store, error))?;
        writer.offset = answer.offset;
        Ok(writer)
    }

    fn content(&self, method: &str) -> Result<ContentClient<Transport>, ContentError> {
        if !self.supports(method) {
            return Err(ContentError::NotEnabled);
        }
        Ok(ContentClient::new(self.transport().clone(), self.config()))
    }
}

type WriteStream = BidiStream<Incoming, WriteContentRequest, WriteContentResponseView<'static>>;

/// A blob being written at the client; dropping it leaves the blob uncommitted.
pub struct ContentWriter {
    stream: WriteStream,
    digest: Digest,
    total: i64,
    offset: i64,
}

impl ContentWriter {
    /// Bytes the client already holds from an earlier attempt: continue from here.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::try_from(self.offset).unwrap_or(0)
    }

    /// Appends `data`.
    ///
    /// # Errors
    /// A failed call, or a client that did not take the bytes.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), ContentError> {
        for chunk in data.chunks(CHUNK) {
            let answer = self.ask(WriteAction::WRITE, chunk.to_vec()).await?;
            let taken = i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            self.offset += taken;
            if answer.offset != self.offset {
                return Err(ContentError::Protocol { what: "with another offset" });
            }
        }
        Ok(())
    }

    /// Commits the blob; the client verifies its digest and size.
    ///
    /// # Errors
    /// A failed call. A blob that appeared meanwhile is success.
    pub async fn commit(mut self) -> Result<(), ContentError> {
        match self.ask(WriteAction::COMMIT, Vec::new()).await {
            Ok(_) | Err(ContentError::AlreadyExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn ask(
        &mut self,
        action: WriteAction,
        data: Vec<u8>,
    ) -> Result<WriteContentResponse, ContentError> {
        let request = WriteContentRequest {
            action: action.into(),
            r#ref: format!("cofferdam-{}", self.digest),
            total: self.total,
            expected: self.digest.to_string(),
            offset: self.offset,
            data,
            ..WriteContentRequest::default()
        };
        // A send that fails says only that the call ended; the reason is its status below.
        let _ = self.stream.send(request).await;
        match self.stream.message().await {
            Ok(Some(answer)) => Ok(answer.to_owned_message()),
            Ok(None) => Err(ContentError::Protocol { what: "nothing to a write" }),
            Err(error) => Err(write_error(error)),
        }
    }
}

fn store_options(store: &str) -> CallOptions {
    let mut map = http::HeaderMap::new();
    metadata::append(&mut map, headers::STORE_ID, &[store.to_string()]);
    Session::options().with_headers(map.iter().map(|(name, value)| (name.clone(), value.clone())))
}

fn read_error(
    method: &'static str,
    store: &str,
    digest: &Digest,
    error: ConnectError,
) -> ContentError {
    match error.code {
        ErrorCode::NotFound => ContentError::NotFound { store: store.to_string(), digest: *digest },
        _ => ContentError::Rpc(RpcError::new(method, error)),
    }
}

/// Says why a store is not found that the client offers by a name which no header holds.
fn unknown_store(store: &str, error: ContentError) -> ContentError {
    let unknown = matches!(&error, ContentError::Rpc(rpc) if rpc.code() == ErrorCode::NotFound);
    if unknown && metadata::needs_escapes(store) {
        return ContentError::Escaped { store: store.to_string() };
    }
    error
}

fn write_error(error: ConnectError) -> ContentError {
    match error.code {
        ErrorCode::AlreadyExists => ContentError::AlreadyExists,
        _ => ContentError::Rpc(RpcError::new(WRITE, error)),
    }
}
