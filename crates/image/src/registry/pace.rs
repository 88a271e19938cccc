//! How slow a registry may be with the content of a request or of an answer.
//!
//! A size says nothing of how long a transfer takes, so no transfer as a whole is bounded: what is bounded is the time in which the
//! registry does next to nothing. Must never count the time that our own side takes, be it a slow disk or another registry.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::time::Instant;

/// Least speed of an answer's content, in bytes a second.
const FLOOR: u128 = 1000;
/// Bytes handed to a connection at a time: of a larger piece one could not see that it goes out.
const PIECE: usize = 64 << 10;

/// The registry let a request wait.
pub(super) const NO_ANSWER: &str = "no answer came";
/// The registry sent too little.
pub(super) const HARDLY_SENT: &str = "next to nothing of the content came";
/// The registry read nothing.
const NOT_TAKEN: &str = "nothing of the content was taken";

/// Less came than the least speed asks for.
#[derive(Debug)]
pub(super) struct TooSlow;

/// Holds the content of answers to the least speed, measured over windows of time spent waiting.
pub(super) struct Pace {
    window: Duration,
    /// Of the current window.
    left: Duration,
    /// In the current window.
    bytes: u128,
    missed: u32,
}

impl Pace {
    /// Windows of the given length.
    pub(super) const fn new(window: Duration) -> Self {
        Self { window, left: window, bytes: 0, missed: 0 }
    }

    /// The next bytes of `body`, or the end of a window in which there were too few.
    pub(super) async fn next<S>(
        &mut self,
        body: &mut S,
    ) -> Result<Option<reqwest::Result<Bytes>>, TooSlow>
    where
        S: Stream<Item = reqwest::Result<Bytes>> + Unpin,
    {
        let started = Instant::now();
        let came = tokio::time::timeout(self.left, body.next()).await;
        self.left = self.left.saturating_sub(started.elapsed());
        let Ok(chunk) = came else {
            self.restart();
            self.missed += 1;
            return Err(TooSlow);
        };
        if let Some(Ok(bytes)) = &chunk {
            self.bytes += bytes.len() as u128;
            if self.bytes >= self.window.as_millis() * FLOOR / 1000 {
                self.restart();
                self.missed = 0;
            }
        }
        Ok(chunk)
    }

    /// How many windows in a row brought too little.
    pub(super) const fn missed(&self) -> u32 {
        self.missed
    }

    const fn restart(&mut self) {
        self.left = self.window;
        self.bytes = 0;
    }
}

/// What an upload waits for.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// For the connection, to take what was offered and ask for more.
    Offered,
    /// For us: the connection asks for more.
    Asked,
    /// For the answer.
    Over,
}

/// How far one attempt of an upload has come.
pub(super) struct Progress {
    state: Mutex<(Phase, Instant)>,
}

impl Progress {
    /// An attempt that begins now.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((Phase::Offered, Instant::now())) })
    }

    /// There is nothing to upload, or nothing more.
    pub(super) fn finish(&self) {
        self.enter(Phase::Over);
    }

    /// `body`, which has `length` bytes, such that its way out is seen here.
    pub(super) fn watch(
        self: &Arc<Self>,
        body: BoxStream<'static, io::Result<Bytes>>,
        length: u64,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        let start = (Arc::clone(self), body, Bytes::new(), length);
        stream::try_unfold(start, |(progress, mut body, mut rest, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            if rest.is_empty() {
                progress.enter(Phase::Asked);
                match body.try_next().await? {
                    Some(chunk) => rest = chunk,
                    None => {
                        progress.finish();
                        return Ok(None);
                    }
                }
            }
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = rest.split_to(rest.len().min(most));
            let left = left.saturating_sub(piece.len() as u64);
            progress.enter(if left == 0 { Phase::Over } else { Phase::Offered });
            Ok(Some((piece, (progress, body, rest, left))))
        })
        .boxed()
    }

    /// Returns when the registry has taken nothing for `silence`, or has taken everything and not
    /// answered for `answer`: what it did not do, and for how long.
    pub(super) async fn stalled(
        &self,
        silence: Duration,
        answer: Duration,
    ) -> (&'static str, Duration) {
        loop {
            let (phase, since) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (reason, limit) = match phase {
                Phase::Offered | Phase::Asked => (NOT_TAKEN, silence),
                Phase::Over => (NO_ANSWER, answer),
            };
            let left = match phase {
                Phase::Asked => limit,
                Phase::Offered | Phase::Over => limit.saturating_sub(since.elapsed()),
            };
            if left.is_zero() {
                return (reason, limit);
            }
            tokio::time::sleep(left).await;
        }
    }

    fn enter(&self, phase: Phase) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn content_is_handed_over_in_small_pieces_and_ends() {
        let progress = Progress::new();
        let content = Bytes::from(vec![7; 3 * PIECE + 1]);
        let source = content.clone();
        let body = stream::once(async move { Ok::<_, io::Error>(source) }).boxed();
        let pieces: Vec<Bytes> =
            progress.watch(body, content.len() as u64).try_collect().await.unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE, PIECE, PIECE, 1]);
        let whole: Vec<u8> = pieces.concat();
        assert_eq!(whole, content);
        let (reason, limit) = progress.stalled(SECOND, Duration::ZERO).await;
        assert_eq!((reason, limit), (NO_ANSWER, Duration::ZERO));
    }

    /// What is said within ten times the limit.
    async fn said(progress: &Progress, limit: Duration) -> Option<(&'static str, Duration)> {
        tokio::time::timeout(10 * limit, progress.stalled(limit, limit)).await.ok()
    }

    #[tokio::test]
    async fn our_own_slowness_is_not_the_registrys() {
        let progress = Progress::new();
        let limit = Duration::from_millis(20);
        assert_eq!(said(&progress, limit).await, Some((NOT_TAKEN, limit)));
        let mut body = progress.watch(stream::pending::<io::Result<Bytes>>().boxed(), 1);
        assert!(futures::poll!(body.next()).is_pending());
        assert_eq!(said(&progress, limit).await, None, "the body, not the registry, is slow");
    }

    #[tokio::test]
    async fn a_window_that_brings_enough_begins_anew() {
        let mut pace = Pace::new(Duration::from_millis(50));
        let mut silent = stream::pending::<reqwest::Result<Bytes>>();
        assert!(pace.next(&mut silent).await.is_err());
        assert!(pace.next(&mut silent).await.is_err());
        assert_eq!(pace.missed(), 2);
        let piece =
            |length: usize| stream::iter([Ok::<_, reqwest::Error>(Bytes::from(vec![0; length]))]);
        assert!(matches!(pace.next(&mut piece(49)).await, Ok(Some(Ok(_)))));
        assert_eq!(pace.missed(), 2);
        assert!(matches!(pace.next(&mut piece(1)).await, Ok(Some(Ok(_)))));
        assert_eq!(pace.missed(), 0);
    }
}
