//! The end of a trace, which comes after the end of its build: clients send their last spans when `Solve` has answered.
//!
//! A record has a trace at once. For a moment, or until the client finalizes it, more spans are waited for; if any come, the record
//! gets a longer trace.

use std::sync::Arc;
use std::time::Duration;

use buffa::MessageField;
use chrono::{DateTime, Utc};
use cofferdam_wire::moby::buildkit::v1 as wire;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::entry::Key;
use super::recording::to_wire;
use super::spans::Interest;
use super::{History, logs, trace};
use crate::blocking::blocking;
use crate::failure::Failure;

/// How long spans are waited for, as BuildKit does.
const LINGER: Duration = Duration::from_secs(3);

/// A record whose trace is not at its end.
#[derive(Clone)]
pub(super) struct Late {
    asked: Arc<Notify>,
    done: watch::Receiver<bool>,
}

impl Late {
    /// Brings it to its end.
    pub(super) async fn finish(mut self) {
        self.asked.notify_one();
        // The task is gone when this fails, and then there is nothing to wait for.
        let _ = self.done.wait_for(|done| *done).await;
    }
}

impl History {
    /// Waits for spans of a build that began at `created` and has just ended; its own, and how many of its client's are in the
    /// record already, are given.
    pub(super) fn wait_for_spans(
        self: &Arc<Self>,
        key: &Key,
        created: DateTime<Utc>,
        own: Vec<Value>,
        known: usize,
        interest: Interest,
    ) {
        let asked = Arc::new(Notify::new());
        let (done, waiting) = watch::channel(false);
        let late = Late { asked: Arc::clone(&asked), done: waiting };
        self.lock().late.insert(key.clone(), late);
        let (history, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LINGER, asked.notified()).await;
            let spans = interest.spans();
            drop(interest);
            if spans.len() > known
                && let Err(failure) = history.extend_trace(&key, created, own, spans).await
            {
                tracing::warn!(%failure, "a build's trace could not be written");
            }
            history.no_longer_late(&key, &asked);
            done.send_replace(true);
        });
    }

    /// Forgets one who waits. A later build of the same name may have another.
    fn no_longer_late(&self, key: &Key, asked: &Arc<Notify>) {
        let mut state = self.lock();
        if state.late.get(key).is_some_and(|late| Arc::ptr_eq(&late.asked, asked)) {
            state.late.remove(key);
        }
    }

    async fn extend_trace(
        self: &Arc<Self>,
        key: &Key,
        created: DateTime<Utc>,
        mut own: Vec<Value>,
        spans: Vec<Value>,
    ) -> Result<(), Failure> {
        own.extend(spans);
        let store = Arc::clone(&self.store);
        let kept = blocking(move || logs::keep(&store, trace::MEDIA_TYPE, &trace::to_blob(&own)));
        let (descriptor, blob) = kept.await??;
        let longer = |record: &mut wire::BuildHistoryRecord| {
            // A later build of the same name has a trace of its own.
            let same = logs::time_of(record.CreatedAt.as_option()) == Some(created);
            if same {
                record.trace = MessageField::some(to_wire(&descriptor));
            }
            same
        };
        self.change(key, vec![blob], longer).await
    }

    /// Completes a record: what its client said of its trace is in it afterwards.
    pub(crate) async fn finalize(&self, owner: &str, reference: &str) {
        let found = {
            let state = self.lock();
            state.late.get(&Key::new(owner, reference)).cloned()
        };
        if let Some(late) = found {
            late.finish().await;
        }
    }
}
