//! `Upload.Pull`: a stream the client holds (a build context from standard input).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use cofferdam_wire::moby::upload::v1::UploadClient;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};

use crate::metadata::{self, headers};
use crate::session::{RpcError, Session};

const METHOD: &str = "/moby.upload.v1.Upload/Pull";

/// An upload that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The client uploads nothing.
    #[error("client offers no uploads")]
    NotEnabled,
    /// The call failed.
    #[error(transparent)]
    Rpc(RpcError),
}

/// The bytes of an upload, in order; ends with the upload.
pub struct UploadStream(BoxStream<'static, Result<Bytes, UploadError>>);

impl Stream for UploadStream {
    type Item = Result<Bytes, UploadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Session {
    /// Starts reading the upload of `path` on `host`. The caller bounds how much it takes.
    ///
    /// # Errors
    /// A client without uploads; later failures come from the stream.
    pub async fn upload_pull(&self, path: &str, host: &str) -> Result<UploadStream, UploadError> {
        if !self.supports(METHOD) {
            return Err(UploadError::NotEnabled);
        }
        let mut map = http::HeaderMap::new();
        metadata::append(&mut map, headers::UPLOAD_PATH, &[path.to_string()]);
        metadata::append(&mut map, headers::UPLOAD_HOST, &[host.to_string()]);
        let options = Self::options()
            .with_headers(map.iter().map(|(name, value)| (name.clone(), value.clone())));
        let failed = |error| UploadError::Rpc(RpcError::new(METHOD, error));
        let client = UploadClient::new(self.transport().clone(), self.config());
        let call = client.pull_with_options(options).await.map_err(failed)?;
        let (mut send, receive) = call.into_split();
        send.close_send();
        let chunks = stream::unfold(Some(receive), move |state| async move {
            let mut receive = state?;
            match receive.message().await {
                Ok(Some(message)) => {
                    Some((Ok(message.bytes().slice_ref(message.view().data)), Some(receive)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(failed(error)), None)),
            }
        });
        Ok(UploadStream(chunks.boxed()))
    }
}
