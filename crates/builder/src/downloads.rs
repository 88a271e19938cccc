//! Downloads between the computation of their key and their use.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cofferdam_store::Blob;

/// Most downloads that wait for their use at once; more are simply downloaded again.
const MAX_WAITING: usize = 64;

type Waiting = (Blob, Option<i64>, String);

/// Pins downloads whose vertex is about to run.
#[derive(Default)]
pub(crate) struct Downloads(Mutex<HashMap<String, Waiting>>);

impl Downloads {
    /// Keeps a download until it is taken.
    pub(crate) fn keep(&self, url: &str, blob: Blob, modified: Option<i64>, name: String) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            waiting.clear();
        }
        waiting.insert(url.to_owned(), (blob, modified, name));
    }

    /// Takes a download.
    pub(crate) fn take(&self, url: &str) -> Option<Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(url)
    }
}
