//! What a client is told that comes to its builder when its build has just ended.
//!
//! Depot's command line asks for the builder's workers again and again, for five minutes, until that is answered, and nothing it
//! hears meanwhile stops it. So the question is answered, and every other call is refused with what became of the build. This must
//! never reach a builder, and reads nothing of what the client sends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::builds::{Builds, LiveBuild};

/// The question that is answered: `moby.buildkit.v1.Control`.
const WORKERS: &str = "/moby.buildkit.v1.Control/ListWorkers";
/// An answer without workers: neither compressed nor longer than nothing.
const NONE: &[u8] = &[0; 5];
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRPC's `FAILED_PRECONDITION`.
const FAILED_PRECONDITION: HeaderValue = HeaderValue::from_static("9");
/// How long the end of the build may take to be recorded.
const RECORDED: Duration = Duration::from_secs(10);
/// How long such a connection is kept: a client that has read its error goes by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls at once: a client makes a handful.
const CALLS: u32 = 16;

/// Answers the calls of a connection whose build has ended.
pub(super) async fn serve<I>(stream: I, builds: &Builds, build: &LiveBuild)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Whether or not it was recorded in time, there is something to be told.
    tokio::time::timeout(RECORDED, build.ended()).await.ok();
    let why: Arc<str> = builds.how_it_ended(build.id()).await.into();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.uri().path(), &why);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new()).max_concurrent_streams(CALLS);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, connection).await {
        tracing::debug!(%error, "a connection of a build that has ended broke");
    }
}

fn answer(method: &str, why: &str) -> Response<Body> {
    let mut response = if method == WORKERS {
        let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
        let message = Full::new(Bytes::from_static(NONE));
        Response::new(Body::new(message.with_trailers(std::future::ready(Some(Ok(trailers))))))
    } else {
        let mut refusal = Response::new(Body::empty());
        refusal.headers_mut().insert(STATUS, FAILED_PRECONDITION);
        let why = utf8_percent_encode(why, NON_ALPHANUMERIC).to_string();
        refusal.headers_mut().extend(HeaderValue::try_from(why).ok().map(|why| (MESSAGE, why)));
        refusal
    };
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
