//! A stream of byte chunks and a channel of byte chunks as one duplex byte stream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Largest chunk written as one message; both ends take sixteen MiB. BuildKit's send 32 KiB.
const CHUNK: usize = 128 << 10;

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
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(data)])
    }

    /// A frame's head and its content become one message, not two.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let closed = || io::Error::new(io::ErrorKind::BrokenPipe, "session tunnel closed");
        match self.outbound.poll_reserve(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(Err(closed())),
            Poll::Ready(Ok(())) => {
                let length = parts.iter().map(|part| part.len()).sum::<usize>().min(CHUNK);
                let mut chunk = BytesMut::with_capacity(length);
                for part in parts {
                    let room = length - chunk.len();
                    chunk.extend_from_slice(&part[..part.len().min(room)]);
                }
                self.outbound.send_item(chunk.freeze()).map_err(|_| closed())?;
                Poll::Ready(Ok(length))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbound.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::stream;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn parts_of_one_write_are_one_message_of_bounded_size() {
        let (outbound, mut messages) = mpsc::channel(4);
        let mut io = TunnelIo::new(stream::pending(), outbound);
        let (head, content) = ([1_u8; 9], vec![2_u8; CHUNK]);
        let parts = [IoSlice::new(&head), IoSlice::new(&content)];
        assert_eq!(io.write_vectored(&parts).await.unwrap(), CHUNK);
        io.write_all(&content[CHUNK - 9..]).await.unwrap();
        let first = messages.recv().await.unwrap();
        assert_eq!(first.len(), CHUNK);
        assert_eq!(first[..9], head);
        assert_eq!(messages.recv().await.unwrap()[..], content[..9]);
        io.shutdown().await.unwrap();
        assert!(messages.recv().await.is_none());
        assert_eq!(io.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
