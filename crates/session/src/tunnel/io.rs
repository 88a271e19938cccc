//! A stream of byte chunks and a channel of byte chunks as one duplex byte stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::Stream;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Largest chunk written as one message: what BuildKit's own clients send.
const CHUNK: usize = 32 << 10;

/// The duplex byte stream inside a session's messages.
///
/// Reading ends at the end of the inbound stream; writing fails with `BrokenPipe` once nobody
/// receives. Shutting down the writing half closes the outbound channel.
pub struct TunnelIo {
    inbound: BoxStream<'static, io::Result<Bytes>>,
    current: Bytes,
    outbound: PollSender<Bytes>,
}

impl TunnelIo {
    /// Joins the two directions. The channel's capacity is what may be in flight outward.
    pub fn new(
        inbound: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        outbound: mpsc::Sender<Bytes>,
    ) -> Self {
        Self {
            inbound: Box::pin(inbound),
            current: Bytes::new(),
            outbound: PollSender::new(outbound),
        }
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match self.inbound.as_mut().poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(chunk))) => self.current = chunk,
            }
        }
        let count = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current[..count]);
        self.current.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let closed = || io::Error::new(io::ErrorKind::BrokenPipe, "session tunnel closed");
        match self.outbound.poll_reserve(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(Err(closed())),
            Poll::Ready(Ok(())) => {
                let chunk = &data[..data.len().min(CHUNK)];
                self.outbound.send_item(Bytes::copy_from_slice(chunk)).map_err(|_| closed())?;
                Poll::Ready(Ok(chunk.len()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbound.close();
        Poll::Ready(Ok(()))
    }
}
