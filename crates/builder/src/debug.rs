//! What the builder is doing, as text over HTTP, for its operator: `--debugaddr`.
//!
//! Tools that know BuildKit's daemon ask under `/debug/` for what its runtime knows of itself; they get the builds that run. Nothing
//! can be changed here, and nothing that a build keeps to itself is told.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::builder::Builder;

/// Where there is something.
const PATH: &str = "/debug/";

/// Answers whoever connected.
pub(crate) fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    builder: &Arc<Builder>,
) {
    let builder = Arc::clone(builder);
    tokio::spawn(async move {
        let answer = service_fn(move |request: Request<Incoming>| {
            let (status, text) = answer(&builder, request.uri().path());
            let mut response = Response::new(text);
            *response.status_mut() = status;
            async move { Ok::<_, Infallible>(response) }
        });
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
            tracing::debug!(%error, "a connection for debugging ended");
        }
    });
}

fn answer(builder: &Builder, path: &str) -> (StatusCode, String) {
    if !path.starts_with(PATH) {
        return (StatusCode::NOT_FOUND, String::new());
    }
    let running = builder.running();
    let mut text = format!("builds: {}\n", running.len());
    for id in running {
        let _ = writeln!(text, "build {id}");
    }
    (StatusCode::OK, text)
}
