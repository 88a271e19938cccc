//! The client's HTTP/2 server over a tunnel.

use connectrpc::{CompressionRegistry, ConnectRpcService, Dispatcher, Limits};
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CONNECTION_WINDOW, MAX_FRAME, MAX_MESSAGE, STREAM_WINDOW};

/// Serves `dispatcher` on `io` until the other end closes it.
///
/// # Errors
/// A broken connection. An orderly end is `Ok`.
pub async fn serve<I, D>(io: I, dispatcher: D) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    D: Dispatcher,
{
    let limits = Limits::default()
        .with_max_message_size(MAX_MESSAGE)
        .with_max_request_body_size(MAX_MESSAGE);
    // Bytes in the tunnel are local or already compressed: gzip would only cost time.
    let service = ConnectRpcService::new(dispatcher)
        .with_limits(limits)
        .with_compression(CompressionRegistry::new());
    Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
        .await
}
