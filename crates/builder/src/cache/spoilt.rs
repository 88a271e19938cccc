//! Imported caches that turned out to hold other layers than they say.
//!
//! Layers of a cache are fetched when somebody reads them, which may be long after the cache decided that a step
//! need not run. A wrong one fails that build; the next one must not fail at the same place. So the cache is left out
//! for a while, as if it were not there. Must never decide whether bytes are right.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_digest::Digest;

/// How long a cache is left out. Whoever mended it in place waits that long at most; one that was exported again has
/// another digest as a rule.
const LEFT_OUT: Duration = Duration::from_secs(60 * 60);
/// Caches that are remembered; more are believed again.
const MAX_CACHES: usize = 1000;

/// Caches that are left out, by digests of what lists their layers.
#[derive(Default)]
pub(crate) struct Spoilt(Mutex<HashMap<Digest, Instant>>);

impl Spoilt {
    /// Leaves a cache out from now on.
    pub(crate) fn note(&self, cache: Digest) {
        self.note_at(cache, Instant::now());
    }

    /// Whether a cache is left out now.
    pub(crate) fn knows(&self, cache: &Digest) -> bool {
        let caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches.get(cache).is_some_and(|noted| noted.elapsed() < LEFT_OUT)
    }

    fn note_at(&self, cache: Digest, now: Instant) {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|_, noted| now.saturating_duration_since(*noted) < LEFT_OUT);
        if caches.len() < MAX_CACHES {
            caches.insert(cache, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_left_out_for_a_while_and_few_are_remembered() {
        let spoilt = Spoilt::default();
        let cache = Digest::of("cache");
        assert!(!spoilt.knows(&cache));
        spoilt.note(cache);
        assert!(spoilt.knows(&cache) && !spoilt.knows(&Digest::of("other")));
        for number in 0..2 * MAX_CACHES {
            spoilt.note(Digest::of(number.to_string()));
        }
        let count = || spoilt.0.lock().map_or(0, |caches| caches.len());
        assert_eq!(count(), MAX_CACHES);
        spoilt.note_at(Digest::of("later"), Instant::now() + LEFT_OUT);
        assert_eq!(count(), 1);
    }
}
