//! The trace of one build as the server sees it: waiting for a builder, its start, connections. What happens in the builder is
//! said by the builder, in the same trace.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use buffa::{Inline, MessageField};
use cofferdam_fleet::Timing;
use cofferdam_telemetry::{BuildIds, text};
use cofferdam_wire::opentelemetry::proto::common::v1::InstrumentationScope;
use cofferdam_wire::opentelemetry::proto::resource::v1::Resource;
use cofferdam_wire::opentelemetry::proto::trace::v1 as wire;

/// What made the spans.
const SERVICE: &str = "cofferdam";
/// Spans of one build: a client connects again for each of its solves.
const MOST_SPANS: usize = 1000;
/// `SpanKind` of work inside a process, and of an answered request.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
/// `StatusCode` of work that failed.
const FAILED: i32 = 2;

/// The trace of a build that runs.
pub(crate) struct Trace {
    build: String,
    ids: BuildIds,
    begun: SystemTime,
    spans: Mutex<Vec<wire::Span>>,
}

impl Trace {
    pub(super) fn new(build: &str) -> Self {
        Self {
            build: build.to_owned(),
            ids: BuildIds::of(build),
            begun: SystemTime::now(),
            spans: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<wire::Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn span(&self, name: &str, (from, to): (SystemTime, SystemTime), failed: bool) -> wire::Span {
        wire::Span {
            trace_id: self.ids.trace.to_vec(),
            name: name.to_owned(),
            kind: INTERNAL,
            start_time_unix_nano: nanoseconds(from),
            end_time_unix_nano: nanoseconds(to),
            status: status(failed),
            ..wire::Span::default()
        }
    }

    /// Adds something that happened to the build. Gives its number, if there was room.
    fn add(&self, name: &str, times: (SystemTime, SystemTime), failed: bool) -> Option<usize> {
        let mut spans = self.lock();
        let number = spans.len();
        if number >= MOST_SPANS {
            return None;
        }
        let id = BuildIds::of(&format!("{}/{number}", self.build)).span;
        spans.push(wire::Span {
            span_id: id.to_vec(),
            parent_span_id: self.ids.span.to_vec(),
            ..self.span(name, times, failed)
        });
        Some(number)
    }

    /// Adds something that begins now, and lasts until it is ended or the build is. The number is for [`Trace::end`].
    pub(crate) fn begin(&self, name: &str) -> Option<usize> {
        self.add(name, (SystemTime::now(), UNIX_EPOCH), false)
    }

    /// It ends now.
    pub(crate) fn end(&self, number: Option<usize>, failed: bool) {
        let mut spans = self.lock();
        if let Some(span) = number.and_then(|number| spans.get_mut(number)) {
            span.end_time_unix_nano = nanoseconds(SystemTime::now());
            span.status = status(failed);
        }
    }

    /// Adds how the build got its builder, which was asked for then.
    pub(super) fn got_builder(&self, from: SystemTime, timing: Timing) {
        let now = SystemTime::now();
        if !timing.queued.is_zero() {
            self.add("wait for a place", (from, (from + timing.queued).min(now)), false);
        }
        if let Some(took) = timing.started {
            let began = now.checked_sub(took).unwrap_or(from).max(from);
            self.add("start the builder", (began, now), false);
        }
    }

    /// Adds that it got none, asked for then.
    pub(super) fn got_no_builder(&self, from: SystemTime) {
        self.add("start the builder", (from, SystemTime::now()), true);
    }

    /// All of it, for the collector.
    pub(super) fn finish(&self, project: &str, status: &str) -> Vec<wire::ResourceSpans> {
        let whole = wire::Span {
            span_id: self.ids.span.to_vec(),
            kind: SERVER,
            attributes: vec![
                text("cofferdam.build", &self.build),
                text("cofferdam.project", project),
                text("cofferdam.status", status),
            ],
            ..self.span("build", (self.begun, SystemTime::now()), status != "success")
        };
        let end = whole.end_time_unix_nano;
        let mut spans = vec![whole];
        spans.append(&mut self.lock());
        // What is still open ends with the build.
        spans.iter_mut().filter(|span| span.end_time_unix_nano == 0).for_each(|span| {
            span.end_time_unix_nano = end;
        });
        let scope = InstrumentationScope {
            name: SERVICE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let of_scope = wire::ScopeSpans {
            scope: MessageField::some(scope),
            spans,
            ..wire::ScopeSpans::default()
        };
        let resource =
            Resource { attributes: vec![text("service.name", SERVICE)], ..Resource::default() };
        vec![wire::ResourceSpans {
            resource: MessageField::some(resource),
            scope_spans: vec![of_scope],
            ..wire::ResourceSpans::default()
        }]
    }
}

fn status(failed: bool) -> MessageField<wire::Status, Inline<wire::Status>> {
    let status = wire::Status { code: FAILED, ..wire::Status::default() };
    if failed { MessageField::some(status) } else { MessageField::none() }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_happens_to_a_build_is_below_the_build() {
        let trace = Trace::new("b1");
        let from = SystemTime::now() - Duration::from_secs(60);
        let (queued, started) = (Duration::from_secs(10), Some(Duration::from_secs(20)));
        trace.got_builder(from, Timing { queued, started });
        trace.got_builder(from, Timing::default());
        let (broken, open) = (trace.begin("connection"), trace.begin("connection"));
        trace.end(broken, true);
        assert!(open.is_some());
        let sent = trace.finish("p1", "failed");
        let spans = &sent[0].scope_spans[0].spans;
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names[..3], ["build", "wait for a place", "start the builder"]);
        assert_eq!(names[3..], ["connection", "connection"]);
        let ids = BuildIds::of("b1");
        assert!(spans.iter().all(|span| span.trace_id == ids.trace));
        assert_eq!(spans[0].span_id, ids.span);
        assert!(spans[1..].iter().all(|span| span.parent_span_id == ids.span));
        assert!(spans[1..].windows(2).all(|two| two[0].span_id != two[1].span_id));
        let took = |span: &wire::Span| {
            Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano).as_secs()
        };
        assert_eq!((took(&spans[1]), took(&spans[2])), (10, 20));
        let failed = |span: &wire::Span| span.status.as_option().map(|status| status.code);
        let codes: Vec<_> = spans.iter().map(failed).collect();
        assert_eq!(codes, [Some(FAILED), None, None, Some(FAILED), None]);
        assert_eq!(spans[4].end_time_unix_nano, spans[0].end_time_unix_nano, "until the end");
    }
}
