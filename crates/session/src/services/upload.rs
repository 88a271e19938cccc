//! `Upload`: streams of the client (a context from standard input), each read once.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use cofferdam_wire::moby::upload::v1::{BytesMessage, Upload};
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::metadata::{self, headers};

/// Size of one message.
const CHUNK: usize = 256 << 10;

/// A stream to offer.
pub struct UploadSource(Pin<Box<dyn AsyncRead + Send>>);

impl UploadSource {
    /// Offers what `reader` yields.
    pub fn new(reader: impl AsyncRead + Send + 'static) -> Self {
        Self(Box::pin(reader))
    }
}

impl fmt::Debug for UploadSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UploadSource")
    }
}

pub(super) struct UploadService(Mutex<HashMap<String, UploadSource>>);

impl UploadService {
    pub(super) const fn new(sources: HashMap<String, UploadSource>) -> Self {
        Self(Mutex::new(sources))
    }
}

impl Upload for UploadService {
    async fn pull(
        &self,
        context: RequestContext,
        _requests: InboundStream<BytesMessage>,
    ) -> ServiceResult<ServiceStream<BytesMessage>> {
        let path = metadata::value(context.headers(), headers::UPLOAD_PATH).unwrap_or_default();
        let id = path.rsplit('/').next().unwrap_or_default();
        let source = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let source = source.ok_or_else(|| {
            ConnectError::not_found(format!("no http response from session for {id}"))
        })?;
        let stream = ReaderStream::with_capacity(source.0, CHUNK).map(|chunk| match chunk {
            Ok(data) => Ok(BytesMessage { data: data.into(), ..BytesMessage::default() }),
            Err(error) => Err(ConnectError::internal(format!("read upload: {error}"))),
        });
        Response::ok(Box::pin(stream))
    }
}
