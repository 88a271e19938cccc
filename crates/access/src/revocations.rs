//! Tells open connections and running builds that their token is gone.
//!
//! Watching costs one entry of a map and goes with its watcher. Revoked ids are remembered for a while, so that a watcher who
//! comes just after the revocation of a token it was granted with learns of it too.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How long revoked ids are remembered: longer than any request takes from its authorization to its watch.
const MEMORY: Duration = Duration::from_secs(120);
/// Most ids that are remembered. Deleting a project with more tokens than this within the time above forgets the oldest.
const MOST_REMEMBERED: usize = 100_000;

/// Revocations of tokens.
#[derive(Debug, Clone, Default)]
pub struct Revocations(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    watched: HashMap<String, Watched>,
    recent: HashSet<String>,
    order: VecDeque<(Instant, String)>,
}

#[derive(Debug)]
struct Watched {
    signal: CancellationToken,
    watchers: usize,
}

/// One watch of one token; ends when dropped.
#[derive(Debug)]
#[must_use = "a watch that is dropped watches nothing"]
pub struct Watch {
    revocations: Revocations,
    id: String,
    signal: CancellationToken,
}

impl Revocations {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a token. Deleting a token deletes those below it, and all of them are told.
    pub fn watch(&self, token_id: &str) -> Watch {
        let mut state = self.lock();
        let id = token_id.to_owned();
        let entry = state.watched.entry(id.clone());
        let watched =
            entry.or_insert_with(|| Watched { signal: CancellationToken::new(), watchers: 0 });
        watched.watchers += 1;
        let signal = watched.signal.clone();
        state.forget(Instant::now());
        if state.recent.contains(token_id) {
            signal.cancel();
        }
        drop(state);
        Watch { revocations: self.clone(), id, signal }
    }

    /// Tells everybody who watches one of the tokens that it is gone.
    pub fn revoke<I: AsRef<str>>(&self, ids: &[I]) {
        let mut state = self.lock();
        let now = Instant::now();
        let mut signals = Vec::new();
        for id in ids {
            let id = id.as_ref();
            signals.extend(state.watched.get(id).map(|watched| watched.signal.clone()));
            if state.recent.insert(id.to_owned()) {
                state.order.push_back((now, id.to_owned()));
            }
        }
        state.forget(now);
        drop(state);
        // Outside the lock: a woken watcher may drop its watch at once.
        for signal in signals {
            signal.cancel();
        }
    }

    /// How many tokens are watched at the moment.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.lock().watched.len()
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front()
            && (self.order.len() > MOST_REMEMBERED || now.duration_since(*at) > MEMORY)
        {
            if let Some((_, id)) = self.order.pop_front() {
                self.recent.remove(&id);
            }
        }
    }
}

impl Watch {
    /// Resolves when the token is gone.
    pub async fn revoked(&self) {
        self.signal.cancelled().await;
    }

    /// Fires when the token is gone, for as long as this watch lives.
    #[must_use]
    pub fn signal(&self) -> CancellationToken {
        // A child: whoever gets it can end nothing but their own work.
        self.signal.child_token()
    }

    /// Whether the token is gone.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.signal.is_cancelled()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.revocations.lock();
        let Some(watched) = state.watched.get_mut(&self.id) else { return };
        watched.watchers -= 1;
        if watched.watchers == 0 {
            state.watched.remove(&self.id);
            // A burst of builds leaves no large empty table behind.
            if state.watched.capacity() > 1024 && state.watched.len() < state.watched.capacity() / 8
            {
                state.watched.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn all_watchers_of_a_revoked_token_are_told_and_no_others() {
        let revocations = Revocations::default();
        let (first, second) = (revocations.watch("a"), revocations.watch("a"));
        let other = revocations.watch("b");
        revocations.revoke(&["a", "nobody watches this"]);
        tokio::time::timeout(Duration::from_secs(5), async {
            first.revoked().await;
            second.revoked().await;
        })
        .await
        .unwrap();
        assert!(!other.is_revoked());
    }

    #[tokio::test]
    async fn a_watcher_who_comes_just_after_is_told() {
        let revocations = Revocations::default();
        revocations.revoke(&["a".to_owned()]);
        assert!(revocations.watch("a").is_revoked());
        assert!(!revocations.watch("b").is_revoked());
    }

    #[tokio::test]
    async fn thousands_are_cheap_and_nothing_stays_behind() {
        const MANY: usize = 50_000;
        let revocations = Revocations::default();
        let ids: Vec<String> = (0..MANY).map(|number| format!("token{number}")).collect();
        let begun = Instant::now();
        let watches: Vec<Watch> = ids.iter().map(|id| revocations.watch(id)).collect();
        let again: Vec<Watch> = ids.iter().map(|id| revocations.watch(id)).collect();
        assert_eq!(revocations.watched(), MANY);
        drop(again);
        assert_eq!(revocations.watched(), MANY);
        revocations.revoke(&ids[..MANY / 2]);
        assert_eq!(watches.iter().filter(|watch| watch.is_revoked()).count(), MANY / 2);
        drop(watches);
        assert_eq!(revocations.watched(), 0);
        assert!(revocations.lock().watched.capacity() < 2048);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let revocations = Revocations::default();
        let ids: Vec<String> = (0..MOST_REMEMBERED + 10).map(|number| number.to_string()).collect();
        revocations.revoke(&ids);
        let state = revocations.lock();
        assert_eq!(state.recent.len(), MOST_REMEMBERED);
        assert_eq!(state.order.len(), MOST_REMEMBERED);
    }

    #[tokio::test]
    async fn a_watcher_that_is_dropped_while_told_does_no_harm() {
        let revocations = Revocations::default();
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let watch = revocations.watch("a");
                tokio::spawn(async move { watch.revoked().await })
            })
            .collect();
        revocations.revoke(&["a"]);
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
        }
        assert_eq!(revocations.watched(), 0);
    }
}
