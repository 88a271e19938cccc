//! Spans that clients send while their builds run, to be put into the records of those builds.
//!
//! Only traces of builds that run, or ended a moment ago, are kept, and only spans that came from the owner of such a build:
//! whoever knows another build's trace can add nothing to it. What is kept of one trace is bounded. Credentials are taken out of
//! everything that is kept or handed on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat};
use cofferdam_wire::opentelemetry::proto::common::v1 as common;
use cofferdam_wire::opentelemetry::proto::common::v1::__buffa::oneof::any_value::Value as Kind;
use cofferdam_wire::opentelemetry::proto::trace::v1 as wire;
use serde_json::{Value, json};

use super::redact;

/// Spans of one trace that are kept: a build of a thousand steps has fewer.
const MAX_SPANS: usize = 10_000;
/// Bytes of one trace as JSON that are kept.
const MAX_BYTES: usize = 8 << 20;
/// How deep values of attributes may be nested; what is deeper is left out.
const MAX_DEPTH: usize = 8;

type Traces = HashMap<(String, String), Trace>;

/// Spans by owner and trace.
#[derive(Default)]
pub(crate) struct Spans(Arc<Mutex<Traces>>);

#[derive(Default)]
struct Trace {
    builds: usize,
    spans: Vec<Value>,
    bytes: usize,
}

/// A build's interest in a trace. Spans are kept as long as one is held.
pub(super) struct Interest {
    spans: Arc<Mutex<Traces>>,
    key: (String, String),
}

fn lock(traces: &Mutex<Traces>) -> MutexGuard<'_, Traces> {
    traces.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spans {
    /// Begins to keep spans of `owner` in `trace`, given in hexadecimal digits.
    pub(super) fn keep(&self, owner: &str, trace: &str) -> Interest {
        let key = (owner.to_owned(), trace.to_owned());
        lock(&self.0).entry(key.clone()).or_default().builds += 1;
        Interest { spans: Arc::clone(&self.0), key }
    }

    /// Takes what a client of `owner` sent, and gives back what of it belongs to its builds, without credentials.
    pub(crate) fn add(
        &self,
        owner: &str,
        mut sent: Vec<wire::ResourceSpans>,
    ) -> Vec<wire::ResourceSpans> {
        only(&mut sent, &self.wanted(owner));
        sent.iter_mut().for_each(redact::spans);
        let mut traces = lock(&self.0);
        each(&sent, |span, resource, library| {
            let key = (owner.to_owned(), hex::encode(&span.trace_id));
            if let Some(trace) = traces.get_mut(&key) {
                trace.add(|| to_json(span, resource, library));
            }
        });
        drop(traces);
        sent
    }

    /// The traces that builds of `owner` have an interest in.
    fn wanted(&self, owner: &str) -> HashSet<String> {
        let traces = lock(&self.0);
        let own = traces.keys().filter(|(of, _)| of == owner);
        own.map(|(_, trace)| trace.clone()).collect()
    }
}

/// Leaves the spans of these traces.
fn only(sent: &mut Vec<wire::ResourceSpans>, traces: &HashSet<String>) {
    for of_resource in &mut *sent {
        for of_scope in &mut of_resource.scope_spans {
            of_scope.spans.retain(|span| traces.contains(&hex::encode(&span.trace_id)));
        }
        of_resource.scope_spans.retain(|of_scope| !of_scope.spans.is_empty());
    }
    sent.retain(|of_resource| !of_resource.scope_spans.is_empty());
}

/// Spans as a record's blob has them.
pub(super) fn stubs(spans: &[wire::ResourceSpans]) -> Vec<Value> {
    let mut stubs = Vec::new();
    each(spans, |span, resource, library| stubs.push(to_json(span, resource, library)));
    stubs
}

/// Every span with what it came from.
fn each(sent: &[wire::ResourceSpans], mut take: impl FnMut(&wire::Span, &Value, &Value)) {
    for of_resource in sent {
        let resource = of_resource.resource.as_option();
        let resource = attributes(resource.map(|from| &from.attributes[..]).unwrap_or_default());
        for of_scope in &of_resource.scope_spans {
            let scope = of_scope.scope.as_option();
            let library = json!({
                "Name": scope.map(|scope| scope.name.as_str()).unwrap_or_default(),
                "Version": scope.map(|scope| scope.version.as_str()).unwrap_or_default(),
                "SchemaURL": of_scope.schema_url,
            });
            for span in &of_scope.spans {
                take(span, &resource, &library);
            }
        }
    }
}

impl Trace {
    fn add(&mut self, span: impl FnOnce() -> Value) {
        if self.spans.len() >= MAX_SPANS || self.bytes >= MAX_BYTES {
            return;
        }
        let span = span();
        self.bytes += span.to_string().len();
        self.spans.push(span);
    }
}

impl Interest {
    /// What came so far.
    pub(super) fn spans(&self) -> Vec<Value> {
        lock(&self.spans).get(&self.key).map(|trace| trace.spans.clone()).unwrap_or_default()
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut traces = lock(&self.spans);
        let Some(trace) = traces.get_mut(&self.key) else { return };
        trace.builds -= 1;
        if trace.builds == 0 {
            traces.remove(&self.key);
        }
    }
}

fn to_json(span: &wire::Span, resource: &Value, library: &Value) -> Value {
    let trace = hex::encode(&span.trace_id);
    let id = |bytes: &[u8]| hex::encode(bytes.get(..8).unwrap_or(&[0; 8]));
    let status = span.status.as_option();
    let code = match status.map_or(0, |status| status.code) {
        1 => "Ok",
        2 => "Error",
        _ => "Unset",
    };
    json!({
        "Name": span.name,
        "SpanContext": span_context(&trace, &id(&span.span_id), false),
        "Parent": span_context(&trace, &id(&span.parent_span_id), false),
        "SpanKind": span.kind,
        "StartTime": time(span.start_time_unix_nano),
        "EndTime": time(span.end_time_unix_nano),
        "Attributes": attributes(&span.attributes),
        "Events": span.events.iter().map(event).collect::<Vec<_>>(),
        "Links": span.links.iter().map(|link| link_json(link, &id(&link.span_id))).collect::<Vec<_>>(),
        "Status": {
            "Code": code,
            "Description": status.map(|status| status.message.as_str()).unwrap_or_default(),
        },
        "DroppedAttributes": span.dropped_attributes_count,
        "DroppedEvents": span.dropped_events_count,
        "DroppedLinks": span.dropped_links_count,
        "ChildSpanCount": 0,
        "Resource": resource,
        "InstrumentationLibrary": library,
    })
}

fn span_context(trace: &str, span: &str, remote: bool) -> Value {
    json!({
        "TraceID": trace,
        "SpanID": span,
        "TraceFlags": "01",
        "TraceState": "",
        "Remote": remote,
    })
}

fn event(event: &wire::span::Event) -> Value {
    json!({
        "Name": event.name,
        "Attributes": attributes(&event.attributes),
        "DroppedAttributeCount": event.dropped_attributes_count,
        "Time": time(event.time_unix_nano),
    })
}

fn link_json(link: &wire::span::Link, span: &str) -> Value {
    json!({
        "SpanContext": span_context(&hex::encode(&link.trace_id), span, true),
        "Attributes": attributes(&link.attributes),
        "DroppedAttributeCount": link.dropped_attributes_count,
    })
}

fn time(nanoseconds: u64) -> String {
    let nanoseconds = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
    DateTime::from_timestamp_nanos(nanoseconds).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

fn attributes(list: &[common::KeyValue]) -> Value {
    let one = |pair: &common::KeyValue| {
        let (kind, value) = value(pair.value.as_option(), 0);
        json!({ "Key": pair.key, "Value": { "Type": kind, "Value": value } })
    };
    Value::Array(list.iter().map(one).collect())
}

/// A value and the name of its type.
fn value(value_: Option<&common::AnyValue>, depth: usize) -> (&'static str, Value) {
    let Some(kind) = value_.and_then(|value| value.value.as_ref()) else {
        return ("INVALID", Value::Null);
    };
    match kind {
        Kind::StringValue(text) => ("STRING", json!(text)),
        Kind::BoolValue(on) => ("BOOL", json!(on)),
        Kind::IntValue(number) => ("INT64", json!(number)),
        Kind::DoubleValue(number) => ("FLOAT64", json!(number)),
        Kind::ArrayValue(list) if depth < MAX_DEPTH => {
            let values: Vec<_> =
                list.values.iter().map(|one| value(Some(one), depth + 1)).collect();
            let kind = match values.first() {
                Some(("BOOL", _)) => "BOOLSLICE",
                Some(("INT64", _)) => "INT64SLICE",
                Some(("FLOAT64", _)) => "FLOAT64SLICE",
                _ => "STRINGSLICE",
            };
            (kind, values.into_iter().map(|(_, value)| value).collect())
        }
        Kind::BytesValue(bytes) => ("STRING", json!(hex::encode(bytes))),
        Kind::ArrayValue(_) | Kind::KvlistValue(_) => ("INVALID", Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use buffa::MessageField;

    use super::*;

    const TRACE: [u8; 16] = [7; 16];

    fn sent(names: &[&str]) -> Vec<wire::ResourceSpans> {
        let span = |name: &&str| wire::Span {
            trace_id: TRACE.to_vec(),
            span_id: vec![1; 8],
            name: (*name).to_owned(),
            attributes: vec![common::KeyValue {
                key: "url".into(),
                value: MessageField::some(common::AnyValue {
                    value: Some(Kind::StringValue("https://u:p@h/".into())),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..wire::Span::default()
        };
        let spans = names.iter().map(span).collect();
        let scope_spans = vec![wire::ScopeSpans { spans, ..Default::default() }];
        vec![wire::ResourceSpans { scope_spans, ..Default::default() }]
    }

    #[test]
    fn spans_of_builds_that_run_are_kept() {
        let spans = Spans::default();
        let trace = hex::encode(TRACE);
        assert!(spans.add("", sent(&["early"])).is_empty());
        let first = spans.keep("", &trace);
        let second = spans.keep("", &trace);
        let handed_on = spans.add("", sent(&["one", "two"]));
        assert_eq!(handed_on[0].scope_spans[0].spans.len(), 2);
        let told = format!("{handed_on:?}");
        assert!(!told.contains("u:p") && told.contains("https://xxxxx:xxxxx@h/"), "{told}");
        assert!(spans.add("another", sent(&["foreign"])).is_empty());
        let kept = first.spans();
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[0]["Name"], "one");
        assert_eq!(kept[0]["Attributes"][0]["Value"]["Value"], "https://xxxxx:xxxxx@h/");
        drop(first);
        assert_eq!(second.spans().len(), 2);
        drop(second);
        assert!(spans.0.lock().is_ok_and(|traces| traces.is_empty()));
    }

    #[test]
    fn what_is_kept_of_a_trace_is_bounded() {
        let spans = Spans::default();
        let interest = spans.keep("", &hex::encode(TRACE));
        spans.add("", sent(&["x"; 2 * MAX_SPANS]));
        assert_eq!(interest.spans().len(), MAX_SPANS);
    }
}
