//! What is counted of calls and of other requests: codes, classes of status, bytes of the registry. Never a name or a path.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use connectrpc::interceptor::{
    Interceptor, Next, NextStream, PayloadStream, StreamRequest, StreamResponse, UnaryRequest,
    UnaryResponse,
};
use connectrpc::{ConnectError, ErrorCode};
use http::{Request, Response};
use hyper::body::{Frame, SizeHint};
use metrics::Counter;

use super::table::{CALLS, REGISTRY_BYTES, RESPONSES};

/// Where the registry is.
const REGISTRY: &str = "/v2/";

/// Counts calls of the API by the code they are answered with.
pub(crate) struct Calls;

fn call<T>(result: &Result<T, ConnectError>) {
    let code = result.as_ref().err().map_or("ok", |error| ErrorCode::as_str(&error.code));
    CALLS.count(code, 1);
}

#[connectrpc::async_trait]
impl Interceptor for Calls {
    async fn intercept_unary(
        &self,
        request: UnaryRequest,
        next: Next<'_>,
    ) -> Result<UnaryResponse, ConnectError> {
        let response = next.run(request).await;
        call(&response);
        response
    }

    async fn intercept_streaming(
        &self,
        request: StreamRequest,
        inbound: PayloadStream,
        next: NextStream<'_>,
    ) -> Result<StreamResponse, ConnectError> {
        let response = next.run(request, inbound).await;
        call(&response);
        response
    }
}

/// A request whose bytes are counted if they are the registry's; and whether they are.
pub(crate) fn counted(request: Request<Body>) -> (Request<Body>, bool) {
    let registry = request.uri().path().starts_with(REGISTRY);
    let request =
        if registry { request.map(|body| Counted::wrap(body, "received")) } else { request };
    (request, registry)
}

/// Counts an answer, and its bytes if they are the registry's.
pub(crate) fn answered(response: Response<Body>, registry: bool) -> Response<Body> {
    let class = match response.status().as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    RESPONSES.count(class, 1);
    if registry { response.map(|body| Counted::wrap(body, "sent")) } else { response }
}

/// A body whose bytes are counted as they pass.
struct Counted {
    body: Body,
    bytes: Counter,
}

impl Counted {
    fn wrap(body: Body, direction: &str) -> Body {
        Body::new(Self { body, bytes: REGISTRY_BYTES.of(direction) })
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.bytes.increment(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::table::FIGURES;
    use super::*;

    #[tokio::test]
    async fn bodies_pass_as_they_are() {
        let request = Request::post("/v2/p/blobs/uploads/").body(Body::from("layer")).unwrap();
        let (request, registry) = counted(request);
        assert!(registry);
        let response = answered(Response::new(request.into_body()), registry);
        let bytes = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        assert_eq!(&bytes[..], b"layer");
        let elsewhere = Request::get("/healthz").body(Body::empty()).unwrap();
        assert!(!counted(elsewhere).1);
    }

    #[test]
    fn every_code_is_declared() {
        let codes = FIGURES.iter().find(|figure| figure.name == CALLS.name).unwrap();
        for number in 1..=16 {
            let code = ErrorCode::from_grpc_code(number).unwrap();
            assert!(codes.known(code.as_str()).is_some(), "{code:?}");
        }
    }
}
