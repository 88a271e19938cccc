//! Turns: work on the same content is done by one task while others wait for it.
//!
//! Two images often share layers, and two platforms of one build nearly always do. Never hold two
//! turns at once: tasks that take them in different orders would wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cofferdam_digest::Digest;
use tokio::sync::OwnedMutexGuard;

/// Who works on what.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until nobody else holds the turn for `key`; it ends when the guard is dropped.
    pub(crate) async fn take(&self, key: Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&key).and_then(Weak::upgrade);
            let turn = known.unwrap_or_default();
            turns.insert(key, Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_each_key() {
        let turns = Turns::default();
        let (one, two) = (Digest::of("one"), Digest::of("two"));
        let held = turns.take(one).await;
        let _other = turns.take(two).await;
        let mut waiting = Box::pin(turns.take(one));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(held);
        let _held = waiting.await;
    }
}
