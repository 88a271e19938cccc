//! The trace of a build: its steps as spans, and what its client said to belong to the same trace.
//!
//! The blob is `application/vnd.buildkit.otlp.json.v0`: one JSON object after the other, in the shape of OpenTelemetry's span stubs.
//! A client that traces sends the context of its request in `traceparent` (W3C Trace Context); the build is a child of that span.

use std::collections::HashMap;

use buffa::MessageField;
use chrono::{DateTime, Utc};
use cofferdam_telemetry::{BuildIds, text};
use cofferdam_wire::moby::buildkit::v1::Vertex;
use cofferdam_wire::opentelemetry::proto::common::v1 as common;
use cofferdam_wire::opentelemetry::proto::common::v1::__buffa::oneof::any_value::Value as Kind;
use cofferdam_wire::opentelemetry::proto::resource::v1::Resource;
use cofferdam_wire::opentelemetry::proto::trace::v1 as wire;
use http::HeaderMap;
use serde_json::Value;

use super::logs::time_of;

pub(super) const MEDIA_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";
const HEADER: &str = "traceparent";
/// The attribute that says which build of a server it is.
const BUILD: &str = "cofferdam.build";
/// What made the spans.
const SCOPE: &str = "cofferdam";
/// `SpanKind` of work inside a process, and of an answered request.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
/// `StatusCode` of work that failed.
const ERROR: i32 = 2;

/// Where a build belongs in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// 32 hexadecimal digits.
    pub(crate) trace: String,
    /// The client's span, 16 hexadecimal digits.
    parent: Option<String>,
}

impl TraceContext {
    /// The context that a request came with; else that of the server's build it belongs to, or a new trace where there is none.
    pub(crate) fn of(headers: &HeaderMap, build: &str) -> Self {
        let sent = headers.get(HEADER).and_then(|value| value.to_str().ok()).and_then(parse);
        sent.unwrap_or_else(|| Self::of_build(build))
    }

    fn of_build(build: &str) -> Self {
        if build.is_empty() {
            return Self { trace: hex::encode(random(16)), parent: None };
        }
        let ids = BuildIds::of(build);
        Self { trace: hex::encode(ids.trace), parent: Some(hex::encode(ids.span)) }
    }
}

/// `version-trace-parent-flags`, all hexadecimal; zeros are no ids.
fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.trim().split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && text.bytes().any(|byte| byte != b'0')
    };
    let known = version.len() == 2 && version != "ff" && parts.next().is_some();
    (known && hex(trace, 32) && hex(parent, 16))
        .then(|| TraceContext { trace: trace.to_owned(), parent: Some(parent.to_owned()) })
}

/// So many random bytes, at most 16, never all zero. Ids of spans need to differ and no more.
fn random(count: usize) -> Vec<u8> {
    let mut bytes = [0_u8; 16];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        let now = Utc::now().timestamp_nanos_opt().unwrap_or_default().to_be_bytes();
        bytes[..8].copy_from_slice(&now);
    }
    bytes[0] |= 1;
    bytes[..count.min(bytes.len())].to_vec()
}

/// The spans of a build that has ended: the build itself and its steps. `owner` is the server's build that it belongs to, if any.
pub(super) fn of_build(
    context: &TraceContext,
    (owner, reference): (&str, &str),
    times: (DateTime<Utc>, DateTime<Utc>),
    error: Option<&str>,
    vertices: &HashMap<String, Vertex>,
) -> wire::ResourceSpans {
    let id = random(8);
    let steps = vertices.values().filter_map(|vertex| {
        let started = time_of(vertex.started.as_option())?;
        let completed = time_of(vertex.completed.as_option())?;
        let attributes = vec![
            attribute("vertex", Kind::StringValue(vertex.digest.clone())),
            attribute("cached", Kind::BoolValue(vertex.cached)),
        ];
        let error = Some(vertex.error.as_str()).filter(|error| !error.is_empty());
        Some(wire::Span {
            span_id: random(8),
            parent_span_id: id.clone(),
            kind: INTERNAL,
            attributes,
            ..span(context, &vertex.name, (started, completed), error)
        })
    });
    let mut spans: Vec<wire::Span> = steps.collect();
    spans.sort_by_key(|span| span.start_time_unix_nano);
    let mut attributes = vec![attribute("ref", Kind::StringValue(reference.to_owned()))];
    if !owner.is_empty() {
        attributes.push(text(BUILD, owner));
    }
    let whole = wire::Span {
        links: link(context, owner).into_iter().collect(),
        span_id: id.clone(),
        parent_span_id: context.parent.as_deref().map(bytes_of).unwrap_or_default(),
        kind: SERVER,
        attributes,
        ..span(context, "moby.buildkit.v1.Control/Solve", times, error)
    };
    spans.insert(0, whole);
    let scope = common::InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let resource = Resource {
        attributes: vec![attribute("service.name", Kind::StringValue(SCOPE.to_owned()))],
        ..Default::default()
    };
    let of_scope =
        wire::ScopeSpans { scope: MessageField::some(scope), spans, ..wire::ScopeSpans::default() };
    wire::ResourceSpans {
        resource: MessageField::some(resource),
        scope_spans: vec![of_scope],
        ..wire::ResourceSpans::default()
    }
}

/// From a trace of a client to the server's own trace of the build.
fn link(context: &TraceContext, owner: &str) -> Option<wire::span::Link> {
    let ids = BuildIds::of(owner);
    let foreign = !owner.is_empty() && context.trace != hex::encode(ids.trace);
    foreign.then(|| wire::span::Link {
        trace_id: ids.trace.to_vec(),
        span_id: ids.span.to_vec(),
        ..wire::span::Link::default()
    })
}

fn span(
    context: &TraceContext,
    name: &str,
    (started, completed): (DateTime<Utc>, DateTime<Utc>),
    error: Option<&str>,
) -> wire::Span {
    let nanoseconds = |time: DateTime<Utc>| {
        time.timestamp_nanos_opt().and_then(|time| u64::try_from(time).ok()).unwrap_or_default()
    };
    let status = error.map(|message| wire::Status {
        message: message.to_owned(),
        code: ERROR,
        ..wire::Status::default()
    });
    wire::Span {
        trace_id: bytes_of(&context.trace),
        name: name.to_owned(),
        start_time_unix_nano: nanoseconds(started),
        end_time_unix_nano: nanoseconds(completed),
        status: status.map_or_else(MessageField::none, MessageField::some),
        ..wire::Span::default()
    }
}

fn attribute(key: &str, value: Kind) -> common::KeyValue {
    common::KeyValue {
        key: key.to_owned(),
        value: MessageField::some(common::AnyValue { value: Some(value), ..Default::default() }),
        ..Default::default()
    }
}

/// The bytes of an id that was checked.
fn bytes_of(id: &str) -> Vec<u8> {
    hex::decode(id).unwrap_or_default()
}

/// Spans as the blob has them.
pub(super) fn to_blob(spans: &[Value]) -> Vec<u8> {
    let mut blob = Vec::new();
    for span in spans {
        // A value without maps of other keys than text always has a form.
        if serde_json::to_writer_pretty(&mut blob, span).is_ok() {
            blob.push(b'\n');
        }
    }
    blob
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of_header(text: &str) -> TraceContext {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text.parse().unwrap());
        TraceContext::of(&headers, "")
    }

    #[test]
    fn a_request_without_a_trace_belongs_to_that_of_its_build() {
        let ids = BuildIds::of("b1");
        let context = TraceContext::of(&HeaderMap::new(), "b1");
        assert_eq!(context.trace, hex::encode(ids.trace));
        assert_eq!(context.parent, Some(hex::encode(ids.span)));
        let times = (Utc::now(), Utc::now());
        let whole = |context: &TraceContext| {
            let spans = of_build(context, ("b1", "ref"), times, None, &HashMap::new());
            super::super::spans::stubs(&[spans])[0].clone()
        };
        assert_eq!(whole(&context)["Parent"]["SpanID"], hex::encode(ids.span));
        assert_eq!(whole(&context)["Attributes"][1]["Value"]["Value"], "b1");
        assert!(whole(&context)["Links"].as_array().is_some_and(Vec::is_empty));
        // A client's own trace leads there.
        let client = of_header(&format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let linked = &whole(&client)["Links"][0]["SpanContext"];
        assert_eq!(linked["TraceID"], hex::encode(ids.trace));
        assert_eq!(linked["SpanID"], hex::encode(ids.span));
    }

    #[test]
    fn a_request_continues_its_clients_trace() {
        let context = of_header(&format!("00-{TRACE}-00f067aa0ba902b7-01"));
        assert_eq!(context.trace, TRACE);
        assert_eq!(context.parent.as_deref(), Some("00f067aa0ba902b7"));
    }

    #[test]
    fn what_is_no_context_begins_a_trace() {
        for text in [
            "",
            "00",
            "00-x-y-z",
            &format!("00-{TRACE}-0000000000000000-01"),
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{TRACE}-00f067aa0ba902b7"),
        ] {
            let context = of_header(text);
            assert_ne!(context.trace, TRACE, "{text}");
            assert_eq!((context.trace.len(), context.parent), (32, None));
        }
    }

    #[test]
    fn steps_are_children_of_the_build() {
        let context = of_header(&format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let at = crate::wire_time::timestamp(Utc::now());
        let step = Vertex {
            digest: "sha256:1".into(),
            name: "RUN make".into(),
            started: buffa::MessageField::some(at.clone()),
            completed: buffa::MessageField::some(at),
            error: "exit code: 1".into(),
            ..Vertex::default()
        };
        let never = Vertex { digest: "sha256:2".into(), ..Vertex::default() };
        let vertices = [step, never].map(|vertex| (vertex.digest.clone(), vertex)).into();
        let times = (Utc::now(), Utc::now());
        let spans =
            super::super::spans::stubs(&[of_build(&context, ("", "ref"), times, None, &vertices)]);
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0]["Parent"]["SpanID"], "00f067aa0ba902b7");
        assert_eq!(spans[1]["Parent"]["SpanID"], spans[0]["SpanContext"]["SpanID"]);
        assert_eq!(spans[1]["Status"]["Code"], "Error");
        let blob = to_blob(&spans);
        let read = serde_json::Deserializer::from_slice(&blob).into_iter::<Value>();
        assert_eq!(read.filter_map(Result::ok).count(), 2);
    }
}
