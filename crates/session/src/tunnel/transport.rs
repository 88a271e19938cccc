//! The daemon's HTTP/2 client over a tunnel.

use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CONNECTION_WINDOW, MAX_FRAME, STREAM_WINDOW};

/// Largest list of headers or trailers from the other end. Details of errors are among those, and they hold whole Dockerfiles.
const HEADER_LIST: u32 = 8 << 20;

/// A handle on the one HTTP/2 connection of a tunnel; cheap to clone, never reconnects.
#[derive(Clone)]
pub struct Transport {
    sender: SendRequest<ClientBody>,
}

impl ClientTransport for Transport {
    type ResponseBody = Incoming;
    type Error = hyper::Error;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, hyper::Error>> {
        let mut sender = self.sender.clone();
        Box::pin(async move {
            sender.ready().await?;
            sender.send_request(request).await
        })
    }
}

/// Starts an HTTP/2 client over `io`. The returned future drives the connection and ends with
/// it; nothing moves unless it is polled.
///
/// # Errors
/// The stream breaks before the first bytes are out.
pub async fn connect<I>(
    io: I,
) -> Result<(Transport, impl Future<Output = Result<(), hyper::Error>> + Send), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(HEADER_LIST)
        .handshake(TokioIo::new(io))
        .await?;
    Ok((Transport { sender }, connection))
}
