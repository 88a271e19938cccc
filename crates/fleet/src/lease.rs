//! A hold on a running builder.

use std::sync::Arc;

use tokio::net::UnixStream;

use crate::control::{self, Watch};
use crate::error::FleetError;
use crate::process::Running;
use crate::spec::Clamped;

/// A hold on the running builder of one project. As long as one is held, the builder is not ended for being idle.
#[derive(Debug)]
pub struct Lease {
    running: Arc<Running>,
}

impl Lease {
    pub(crate) fn new(running: Arc<Running>) -> Self {
        Self { running }
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
        self.running.or_end(self.running.control().close(build).await).await
    }

    /// Bytes of the project's cache.
    ///
    /// # Errors
    /// The builder is gone.
    pub async fn usage(&self) -> Result<u64, FleetError> {
        self.running.or_end(self.running.usage().await).await
    }

    /// Resolves when the builder's process is gone and cleaned up after, with the reason. Does not hold the lease.
    pub fn ended(&self) -> impl Future<Output = String> + Send + 'static {
        self.running.ended()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.running.release();
    }
}
