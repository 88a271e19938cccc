//! What a builder listens on, and which services it offers where.
//!
//! A server's socket is for the server alone: each connection says which build it belongs to, or that it is the server's own. On
//! any other listener there is the API of BuildKit's clients and nothing else.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::{CompressionPolicy, ConnectRpcService, Limits, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tower::util::MapResponse;

use crate::builder::Builder;
use crate::control::{ContentService, ControlService, HealthService, TraceService};
use crate::debug;
use crate::gateway::GatewayService;
use crate::gateway::bridge::Bridge;
use crate::serving::{Purpose, Scope, ServerService, read_preamble};

/// Largest message of a client, as containerd and BuildKit have it.
const MAX_MESSAGE: usize = 16 << 20;
/// Largest message of a frontend: graphs, and what it writes to processes. It is code that nobody trusts, and has a builder's memory.
const MAX_FRONTEND_MESSAGE: usize = 8 << 20;
/// Largest HTTP/2 frame of a client: ours fills it, Go's stays at 16 KiB whatever it may.
const MAX_FRAME: u32 = 256 << 10;
/// Calls of a frontend at a time: one for each container that its build may have.
const MAX_FRONTEND_CALLS: u32 = 32;
/// Longest TLS handshake, and the longest time a server may take to say what a connection is for.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a builder listens on; bound by whoever started it.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(TcpListener),
    /// A unix socket of a server, whose connections say what they are for.
    Server(UnixListener),
    /// A unix socket for whoever wants to know what the builder is doing.
    DebugUnix(UnixListener),
    /// A TCP socket for the same.
    DebugTcp(TcpListener),
}

type Service = ConnectRpcService<Router>;

/// Services of clients whose connections belong to `scope`.
fn client_service(builder: &Arc<Builder>, scope: &Scope) -> Service {
    limited(
        Router::new()
            .add_service(Arc::new(ControlService::new(Arc::clone(builder), scope.clone())))
            .add_service(Arc::new(GatewayService::new(Arc::clone(builder), scope.clone())))
            .add_service(Arc::new(ContentService::new(Arc::clone(builder), scope.clone())))
            .add_service(Arc::new(TraceService::new(Arc::clone(builder), scope.clone())))
            .add_service(Arc::new(HealthService)),
    )
}

/// Services of the server itself.
fn server_service(builder: &Arc<Builder>) -> Service {
    limited(
        Router::new()
            .add_service(Arc::new(ServerService::new(Arc::clone(builder))))
            .add_service(Arc::new(HealthService)),
    )
}

fn limited(router: Router) -> Service {
    limited_to(router, MAX_MESSAGE)
}

fn limited_to(router: Router, most: usize) -> Service {
    let limits = Limits::default().with_max_request_body_size(most).with_max_message_size(most);
    // Every Go client says that it takes gzip, and what goes to it is compressed already (layers and
    // archives inside a session) or small. BuildKit's daemon does not compress answers either.
    ConnectRpcService::new(router)
        .with_limits(limits)
        .with_compression_policy(CompressionPolicy::disabled())
}

/// Serves `listener` in the background, until the process ends.
pub(crate) fn listen(
    listener: Listener,
    builder: &Arc<Builder>,
    tls: Option<TlsAcceptor>,
) -> std::io::Result<()> {
    let service = client_service(builder, &Scope::default());
    match listener {
        Listener::Unix(listener) => {
            accept_unix(listener, move |stream| connection(stream, service.clone()))
        }
        Listener::Server(listener) => {
            let builder = Arc::clone(builder);
            accept_unix(listener, move |stream| server_connection(stream, &builder))
        }
        Listener::DebugUnix(listener) => {
            let builder = Arc::clone(builder);
            accept_unix(listener, move |stream| debug::connection(stream, &builder))
        }
        Listener::DebugTcp(listener) => {
            let builder = Arc::clone(builder);
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => debug::connection(stream, &builder),
                        Err(error) => pause(&error).await,
                    }
                }
            });
            Ok(())
        }
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(async move {
                loop {
                    match (listener.accept().await, &tls) {
                        (Ok((stream, _)), None) => connection(stream, service.clone()),
                        (Ok((stream, _)), Some(tls)) => {
                            secure_connection(tls.accept(stream), service.clone());
                        }
                        (Err(error), _) => pause(&error).await,
                    }
                }
            });
            Ok(())
        }
    }
}

fn accept_unix(
    listener: UnixListener,
    serve: impl Fn(UnixStream) + Send + 'static,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => serve(stream),
                Err(error) => pause(&error).await,
            }
        }
    });
    Ok(())
}

/// A failing accept usually means that descriptors ran out; spinning would make it worse.
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// A handshake takes as long as the other end wants; it must not hold up the listener.
fn secure_connection(handshake: tokio_rustls::Accept<TcpStream>, service: Service) {
    tokio::spawn(async move {
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => connection(stream, service),
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    });
}

fn server_connection(mut stream: UnixStream, builder: &Arc<Builder>) {
    let builder = Arc::clone(builder);
    tokio::spawn(async move {
        match tokio::time::timeout(HANDSHAKE, read_preamble(&mut stream)).await {
            Ok(Ok(Purpose::Control)) => connection(stream, server_service(&builder)),
            Ok(Ok(Purpose::Build(id))) => match builder.served.scope(&id) {
                Ok(scope) => connection(stream, client_service(&builder, &scope)),
                Err(failure) => tracing::warn!(%failure, "a connection of a build was refused"),
            },
            Ok(Err(error)) => tracing::warn!(%error, "a connection of the server was refused"),
            Err(_) => tracing::warn!("a connection of the server did not say what it is for"),
        }
    });
}

/// Serves the gateway to a frontend on its standard streams, until it closes them.
pub(crate) async fn serve_frontend(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    bridge: Arc<Bridge>,
) {
    let router = Router::new()
        .add_service(Arc::new(GatewayService::of_frontend(bridge)))
        .add_service(Arc::new(HealthService));
    let service = limited_to(router, MAX_FRONTEND_MESSAGE);
    let service = TowerToHyperService::new(MapResponse::new(service, status_in_trailers));
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    server
        .http2()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(MAX_FRONTEND_CALLS);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a frontend's connection ended");
    }
}

fn connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: Service) {
    tokio::spawn(serve(stream, service));
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: Service) {
    {
        let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        server
            .http2()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(MAX_FRAME)
            .max_concurrent_streams(1000);
        let service = TowerToHyperService::new(MapResponse::new(service, status_in_trailers));
        if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// A failed call over gRPC says so once, after everything else. A client that finds the status among the headers already, where the
/// library puts it too, never looks at the trailers, and the details are only there.
fn status_in_trailers<B>(mut response: http::Response<B>) -> http::Response<B> {
    let grpc = response.headers().get(http::header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web")
    });
    if grpc {
        response.headers_mut().remove("grpc-status");
        response.headers_mut().remove("grpc-message");
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_wire::moby::filesync::v1::BytesMessage;
    use connectrpc::{RequestContext, Response, handler_fn};
    use hyper::body::Body as _;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn answers_are_not_compressed_for_those_who_could_take_it() {
        const SIZE: usize = 64 << 10;
        let answer = |_: RequestContext, _: BytesMessage| async {
            Response::ok(BytesMessage { data: vec![7; SIZE], ..BytesMessage::default() })
        };
        let answer = handler_fn::<_, _, BytesMessage, BytesMessage, BytesMessage>(answer);
        let router =
            Router::new().route::<_, BytesMessage, BytesMessage>("test.Service", "Get", answer);
        let request = http::Request::post("/test.Service/Get")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .header("grpc-accept-encoding", "gzip")
            .body("\0\0\0\0\0".to_owned())
            .unwrap();
        let response = limited(router).oneshot(request).await.unwrap();
        let mut body = Box::pin(response.into_body());
        let mut bytes = Vec::new();
        while let Some(frame) = std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await {
            if let Ok(data) = frame.unwrap().into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        assert_eq!(bytes.first(), Some(&0), "marked as plain");
        assert!(bytes.len() > SIZE, "{}", bytes.len());
    }

    fn failed(kind: &str) -> http::Response<()> {
        let response = http::Response::builder()
            .header("content-type", kind)
            .header("grpc-status", "2")
            .header("grpc-message", "no");
        status_in_trailers(response.body(()).unwrap())
    }

    #[test]
    fn a_status_of_grpc_is_told_in_trailers_alone() {
        for kind in ["application/grpc", "application/grpc+proto"] {
            assert!(!failed(kind).headers().contains_key("grpc-status"), "{kind}");
            assert!(!failed(kind).headers().contains_key("grpc-message"), "{kind}");
        }
        for kind in ["application/grpc-web+proto", "application/json"] {
            assert!(failed(kind).headers().contains_key("grpc-status"), "{kind}");
        }
    }
}
