//! A small blob in memory, to be pushed.

use bytes::Bytes;
use cofferdam_image::registry::BlobBody;
use futures::StreamExt;
use futures::stream::BoxStream;

/// Bytes as a body.
pub(crate) struct BytesBody(Bytes);

impl BytesBody {
    /// Wraps bytes.
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }
}

impl BlobBody for BytesBody {
    fn open(&self, offset: u64, length: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let part = self.0.slice(start..end.min(self.0.len()));
        futures::stream::once(async move { Ok(part) }).boxed()
    }
}
