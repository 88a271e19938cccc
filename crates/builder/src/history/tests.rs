//! Records in a store of their own: what is kept with them, who sees them, and what comes late.
#![allow(clippy::unwrap_used)]

use buffa::MessageField;
use chrono::{DateTime, Utc};
use cofferdam_image::Descriptor;
use cofferdam_store::{Blob, Options};
use cofferdam_wire::opentelemetry::proto::trace::v1 as otel;
use futures::StreamExt;

use super::recording::to_wire;
use super::*;
use crate::wire_time::timestamp;

const ME: &str = "me";
const TRACE: [u8; 16] = [7; 16];

struct Bench {
    _root: tempfile::TempDir,
    history: Arc<History>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Options::default()).unwrap();
        let history = History::open(store, &config::History::default()).unwrap();
        Self { _root: root, history }
    }

    fn keep(&self, text: &str) -> (Descriptor, Blob) {
        logs::keep(&self.history.store, "text/plain", text.as_bytes()).unwrap()
    }

    fn is_there(&self, digest: &Digest) -> bool {
        self.history.store.blob(digest).is_some()
    }

    /// The build `reference` ends, with this as its logs, and keeps `more` without naming it.
    fn end(&self, reference: &str, created: DateTime<Utc>, text: &str, more: Vec<Blob>) -> Digest {
        let (logs, blob) = self.keep(text);
        let record = wire::BuildHistoryRecord {
            Ref: reference.to_owned(),
            CreatedAt: MessageField::some(timestamp(created)),
            CompletedAt: MessageField::some(timestamp(created)),
            logs: MessageField::some(to_wire(&logs)),
            ..wire::BuildHistoryRecord::default()
        };
        let digest = blob.digest();
        let blobs = std::iter::once(blob).chain(more).collect();
        self.history.end(&Key::new(ME, reference), Entry::new(Arc::new(record), blobs));
        digest
    }

    async fn refs(&self, owner: &str) -> Vec<String> {
        let events = self.history.listen(owner, &Query::default(), true).await.unwrap();
        let events: Vec<_> = events.collect().await;
        events.into_iter().map(|event| event.unwrap().record.Ref.clone()).collect()
    }

    /// What is on record of a build's trace.
    async fn trace_of(&self, reference: &str) -> Option<String> {
        let record = self.history.find(ME, reference).await.unwrap().unwrap();
        let digest = Digest::parse(&record.trace.as_option()?.digest).unwrap();
        let mut file = self.history.store.blob(&digest).unwrap().open().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        Some(text)
    }
}

fn spans(name: &str) -> Vec<otel::ResourceSpans> {
    let span = otel::Span {
        trace_id: TRACE.to_vec(),
        span_id: vec![1; 8],
        name: name.to_owned(),
        ..otel::Span::default()
    };
    let scope_spans = vec![otel::ScopeSpans { spans: vec![span], ..otel::ScopeSpans::default() }];
    vec![otel::ResourceSpans { scope_spans, ..otel::ResourceSpans::default() }]
}

#[tokio::test]
async fn a_record_that_changes_keeps_what_was_kept_with_it() {
    let bench = Bench::new();
    let (_, kept) = bench.keep("kept by an exporter");
    let kept_digest = kept.digest();
    let logs = bench.end("build", Utc::now(), "logs", vec![kept]);
    bench.history.flush().await;
    bench.history.pin(ME, "build", true).await.unwrap();
    bench.history.flush().await;
    assert!(bench.history.find(ME, "build").await.unwrap().unwrap().pinned);
    for digest in [kept_digest, logs] {
        assert!(bench.history.names(ME, &digest) && bench.is_there(&digest));
    }
    // What the change replaces goes, when the change is on disk.
    let (longer, blob) = bench.keep("longer");
    let change = |record: &mut wire::BuildHistoryRecord| {
        record.logs = MessageField::some(to_wire(&longer));
        true
    };
    bench.history.change(&Key::new(ME, "build"), vec![blob], change).await.unwrap();
    assert!(bench.is_there(&logs));
    bench.history.flush().await;
    assert!(!bench.is_there(&logs));
    assert!(bench.is_there(&kept_digest) && bench.is_there(&longer.digest));
    bench.history.remove(ME, "build").await.unwrap();
    assert!(!bench.is_there(&kept_digest) && !bench.is_there(&longer.digest));
}

#[tokio::test]
async fn what_an_older_version_names_goes_when_the_newest_is_on_disk() {
    let bench = Bench::new();
    let key = Key::new(ME, "build");
    let first = bench.end("build", Utc::now(), "first", Vec::new());
    bench.history.flush().await;
    let older = bench.history.find(ME, "build").await.unwrap().unwrap();
    bench.end("build", Utc::now(), "second", Vec::new());
    // As when the first version reaches the disk after the second has come.
    bench.history.written(&key, &older).await;
    assert_eq!(bench.history.lock().ended[&key].stale, [first]);
    assert!(bench.history.lock().ended[&key].unwritten.is_some());
    bench.history.flush().await;
    assert!(bench.history.lock().ended[&key].unwritten.is_none());
    assert!(!bench.is_there(&first));
}

#[tokio::test]
async fn a_blob_counts_once() {
    let bench = Bench::new();
    let (_, blob) = bench.keep(&"x".repeat(1000));
    let record = Arc::new(wire::BuildHistoryRecord::default());
    let once = Entry::new(Arc::clone(&record), vec![blob.clone()]);
    let twice = Entry::new(record, vec![blob.clone(), blob]);
    assert!(once.size >= 1000);
    assert_eq!((twice.size, twice.blobs), (once.size, once.blobs));
}

#[tokio::test]
async fn a_record_is_nobody_elses() {
    let bench = Bench::new();
    let logs = bench.end("build", Utc::now(), "logs", Vec::new());
    assert_eq!(bench.refs(ME).await, ["build"]);
    assert!(bench.history.names(ME, &logs), "control");
    assert!(bench.refs("other").await.is_empty() && bench.refs("").await.is_empty());
    assert!(bench.history.find("other", "build").await.unwrap().is_none());
    assert!(!bench.history.names("other", &logs));
    assert!(bench.history.blobs("other").is_empty());
    assert!(bench.history.pin("other", "build", true).await.is_err());
    bench.history.remove("other", "build").await.unwrap();
    bench.history.finalize("other", "build").await;
    assert_eq!(bench.refs(ME).await, ["build"]);
}

#[tokio::test]
async fn a_build_that_runs_is_told_from_one_that_did() {
    let bench = Bench::new();
    let key = Key::new(ME, "build");
    bench.history.begin(&key, Arc::default());
    assert!(bench.history.is_running(ME, "build"));
    assert!(!bench.history.is_running("other", "build"));
    bench.end("build", Utc::now(), "logs", Vec::new());
    assert!(!bench.history.is_running(ME, "build"));
}

#[tokio::test]
async fn a_record_that_is_finalized_has_what_came_after_its_build() {
    let bench = Bench::new();
    let created = Utc::now();
    let interest = bench.history.spans.keep(ME, &hex::encode(TRACE));
    bench.end("build", created, "logs", Vec::new());
    let own = spans::stubs(&spans("of the builder"));
    bench.history.wait_for_spans(&Key::new(ME, "build"), created, own, 0, interest);
    bench.history.spans.add("other", spans("of somebody else"));
    bench.history.spans.add(ME, spans("of the client"));
    assert_eq!(bench.trace_of("build").await, None, "control: it is waited for");
    bench.history.finalize(ME, "build").await;
    let trace = bench.trace_of("build").await.unwrap();
    assert!(trace.contains("of the builder") && trace.contains("of the client"), "{trace}");
    assert!(!trace.contains("of somebody else"), "{trace}");
    assert!(bench.history.lock().late.is_empty());
    // Nothing is waited for any more.
    bench.history.finalize(ME, "build").await;
    assert!(bench.history.spans.add(ME, spans("too late")).is_empty());
}

#[tokio::test]
async fn a_late_trace_goes_to_no_later_build_of_the_same_name() {
    let bench = Bench::new();
    let key = Key::new(ME, "build");
    let (first, second) = (Utc::now(), Utc::now() + chrono::TimeDelta::seconds(1));
    let interest = bench.history.spans.keep(ME, &hex::encode(TRACE));
    bench.end("build", second, "logs", Vec::new());
    bench.history.spans.add(ME, spans("of the first"));
    bench.history.wait_for_spans(&key, first, Vec::new(), 0, interest);
    bench.history.finalize(ME, "build").await;
    assert_eq!(bench.trace_of("build").await, None);
}

#[tokio::test]
async fn who_waits_for_a_trace_forgets_nobody_else() {
    let bench = Bench::new();
    let key = Key::new(ME, "build");
    let created = Utc::now();
    bench.end("build", created, "logs", Vec::new());
    let interest = || bench.history.spans.keep(ME, &hex::encode(TRACE));
    bench.history.wait_for_spans(&key, created, Vec::new(), 0, interest());
    let first = bench.history.lock().late.remove(&key).unwrap();
    bench.history.wait_for_spans(&key, created, Vec::new(), 0, interest());
    first.finish().await;
    assert!(bench.history.lock().late.contains_key(&key), "the second still waits");
    bench.history.finalize(ME, "build").await;
    assert!(bench.history.lock().late.is_empty());
}
