//! Spans on their way to the collector that the operator named, in OTLP over gRPC or HTTP.
//!
//! Nothing waits for a collector: spans that it does not take in time are dropped, and trouble with it is told once in a while and
//! never fails a build. What goes there are names and times of steps and what clients say of theirs, without credentials. What waits
//! is bounded in number and in bytes, because clients decide how much they say.

use std::sync::Arc;
use std::time::Duration;

use buffa::{Message, MessageField};
use cofferdam_wire::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use cofferdam_wire::opentelemetry::proto::common::v1::KeyValue;
use cofferdam_wire::opentelemetry::proto::trace::v1::ResourceSpans;
use http::{HeaderName, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::{Otel, OtelProtocol};
use crate::spans::text;

/// Batches that wait for a slow collector; each is one request of a client or one build.
const QUEUE: usize = 256;
/// Bytes that they have together, as they are sent.
const ROOM: usize = 32 << 20;
/// Longest time for one batch, as OpenTelemetry's exporters have it.
const TIMEOUT: Duration = Duration::from_secs(10);
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HTTP_PATH: &str = "/v1/traces";

/// Why a collector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Its address is none.
    #[error("[otel] endpoint")]
    Endpoint(#[from] url::ParseError),
    /// A header has a name or a value that no header has.
    #[error("[otel] headers")]
    Header(#[from] http::Error),
    /// The client cannot be made.
    #[error("[otel] make a client")]
    Client(#[from] reqwest::Error),
}

/// Where spans go; the default is nowhere.
#[derive(Default)]
pub struct Collector(Option<Queue>);

/// What waits to be sent.
struct Queue {
    batches: mpsc::Sender<Batch>,
    room: Arc<Semaphore>,
    /// What is said of whoever sends, whatever the spans say of it.
    attributes: Vec<KeyValue>,
}

/// Spans, and the room that they take until they are sent.
struct Batch {
    spans: Vec<ResourceSpans>,
    room: OwnedSemaphorePermit,
}

impl Queue {
    fn new(attributes: Vec<KeyValue>) -> (Self, mpsc::Receiver<Batch>) {
        let (batches, waiting) = mpsc::channel(QUEUE);
        (Self { batches, room: Arc::new(Semaphore::new(ROOM)), attributes }, waiting)
    }

    /// Whether there was room.
    fn add(&self, mut spans: Vec<ResourceSpans>) -> bool {
        spans.iter_mut().for_each(|one| self.sign(one));
        let bytes: u64 = spans.iter().map(|one| u64::from(one.encoded_len())).sum();
        let room = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Arc::clone(&self.room).try_acquire_many_owned(bytes).ok());
        room.is_some_and(|room| self.batches.try_send(Batch { spans, room }).is_ok())
    }

    /// Says whose spans they are: what clients say of that does not count.
    fn sign(&self, spans: &mut ResourceSpans) {
        if self.attributes.is_empty() {
            return;
        }
        let mut resource = spans.resource.as_option().cloned().unwrap_or_default();
        let own = |said: &KeyValue| self.attributes.iter().any(|own| own.key == said.key);
        resource.attributes.retain(|said| !own(said));
        resource.attributes.extend(self.attributes.iter().cloned());
        spans.resource = MessageField::some(resource);
    }
}

impl Collector {
    /// Begins to send to the collector of the configuration, if it names one. To be called within a runtime, which sends.
    ///
    /// # Errors
    /// The configuration names a collector that cannot be one.
    pub fn start(config: &Otel) -> Result<Self, CollectorError> {
        if config.endpoint.is_empty() {
            return Ok(Self::default());
        }
        let sender = Sender::new(config)?;
        let attributes = config.attributes.iter().map(|(key, value)| text(key, value)).collect();
        let (queue, waiting) = Queue::new(attributes);
        tokio::spawn(sender.run(waiting));
        Ok(Self(Some(queue)))
    }

    /// Sends spans, now or never.
    pub fn send(&self, spans: Vec<ResourceSpans>) {
        if let Some(queue) = &self.0
            && !spans.is_empty()
            && !queue.add(spans)
        {
            tracing::debug!("the collector of traces is too slow: spans were dropped");
        }
    }
}

struct Sender {
    http: reqwest::Client,
    url: String,
    grpc: bool,
    headers: http::HeaderMap,
}

impl Sender {
    fn new(config: &Otel) -> Result<Self, CollectorError> {
        let base = config.endpoint.trim_end_matches('/');
        let grpc = config.protocol == OtelProtocol::Grpc;
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        let url = match (grpc, config.whole) {
            (true, _) => format!("{base}{GRPC_PATH}"),
            (false, true) => base,
            (false, false) => format!("{base}{HTTP_PATH}"),
        };
        url::Url::parse(&url)?;
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT);
        if grpc {
            client = client.http2_prior_knowledge();
        }
        let mut headers = http::HeaderMap::new();
        for (name, value) in &config.headers {
            let name = HeaderName::try_from(name).map_err(http::Error::from)?;
            let mut value = HeaderValue::try_from(value).map_err(http::Error::from)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(Self { http: client.build()?, url, grpc, headers })
    }

    async fn run(self, mut waiting: mpsc::Receiver<Batch>) {
        let mut works = true;
        while let Some(Batch { spans, room }) = waiting.recv().await {
            match (self.send(spans).await, works) {
                (Ok(()), _) => works = true,
                (Err(reason), true) => {
                    works = false;
                    tracing::warn!(reason, "the collector of traces cannot be used");
                }
                (Err(_), false) => {}
            }
            drop(room);
        }
    }

    async fn send(&self, spans: Vec<ResourceSpans>) -> Result<(), String> {
        let request = ExportTraceServiceRequest { resource_spans: spans, ..Default::default() };
        let message = request.encode_to_vec();
        let request = self.http.post(&self.url).headers(self.headers.clone());
        let request = if self.grpc {
            let length = u32::try_from(message.len()).map_err(|_| "too many spans".to_owned())?;
            let mut body = vec![0];
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(&message);
            request.header("content-type", "application/grpc").header("te", "trailers").body(body)
        } else {
            request.header("content-type", "application/x-protobuf").body(message)
        };
        // The address may have a user in it.
        let response = request.send().await.map_err(|error| error.without_url().to_string())?;
        let status = response.headers().get("grpc-status").and_then(|code| code.to_str().ok());
        match (response.status().is_success(), status) {
            (true, None | Some("0")) => Ok(()),
            (true, Some(code)) => Err(format!("gRPC status {code}")),
            (false, _) => Err(response.status().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::pin::Pin;

    use cofferdam_wire::opentelemetry::proto::resource::v1::Resource;
    use hyper::body::{Body, Incoming};
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    fn spans(bytes: usize) -> Vec<ResourceSpans> {
        vec![ResourceSpans { schema_url: "x".repeat(bytes), ..ResourceSpans::default() }]
    }

    /// The path and the body of a request.
    type Heard = (String, Vec<u8>);

    /// A collector that speaks gRPC to one client, and answers everything with `status`.
    async fn collector(status: &'static str) -> (Sender, mpsc::UnboundedReceiver<Heard>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (told, heard) = mpsc::unbounded_channel::<Heard>();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                let told = told.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let mut body = request.into_body();
                    let mut bytes = Vec::new();
                    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                        if let Ok(data) = frame.unwrap().into_data() {
                            bytes.extend_from_slice(&data);
                        }
                    }
                    told.send((path, bytes)).unwrap();
                    let response = Response::builder().header("grpc-status", status);
                    Ok::<_, Infallible>(response.body(String::new()).unwrap())
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        let config = Otel { endpoint, ..Otel::default() };
        (Sender::new(&config).unwrap(), heard)
    }

    #[tokio::test]
    async fn a_collector_is_spoken_to_in_grpc() {
        let (sender, mut heard) = collector("0").await;
        sender.send(spans(3)).await.unwrap();
        let (path, body) = heard.recv().await.unwrap();
        assert_eq!(path, GRPC_PATH);
        let (frame, message) = body.split_at(5);
        let length = u32::try_from(message.len()).unwrap();
        assert_eq!(
            (frame[0], &frame[1..]),
            (0, &length.to_be_bytes()[..]),
            "plain, and its length"
        );
        let request = ExportTraceServiceRequest::decode_from_slice(message).unwrap();
        assert_eq!(request.resource_spans.len(), 1);
        assert_eq!(request.resource_spans[0].schema_url, "xxx");
    }

    #[tokio::test]
    async fn a_refusal_in_grpc_is_noticed() {
        let (sender, _heard) = collector("16").await;
        assert_eq!(sender.send(spans(3)).await, Err("gRPC status 16".to_owned()));
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (queue, mut waiting) = Queue::new(Vec::new());
        assert!(!queue.add(spans(ROOM)), "with its frame it is larger than the room");
        assert!(queue.add(spans(ROOM / 2)));
        assert!(!queue.add(spans(ROOM / 2)));
        assert!(queue.add(spans(1)));
        // What was sent makes room.
        drop(waiting.try_recv().unwrap());
        assert!(queue.add(spans(ROOM / 2)));
    }

    #[tokio::test]
    async fn nobody_else_says_whose_spans_they_are() {
        let own = text("cofferdam.project", "own");
        let (queue, mut waiting) = Queue::new(vec![own.clone()]);
        let other = text("host.name", "laptop");
        let resource = Resource {
            attributes: vec![text("cofferdam.project", "foreign"), other.clone()],
            ..Resource::default()
        };
        let resource = MessageField::some(resource);
        assert!(queue.add(vec![ResourceSpans { resource, ..ResourceSpans::default() }]));
        assert!(queue.add(spans(1)));
        let sent = waiting.recv().await.unwrap().spans;
        assert_eq!(sent[0].resource.as_option().unwrap().attributes, [other, own.clone()]);
        let sent = waiting.recv().await.unwrap().spans;
        assert_eq!(sent[0].resource.as_option().unwrap().attributes, [own]);
    }
}
