//! What a builder writes to its standard error: kept a little of, passed on to the server's log, never believed.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio_util::sync::CancellationToken;

use crate::said::Said;

/// Longest line that is read; the rest of it is dropped.
const MAX_LINE: usize = 8192;
/// Lines kept for the report of a builder that ended badly.
const KEPT_LINES: usize = 20;

/// Builds that have ended of which a builder may still speak: what it said last is on its way.
const ENDED_BUILDS: usize = 1000;

/// How long the last words of a process that has ended may be on their way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The builds that a builder was given. Of others it has nothing to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(Arc<Mutex<Ids>>);

#[derive(Debug, Default)]
struct Ids {
    known: HashSet<String>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<String>,
}

impl Given {
    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build begins.
    pub(crate) fn begin(&self, build: &str) {
        self.ids().known.insert(build.to_owned());
    }

    /// A build has ended.
    pub(crate) fn end(&self, build: &str) {
        let mut ids = self.ids();
        if !ids.known.contains(build) || ids.ended.iter().any(|ended| ended == build) {
            return;
        }
        ids.ended.push_back(build.to_owned());
        if ids.ended.len() > ENDED_BUILDS
            && let Some(oldest) = ids.ended.pop_front()
        {
            ids.known.remove(&oldest);
        }
    }

    fn contains(&self, build: &str) -> bool {
        self.ids().known.contains(build)
    }
}

/// The last messages of a builder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Messages {
    kept: Arc<Mutex<VecDeque<String>>>,
    given: Given,
    closed: CancellationToken,
}

impl Messages {
    /// Reads a builder's messages until it has closed them.
    pub(crate) fn read(stream: Option<ChildStderr>, project: &str) -> Self {
        let messages = Self::default();
        if let Some(stream) = stream {
            let follow = messages.clone().follow(stream, project.to_owned());
            let closed = messages.closed.clone().drop_guard();
            tokio::spawn(async move {
                let _closed = closed;
                follow.await;
            });
        }
        messages
    }

    /// The builds that it may speak of.
    pub(crate) fn given(&self) -> Given {
        self.given.clone()
    }

    async fn follow(self, mut stream: ChildStderr, project: String) {
        let mut buffer = vec![0; 8192];
        let mut line = Vec::new();
        while let Ok(length) = stream.read(&mut buffer).await {
            for &byte in &buffer[..length] {
                match byte {
                    b'\n' => self.take(&mut line, &project),
                    _ if line.len() < MAX_LINE => line.push(byte),
                    _ => {}
                }
            }
            if length == 0 {
                break;
            }
        }
        self.take(&mut line, &project);
    }

    fn take(&self, line: &mut Vec<u8>, project: &str) {
        let said = Said::in_line(line);
        line.clear();
        if said.text.is_empty() {
            return;
        }
        let Said { text, build, step } = said;
        let build = build.filter(|build| self.given.contains(build));
        // As a value: no text of a builder's looks like one of the server's own.
        tracing::info!(project, build, step, said = text, "a builder says");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
    }

    /// Waits until nobody can write any more: all of a builder's processes but its steps, which end with it, hold the other end.
    pub(crate) async fn end(&self) {
        tokio::time::timeout(LAST_WORDS, self.closed.cancelled()).await.ok();
    }

    /// The last messages, as one text.
    pub(crate) fn last(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept() {
        let messages = Messages::default();
        for number in 0..50 {
            messages.take(&mut format!("line {number}").into_bytes(), "p");
        }
        let last = messages.last();
        assert_eq!(last.lines().count(), KEPT_LINES);
        assert!(last.ends_with("line 49"));
    }

    #[test]
    fn a_builder_speaks_of_its_own_builds_only() {
        let given = Given::default();
        given.begin("b");
        given.end("other");
        assert!(given.contains("b") && !given.contains("other"));
        given.end("b");
        given.end("b");
        assert!(given.contains("b"), "its last words are on their way");
        for number in 0..ENDED_BUILDS {
            given.begin(&number.to_string());
            given.end(&number.to_string());
        }
        assert!(!given.contains("b") && given.contains("0"));
        assert_eq!(given.ids().known.len(), ENDED_BUILDS);
    }
}
