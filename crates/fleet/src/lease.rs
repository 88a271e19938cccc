//! A hold on a running builder.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::control::{self, Watch};
use crate::error::FleetError;
use crate::process::{Purpose, Running};
use crate::spec::Clamped;

/// A hold on the running builder of one project. As long as one is held, the builder is not ended for being idle.
#[derive(Debug)]
pub struct Lease {
    running: Arc<Running>,
    purpose: Purpose,
    timing: Timing,
}

/// What it took to have a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// How long it waited for a place for its builder.
    pub queued: Duration,
    /// How long the builder took to start, if it was started for this lease.
    pub started: Option<Duration>,
}

impl Lease {
    /// Of a builder that was held for this purpose.
    pub(crate) fn new(running: Arc<Running>, purpose: Purpose) -> Self {
        Self { running, purpose, timing: Timing::default() }
    }

    pub(crate) fn queued(mut self, queued: Duration) -> Self {
        self.timing.queued = queued;
        self
    }

    pub(crate) fn started(mut self, took: Duration) -> Self {
        self.timing.started = Some(took);
        self
    }

    /// What it took to have it.
    #[must_use]
    pub const fn timing(&self) -> Timing {
        self.timing
    }

    /// The project's id.
    #[must_use]
    pub fn project(&self) -> &str {
        self.running.project()
    }

    /// What the project was not given, because the machine does not have it.
    #[must_use]
    pub fn clamped(&self) -> Option<Clamped> {
        self.running.clamped()
    }

    /// Process id of the builder's supervisor.
    #[must_use]
    pub fn supervisor(&self) -> u32 {
        self.running.supervisor()
    }

    /// A byte stream to the builder, which serves BuildKit's API on it and takes everything that comes for part of `build`.
    ///
    /// # Errors
    /// The builder is gone, or the id makes no sense.
    pub async fn connect(&self, build: &str) -> Result<UnixStream, FleetError> {
        self.running.or_end(control::connect(self.running.run(), build).await).await
    }

    /// Everything that happens in `build`, from its beginning. Returns when the builder knows of the build, so that nothing that
    /// is sent to it later can be missed. The stream ends when the build is closed and all its solves have ended; an error means
    /// that the rest is lost with the builder.
    ///
    /// # Errors
    /// The builder is gone, or the id makes no sense.
    pub async fn watch(&self, build: &str) -> Result<Watch, FleetError> {
        // First: the builder may say something of it at once.
        self.running.given().begin(build);
        self.running.or_end(control::watch(self.running.run(), build).await).await
    }

    /// Ends every solve of `build`, whose clients read `reason`, and refuses further ones.
    ///
    /// # Errors
    /// The builder is gone: nothing of the build runs then either.
    pub async fn cancel(&self, build: &str, reason: &str) -> Result<(), FleetError> {
        self.running.or_end(self.running.control().cancel(build, reason).await).await
    }

    /// Lets `build` take no more solves. Its watchers get the rest and then the end.
    ///
    /// # Errors
    /// The builder is gone.
    pub async fn close(&self, build: &str) -> Result<(), FleetError> {
        let closed = self.running.control().close(build).await;
        self.running.given().end(build);
        self.running.or_end(closed).await
    }

    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Bytes of disk that the builder's root takes, as the builder sees it.
    ///
    /// # Errors
    /// The builder is gone.
    pub async fn usage(&self) -> Result<u64, FleetError> {
        self.running.or_end(self.running.usage().await).await
    }

    /// Removes what was used longest ago and no build uses, until the root takes no more than `max_bytes` and nothing is left
    /// that was not used for `unused_for`. Gives the bytes that became free.
    pub(crate) async fn collect(
        &self,
        max_bytes: Option<u64>,
        unused_for: Option<Duration>,
    ) -> Result<u64, FleetError> {
        let collected = self.running.control().collect(max_bytes, unused_for).await;
        self.running.or_end(collected).await
    }

    /// Resolves when the builder's process is gone and cleaned up after, with the reason. Does not hold the lease.
    pub fn ended(&self) -> impl Future<Output = String> + Send + 'static {
        self.running.ended()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.running.release(self.purpose);
    }
}
