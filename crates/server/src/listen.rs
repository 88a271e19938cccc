//! The one port: tells TLS from cleartext and builders from the API, and serves HTTP/1.1 and HTTP/2.
//!
//! A TLS connection is told by its first byte; within TLS, a server name below the gateway's domain leads to a builder and
//! everything else to the API. With TLS configured, cleartext is for callers on this machine only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::builds::Builds;
use crate::gateway;
use crate::metrics::{self, ERRORS};
use crate::origin::Origin;

/// First byte of every TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a new connection may stay silent, and how long its handshake may take.
const HELLO: Duration = Duration::from_secs(10);
/// How long the head of an HTTP/1.1 request may take.
const HEADERS: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 1000;

/// What every connection needs.
pub(crate) struct Shared {
    /// API, registry and pages.
    pub(crate) router: Router,
    /// Builds, for the gateway.
    pub(crate) builds: Arc<Builds>,
    /// TLS of the API, if it has any.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// TLS of the gateway.
    pub(crate) gateway_tls: Arc<ServerConfig>,
    /// The configured name of this server.
    pub(crate) origin: Option<Origin>,
}

/// Accepts connections until `stop`, then lets running requests finish for `grace`.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
    grace: Duration,
) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                stream.set_nodelay(true).ok();
                let (shared, watcher) = (Arc::clone(&shared), graceful.watcher());
                tokio::spawn(async move { connection(stream, peer, shared, watcher).await });
            }
            // Usually descriptors ran out; spinning would make it worse.
            Err(error) => {
                ERRORS.count("accept", 1);
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::debug!("requests were still running when the server stopped");
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, watcher: Watcher) {
    let mut first = [0];
    match tokio::time::timeout(HELLO, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        _ => return,
    }
    if first[0] != TLS_HANDSHAKE {
        let foreign = shared.tls.is_some() && !peer.ip().to_canonical().is_loopback();
        let router = if foreign { use_tls() } else { shared.router.clone() };
        return http(stream, router, shared.origin.clone(), false, watcher).await;
    }
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let Ok(Ok(start)) = tokio::time::timeout(HELLO, hello).await else { return };
    let to_builder = start.client_hello().server_name().is_some_and(gateway::is_builder_name);
    if to_builder {
        let config = Arc::clone(&shared.gateway_tls);
        if let Some(stream) = handshake(start, config).await {
            gateway::serve(stream, &shared.builds).await;
        }
        return;
    }
    let Some(config) = shared.tls.clone() else {
        tracing::debug!("a TLS connection, but no certificate is configured");
        return;
    };
    if let Some(stream) = handshake(start, config).await {
        http(stream, shared.router.clone(), shared.origin.clone(), true, watcher).await;
    }
}

async fn handshake(
    start: StartHandshake<TcpStream>,
    config: Arc<ServerConfig>,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(HELLO, start.into_stream(config)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            ERRORS.count("tls", 1);
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// The answer to cleartext from elsewhere, where TLS is configured.
fn use_tls() -> Router {
    Router::new().fallback(|| async {
        (StatusCode::UPGRADE_REQUIRED, "this server is reached over https:// from other machines\n")
    })
}

async fn http<I>(io: I, router: Router, origin: Option<Origin>, secure: bool, watcher: Watcher)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        answer(router.clone(), request, origin.clone(), secure)
    });
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(io), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    origin: Option<Origin>,
    secure: bool,
) -> Result<Response<Body>, std::convert::Infallible> {
    let origin = origin.or_else(|| Origin::of(&request, secure));
    let (mut request, registry) = metrics::counted(request.map(Body::new));
    if let Some(origin) = origin {
        request.extensions_mut().insert(origin);
    }
    Ok(metrics::answered(router.oneshot(request).await?, registry))
}
