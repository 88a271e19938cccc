//! Builds that run at once: who comes later waits, in order, and sees that.
//!
//! A build of a server may consist of many solves, which count as one and share its limits. Must never be waited for while
//! something is held that a running build could want.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use cofferdam_digest::Digest;
use cofferdam_solver::{Job, LogStream, Places};
use connectrpc::ErrorCode;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;
use crate::failure::Failure;
use crate::op::exec_limits::human_time;
use crate::runtime::OpRuntime;

/// What the wait is called in the client's progress.
const WAITING: &str = "waiting for other builds";

/// Room for builds.
pub(crate) struct Admission {
    most: usize,
    room: Option<Arc<Semaphore>>,
}

/// What the solves of one build have together.
#[derive(Default)]
pub(crate) struct Share {
    places: OnceLock<Places>,
    begun: OnceLock<Instant>,
    /// The build's place; its solves hold it, so that it is free when none runs.
    place: Mutex<Weak<OwnedSemaphorePermit>>,
}

impl Admission {
    /// Room for as many builds as `limits` say.
    pub(crate) fn new(limits: &Limits) -> Self {
        let most = limits.most_builds().map(|most| most.clamp(1, Semaphore::MAX_PERMITS));
        Self { most: most.unwrap_or(0), room: most.map(|most| Arc::new(Semaphore::new(most))) }
    }

    /// Waits for a place for the build that `job` is part of. It is free again when no solve of the build holds it any more.
    pub(crate) async fn enter(
        &self,
        share: &Share,
        job: &Job<OpRuntime>,
    ) -> Result<Option<Arc<OwnedSemaphorePermit>>, Failure> {
        let Some(room) = &self.room else { return Ok(None) };
        // Solves of a build that waits wait for the one that came first.
        let mut place = share.place.lock().await;
        if let Some(held) = place.upgrade() {
            return Ok(Some(held));
        }
        let taken = match Arc::clone(room).try_acquire_owned() {
            Ok(taken) => taken,
            Err(_) => {
                let log = job.vertex(Digest::of(format!("{}-turn", job.id())), WAITING);
                let most = self.most;
                let message = format!(
                    "this builder runs at most {most} builds at once (limits.builds); this one begins when another ends\n"
                );
                let turn = async {
                    log.log(LogStream::Stderr, message);
                    Arc::clone(room).acquire_owned().await.map_err(Failure::of)
                };
                log.track(turn).await?
            }
        };
        let taken = Arc::new(taken);
        *place = Arc::downgrade(&taken);
        Ok(Some(taken))
    }
}

impl Share {
    /// Where the build's steps find room.
    pub(crate) fn places(&self, limits: &Limits) -> Places {
        self.places.get_or_init(|| Places::new(limits.build_steps())).clone()
    }

    /// Does work of the build, as long as its time has not passed. That begins with its first work.
    pub(crate) async fn in_time<T>(
        &self,
        limit: Option<Duration>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let begun = *self.begun.get_or_init(Instant::now);
        let Some(time) = limit else { return work.await };
        let left = time.saturating_sub(begun.elapsed());
        tokio::time::timeout(left, work).await.unwrap_or_else(|_| {
            let time = human_time(time);
            let message =
                format!("the build was ended: it ran longer than {time} (limits.build.time)");
            Err(Failure::new(ErrorCode::DeadlineExceeded, message))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn time_is_counted_from_the_first_work() {
        let share = Share::default();
        let short = Some(Duration::from_millis(50));
        share.in_time(short, async { Ok(()) }).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let late = share.in_time(short, std::future::pending::<Result<(), Failure>>()).await;
        let late = late.unwrap_err();
        assert_eq!(late.code(), ErrorCode::DeadlineExceeded);
        assert!(late.message().contains("50ms (limits.build.time)"), "{}", late.message());
        share.in_time(None, async { Ok(()) }).await.unwrap();
    }
}
