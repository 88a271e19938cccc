//! What a builder writes to its standard error: kept a little of, passed on to the server's log, never believed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio_util::sync::CancellationToken;

/// Longest line that is passed on; the rest of it is dropped.
const MAX_LINE: usize = 2048;
/// Lines kept for the report of a builder that ended badly.
const KEPT_LINES: usize = 20;

/// How long the last words of a process that has ended may be on their way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The last messages of a builder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Messages {
    kept: Arc<Mutex<VecDeque<String>>>,
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
        let text = readable(line);
        line.clear();
        if text.is_empty() {
            return;
        }
        tracing::info!(project, "builder: {text}");
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

/// A line as it can be shown: names of steps may hold anything, escape sequences of terminals for example.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(readable(b"a\x1b[2Jb\r"), "a [2Jb");
        assert_eq!(readable(b"\xff"), "\u{fffd}");
    }

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
}
