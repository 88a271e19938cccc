//! What listeners are told: builds that run, records there are, and what happens from then on.

use std::sync::Arc;

use cofferdam_wire::moby::buildkit::v1 as wire;
use connectrpc::{ConnectError, ErrorCode};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::entry::Key;
use super::filter::Query;
use super::{History, Record, Told, event};
use crate::failure::Failure;

/// Events of one listener.
pub(crate) type Events = BoxStream<'static, Result<wire::BuildHistoryEvent, ConnectError>>;

impl History {
    /// What `owner` may see of what `query` asks for: first what runs, then what has ended, and unless `early_exit` then what
    /// happens from now on.
    pub(crate) async fn listen(
        self: &Arc<Self>,
        owner: &str,
        query: &Query,
        early_exit: bool,
    ) -> Result<Events, Failure> {
        // Before anything is looked at, so that nothing is missed; what is told twice does no harm.
        let live = self.events.subscribe();
        let wanted = Wanted { owner: owner.to_owned(), reference: query.reference.clone() };
        let mut events: Vec<wire::BuildHistoryEvent> = {
            let state = self.lock();
            let running = state.running.iter().filter(|(key, _)| wanted.includes(key));
            running.map(|(_, record)| event(wire::BuildHistoryEventType::STARTED, record)).collect()
        };
        if !query.active_only {
            let ended = self.ended(&wanted, query).await?;
            let ended = ended.iter();
            events.extend(ended.map(|record| event(wire::BuildHistoryEventType::COMPLETE, record)));
        }
        let first = stream::iter(events.into_iter().map(Ok));
        if early_exit {
            return Ok(first.boxed());
        }
        Ok(first.chain(from_now_on(live, wanted)).boxed())
    }

    /// The records that are wanted. No more are read than that takes.
    async fn ended(&self, wanted: &Wanted, query: &Query) -> Result<Vec<Record>, Failure> {
        let mut keys: Vec<_> = {
            let state = self.lock();
            let found = state.ended.iter().filter(|(key, _)| wanted.includes(key));
            found.map(|(key, entry)| (entry.created, key.clone())).collect()
        };
        keys.sort();
        let mut chosen = query.choose();
        for (_, key) in query.order(keys) {
            if chosen.is_full() {
                break;
            }
            // One that was removed meanwhile is not there.
            if let Some(record) = self.read(&key).await? {
                chosen.offer(record);
            }
        }
        Ok(chosen.into_records())
    }
}

/// Whose builds, and which.
struct Wanted {
    owner: String,
    reference: String,
}

impl Wanted {
    fn includes(&self, key: &Key) -> bool {
        key.is_of(&self.owner) && (self.reference.is_empty() || key.reference() == self.reference)
    }
}

fn from_now_on(live: broadcast::Receiver<Arc<Told>>, wanted: Wanted) -> Events {
    let next = |state: Option<(broadcast::Receiver<Arc<Told>>, Wanted)>| async move {
        let (mut live, wanted) = state?;
        loop {
            match live.recv().await {
                Ok(told) if wanted.includes(&told.key) => {
                    return Some((Ok(told.event.clone()), Some((live, wanted))));
                }
                Ok(_) => {}
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => {
                    let message = "events were missed: this listener is too slow";
                    let error = Failure::new(ErrorCode::ResourceExhausted, message);
                    return Some((Err(error.into()), None));
                }
            }
        }
    };
    stream::unfold(Some((live, wanted)), next).boxed()
}
