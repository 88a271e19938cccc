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
/// Caches that are remembered; of more the ones that were noted first are believed again.
const MAX_CACHES: usize = 1000;

/// Where a cache is from, and the digest of what lists its layers: the same list may be right elsewhere.
type Name = (String, Digest);

/// Caches that are left out.
#[derive(Default)]
pub(crate) struct Spoilt(Mutex<HashMap<Name, Instant>>);

impl Spoilt {
    /// Leaves a cache out from now on.
    pub(crate) fn note(&self, source: &str, cache: Digest) {
        self.note_at(source, cache, Instant::now());
    }

    /// Whether a cache is left out now.
    pub(crate) fn knows(&self, source: &str, cache: Digest) -> bool {
        let caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches.get(&(source.to_owned(), cache)).is_some_and(|noted| noted.elapsed() < LEFT_OUT)
    }

    fn note_at(&self, source: &str, cache: Digest, now: Instant) {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|_, noted| now.saturating_duration_since(*noted) < LEFT_OUT);
        caches.insert((source.to_owned(), cache), now);
        if caches.len() > MAX_CACHES {
            let oldest = caches.iter().min_by_key(|(_, noted)| **noted);
            let oldest = oldest.map(|(name, _)| name.clone());
            if let Some(name) = oldest {
                caches.remove(&name);
            }
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
        assert!(!spoilt.knows("here", cache));
        spoilt.note("here", cache);
        assert!(spoilt.knows("here", cache) && !spoilt.knows("here", Digest::of("other")));
        assert!(!spoilt.knows("elsewhere", cache), "there it may be right");
        let last = 2 * MAX_CACHES;
        for number in 0..=last {
            spoilt.note("here", Digest::of(number.to_string()));
        }
        assert!(spoilt.knows("here", Digest::of(last.to_string())));
        assert!(!spoilt.knows("here", cache), "it was the oldest");
        let count = || spoilt.0.lock().map_or(0, |caches| caches.len());
        assert_eq!(count(), MAX_CACHES);
        spoilt.note_at("here", Digest::of("later"), Instant::now() + LEFT_OUT);
        assert_eq!(count(), 1);
    }
}
